//! The sidecar and its volumes, as JSON. Addresses that ports and probes rely on are passed as
//! flags, so the configuration file cannot change them.
use super::environment::Variables;
use super::json::{list, name};
use super::settings::{SidecarSettings, is_object_name};
use crate::kubernetes::names::{
    CONFIG_KEY, CONTAINER, CSI_DRIVER, METRICS_PORT, METRICS_PORT_NAME, OUTBOUND_PORT, UID, VOLUME_ADMIN,
    VOLUME_CONFIG, VOLUME_NO_TOKEN, VOLUME_SECRETS, VOLUME_WORKLOAD_API,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const CONFIG_DIRECTORY: &str = "/etc/idjag-proxy/config";
/// The configuration file refers to the Secret's files as `../secrets/NAME`.
const SECRETS_DIRECTORY: &str = "/etc/idjag-proxy/secrets";
const ADMIN_DIRECTORY: &str = "/run/idjag-proxy";
const WORKLOAD_API_DIRECTORY: &str = "/spiffe-workload-api";
/// The directory of the pod's service account token, which an empty volume hides from the sidecar.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long the startup probe waits, in seconds: a pod that waits for its identity is not restarted
/// within this time.
const STARTUP_SECONDS: u32 = 600;

/// A volume's mount in the sidecar.
struct Mount {
    volume: &'static str,
    path: &'static str,
    access: Access,
}

const MOUNTS: [Mount; 5] = [
    Mount { volume: VOLUME_CONFIG, path: CONFIG_DIRECTORY, access: Access::Read },
    Mount { volume: VOLUME_SECRETS, path: SECRETS_DIRECTORY, access: Access::Read },
    Mount { volume: VOLUME_ADMIN, path: ADMIN_DIRECTORY, access: Access::Write },
    Mount { volume: VOLUME_WORKLOAD_API, path: WORKLOAD_API_DIRECTORY, access: Access::Read },
    Mount { volume: VOLUME_NO_TOKEN, path: TOKEN_DIRECTORY, access: Access::Read },
];

#[derive(PartialEq)]
enum Access {
    Read,
    Write,
}

impl Mount {
    fn json(&self) -> Value {
        let mut mount = json!({"name": self.volume, "mountPath": self.path});
        if self.access == Access::Read {
            mount["readOnly"] = true.into();
        }
        mount
    }
}

/// Makes the container, which starts before the agent's containers and ends after them.
pub(super) fn container(settings: &SidecarSettings) -> Value {
    let mut container = json!({
        "name": CONTAINER,
        "image": settings.image,
        "restartPolicy": "Always",
        "args": arguments(settings),
        "ports": [{"name": METRICS_PORT_NAME, "containerPort": METRICS_PORT, "protocol": "TCP"}],
        "startupProbe": probe("/startupz", 1, STARTUP_SECONDS),
        "readinessProbe": probe("/readyz", 5, 1),
        "livenessProbe": probe("/livez", 10, 6),
        "resources": settings.resources.json(),
        "securityContext": {
            "runAsUser": UID,
            "runAsGroup": UID,
            "runAsNonRoot": true,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": MOUNTS.iter().map(Mount::json).collect::<Vec<_>>(),
    });
    if let Some(policy) = settings.image_pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    container
}

fn arguments(settings: &SidecarSettings) -> Vec<String> {
    let mut arguments = fixed_arguments().to_vec();
    arguments.push(format!("{SOCKET_FLAG}{}", settings.socket.file()));
    if let Some(level) = settings.log_level {
        arguments.push(format!("{LEVEL_FLAG}{}", level.as_str()));
    }
    arguments
}

/// The first arguments of every sidecar. A later version adds its arguments after these, so that
/// [`recognize`] still knows the pods of earlier versions.
fn fixed_arguments() -> [String; 6] {
    [
        "run".to_owned(),
        format!("{CONFIG_DIRECTORY}/{CONFIG_KEY}"),
        format!("--listen-outbound=127.0.0.1:{OUTBOUND_PORT}"),
        format!("--listen-outbound=[::1]:{OUTBOUND_PORT}"),
        format!("--listen-metrics=[::]:{METRICS_PORT}"),
        format!("--admin={ADMIN_DIRECTORY}/admin.sock"),
    ]
}

const SOCKET_FLAG: &str = "--workload-api-socket=unix:///spiffe-workload-api/";
const LEVEL_FLAG: &str = "--log-level=";

fn probe(path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": METRICS_PORT_NAME},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": if period > 1 { 2 } else { 1 },
    })
}

/// Makes the sidecar's volumes, in the order of [`crate::kubernetes::names::VOLUMES`].
pub(super) fn volumes(settings: &SidecarSettings) -> [Value; 5] {
    [
        json!({"name": VOLUME_CONFIG, "configMap": {"name": settings.config}}),
        json!({"name": VOLUME_SECRETS, "secret": {"secretName": settings.config, "optional": true}}),
        json!({"name": VOLUME_ADMIN, "emptyDir": {}}),
        settings.socket.volume(),
        json!({"name": VOLUME_NO_TOKEN, "emptyDir": {}}),
    ]
}

/// The properties of an existing sidecar that matter once it is known to be ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExistingSidecar<'s> {
    /// The name of the `ConfigMap` and of the Secret.
    pub(super) config: &'s str,
    /// The directory of the node that contains its socket, if it comes from one.
    pub(super) directory: Option<&'s str>,
}

/// Checks that the init container `container` is our sidecar, injected by this or an earlier
/// version or copied by hand. The pod's label does not prove it, because the pod's author sets it.
/// What another webhook may change (image, resources, probes, further mounts) is not compared.
///
/// # Errors
/// How the container or its volumes differ from what we write.
pub(super) fn recognize<'s>(container: &Value, spec: &'s Value) -> Result<ExistingSidecar<'s>, &'static str> {
    let is = |pointer: &str, value: Value| container.pointer(pointer) == Some(&value);
    if !is("/restartPolicy", "Always".into()) {
        return Err("its restartPolicy is not Always");
    }
    if !is("/securityContext/runAsUser", UID.into()) {
        return Err("it runs as another user");
    }
    if is("/securityContext/privileged", true.into()) {
        return Err("it is privileged");
    }
    if list(container, "command").next().is_some() {
        return Err("it has a command");
    }
    let arguments: Vec<&str> = list(container, "args").map(|argument| argument.as_str().unwrap_or_default()).collect();
    let (fixed, further) = arguments.split_at_checked(fixed_arguments().len()).unwrap_or_default();
    let is_known = |argument: &&str| argument.starts_with(SOCKET_FLAG) || argument.starts_with(LEVEL_FLAG);
    if fixed != fixed_arguments() || !further.iter().all(is_known) {
        return Err("its args differ");
    }
    for Mount { volume, path, .. } in MOUNTS {
        let is_it = |mount: &Value| name(mount) == volume && mount.get("mountPath").is_some_and(|at| at == path);
        if !list(container, "volumeMounts").any(is_it) {
            return Err("its volumeMounts differ");
        }
    }
    recognize_volumes(spec).ok_or("its volumes differ")
}

fn recognize_volumes(spec: &Value) -> Option<ExistingSidecar<'_>> {
    let volume = |wanted: &str| list(spec, "volumes").find(|volume| name(volume) == wanted);
    let text = |wanted: &str, pointer: &str| volume(wanted)?.pointer(pointer)?.as_str();
    let config = text(VOLUME_CONFIG, "/configMap/name")?;
    let secret = text(VOLUME_SECRETS, "/secret/secretName")?;
    let are_empty =
        [VOLUME_ADMIN, VOLUME_NO_TOKEN].iter().all(|name| volume(name).is_some_and(|v| v.get("emptyDir").is_some()));
    let directory = text(VOLUME_WORKLOAD_API, "/hostPath/path");
    let is_csi = text(VOLUME_WORKLOAD_API, "/csi/driver") == Some(CSI_DRIVER);
    let is_ours = config == secret && is_object_name(config) && are_empty && (is_csi || directory.is_some());
    is_ours.then_some(ExistingSidecar { config, directory })
}

/// Makes the value of the status annotation.
pub(super) fn status(settings: &SidecarSettings, variables: &BTreeMap<String, Variables>) -> String {
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "image": settings.image,
        "config": settings.config,
        "socket": settings.socket.to_string(),
    });
    if !variables.is_empty() {
        status[VARIABLES] = json!(variables);
    }
    status.to_string()
}

/// The key of the status that records the variables set in the agent's containers.
pub(super) const VARIABLES: &str = "variables";

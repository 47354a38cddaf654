//! The sidecar and its volumes, as JSON. What stands in ports and probes is passed as flags, so that it holds whatever the
//! configuration file says.
use super::environment::Variables;
use super::hazard::{list, name};
use super::settings::{Settings, is_object_name};
use crate::kubernetes::names::{
    CONFIG_KEY, CONTAINER, CSI_DRIVER, METRICS_PORT, METRICS_PORT_NAME, OUTBOUND_PORT, UID, VOLUME_ADMIN,
    VOLUME_CONFIG, VOLUME_NO_TOKEN, VOLUME_SECRETS, VOLUME_WORKLOAD_API,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const CONFIG_DIRECTORY: &str = "/etc/idjag-proxy/config";
/// The file of the `ConfigMap` says `../secrets/NAME`.
const SECRETS_DIRECTORY: &str = "/etc/idjag-proxy/secrets";
const ADMIN_DIRECTORY: &str = "/run/idjag-proxy";
const WORKLOAD_API_DIRECTORY: &str = "/spiffe-workload-api";
/// Where Kubernetes puts the token of the pod's service account, which an empty volume hides from the sidecar.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// In seconds; until then a pod without an identity waits, and is not restarted over it.
const STARTUP: u32 = 600;

const MOUNTS: [(&str, &str, Access); 5] = [
    (VOLUME_CONFIG, CONFIG_DIRECTORY, Access::Read),
    (VOLUME_SECRETS, SECRETS_DIRECTORY, Access::Read),
    (VOLUME_ADMIN, ADMIN_DIRECTORY, Access::Write),
    (VOLUME_WORKLOAD_API, WORKLOAD_API_DIRECTORY, Access::Read),
    (VOLUME_NO_TOKEN, TOKEN_DIRECTORY, Access::Read),
];

#[derive(Clone, Copy, PartialEq)]
enum Access {
    Read,
    Write,
}

fn mount((volume, path, access): (&str, &str, Access)) -> Value {
    let mut mount = json!({"name": volume, "mountPath": path});
    if access == Access::Read {
        mount["readOnly"] = true.into();
    }
    mount
}

/// A container that starts before the agent's and ends after them.
pub(super) fn container(settings: &Settings) -> Value {
    let mut container = json!({
        "name": CONTAINER,
        "image": settings.image,
        "restartPolicy": "Always",
        "args": arguments(settings),
        "ports": [{"name": METRICS_PORT_NAME, "containerPort": METRICS_PORT, "protocol": "TCP"}],
        "startupProbe": probe("/startupz", 1, STARTUP),
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
        "volumeMounts": MOUNTS.map(mount),
    });
    if let Some(policy) = settings.image_pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    container
}

fn arguments(settings: &Settings) -> Vec<String> {
    let mut arguments = fixed_arguments().to_vec();
    arguments.push(format!("{SOCKET_FLAG}{}", settings.socket.file()));
    if let Some(level) = settings.log_level {
        arguments.push(format!("{LEVEL_FLAG}{}", level.as_str()));
    }
    arguments
}

/// Those that every sidecar has. One that a later version adds belongs behind them, so that pods of earlier ones are still known.
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

/// In the order of [`crate::kubernetes::names::VOLUMES`].
pub(super) fn volumes(settings: &Settings) -> [Value; 5] {
    [
        json!({"name": VOLUME_CONFIG, "configMap": {"name": settings.config}}),
        json!({"name": VOLUME_SECRETS, "secret": {"secretName": settings.config, "optional": true}}),
        json!({"name": VOLUME_ADMIN, "emptyDir": {}}),
        settings.socket.volume(),
        json!({"name": VOLUME_NO_TOKEN, "emptyDir": {}}),
    ]
}

/// What of a sidecar that is there already counts, once it is known to be one that we wrote.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept<'s> {
    /// The `ConfigMap`, and the Secret of the same name.
    pub(super) config: &'s str,
    /// The directory of the node that its socket comes from.
    pub(super) directory: Option<&'s str>,
}

/// Whether the sidecar of this pod is one that we wrote: here or by hand, now or in an earlier version. A label alone is no proof, because
/// whoever writes the pod writes its labels. What another webhook may change (image, resources, probes, more mounts) is not looked at.
///
/// # Errors
/// What is not as we write it.
pub(super) fn kept(spec: &Value) -> Result<Kept<'_>, &'static str> {
    let container = list(spec, "initContainers").find(|container| name(container) == CONTAINER);
    let container = container.ok_or("there is none")?;
    let is = |pointer: &str, value: Value| container.pointer(pointer) == Some(&value);
    if !is("/restartPolicy", "Always".into()) {
        return Err("its restartPolicy is not Always");
    }
    if !is("/securityContext/runAsUser", UID.into()) {
        return Err("its user is another");
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
        return Err("its args are others");
    }
    for (volume, path, _) in MOUNTS {
        let is_it = |mount: &Value| name(mount) == volume && mount.get("mountPath").is_some_and(|at| at == path);
        if !list(container, "volumeMounts").any(is_it) {
            return Err("its volumeMounts are others");
        }
    }
    volumes_kept(spec).ok_or("its volumes are others")
}

fn volumes_kept(spec: &Value) -> Option<Kept<'_>> {
    let volume = |wanted: &str| list(spec, "volumes").find(|volume| name(volume) == wanted);
    let text = |wanted: &str, pointer: &str| volume(wanted)?.pointer(pointer)?.as_str();
    let config = text(VOLUME_CONFIG, "/configMap/name")?;
    let secret = text(VOLUME_SECRETS, "/secret/secretName")?;
    let are_empty =
        [VOLUME_ADMIN, VOLUME_NO_TOKEN].iter().all(|name| volume(name).is_some_and(|v| v.get("emptyDir").is_some()));
    let directory = text(VOLUME_WORKLOAD_API, "/hostPath/path");
    let is_csi = text(VOLUME_WORKLOAD_API, "/csi/driver") == Some(CSI_DRIVER);
    let is_ours = config == secret && is_object_name(config) && are_empty && (is_csi || directory.is_some());
    is_ours.then_some(Kept { config, directory })
}

/// The value of the status annotation.
pub(super) fn status(settings: &Settings, variables: &BTreeMap<String, Variables>) -> String {
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

/// In the status: what was set in the agent's containers.
pub(super) const VARIABLES: &str = "variables";

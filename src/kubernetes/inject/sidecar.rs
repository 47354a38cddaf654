//! The sidecar and its volumes, as JSON. What stands in ports and probes is passed as flags, so that it holds whatever the
//! configuration file says.
use super::settings::Settings;
use crate::kubernetes::names::{
    CONFIG_KEY, CONTAINER, METRICS_PORT, METRICS_PORT_NAME, OUTBOUND_PORT, UID, VOLUME_ADMIN, VOLUME_CONFIG,
    VOLUME_NO_TOKEN, VOLUME_SECRETS, VOLUME_WORKLOAD_API,
};
use serde_json::{Value, json};

const CONFIG_DIRECTORY: &str = "/etc/idjag-proxy/config";
/// The file of the `ConfigMap` says `../secrets/NAME`.
const SECRETS_DIRECTORY: &str = "/etc/idjag-proxy/secrets";
const ADMIN_DIRECTORY: &str = "/run/idjag-proxy";
const WORKLOAD_API_DIRECTORY: &str = "/spiffe-workload-api";
/// Where Kubernetes puts the token of the pod's service account, which an empty volume hides from the sidecar.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// In seconds; until then a pod without an identity waits, and is not restarted over it.
const STARTUP: u32 = 600;

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
        "volumeMounts": [
            {"name": VOLUME_CONFIG, "mountPath": CONFIG_DIRECTORY, "readOnly": true},
            {"name": VOLUME_SECRETS, "mountPath": SECRETS_DIRECTORY, "readOnly": true},
            {"name": VOLUME_ADMIN, "mountPath": ADMIN_DIRECTORY},
            {"name": VOLUME_WORKLOAD_API, "mountPath": WORKLOAD_API_DIRECTORY, "readOnly": true},
            {"name": VOLUME_NO_TOKEN, "mountPath": TOKEN_DIRECTORY, "readOnly": true},
        ],
    });
    if let Some(policy) = settings.image_pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    container
}

fn arguments(settings: &Settings) -> Vec<String> {
    let mut arguments = vec![
        "run".to_owned(),
        format!("{CONFIG_DIRECTORY}/{CONFIG_KEY}"),
        format!("--listen-outbound=127.0.0.1:{OUTBOUND_PORT}"),
        format!("--listen-outbound=[::1]:{OUTBOUND_PORT}"),
        format!("--listen-metrics=[::]:{METRICS_PORT}"),
        format!("--admin={ADMIN_DIRECTORY}/admin.sock"),
        format!("--workload-api-socket=unix://{WORKLOAD_API_DIRECTORY}/{}", settings.socket.file()),
    ];
    if let Some(level) = settings.log_level {
        arguments.push(format!("--log-level={}", level.as_str()));
    }
    arguments
}

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

/// The value of the status annotation.
pub(super) fn status(settings: &Settings) -> String {
    let status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "image": settings.image,
        "config": settings.config,
        "socket": settings.socket.to_string(),
    });
    status.to_string()
}

//! What things are called in a pod, each name once.

/// The sidecar's image where nobody says another; built from the same sources as this program.
pub const IMAGE: &str = concat!("idjag-proxy:", env!("CARGO_PKG_VERSION"));
/// The sidecar's user and group. No agent may have it: it could read what the sidecar holds.
pub const UID: i64 = 17080;
/// Where the agent finds the sidecar, on loopback.
pub const OUTBOUND_PORT: u16 = 17080;
/// Where the kubelet and Prometheus find it.
pub(crate) const METRICS_PORT: u16 = 17090;
pub(crate) const METRICS_PORT_NAME: &str = "idjag-metrics";

/// Every label and annotation of ours begins so.
pub(crate) const PREFIX: &str = "idjag-proxy.io/";
/// `enabled` or `disabled`, on a namespace or a pod.
pub const LABEL_INJECT: &str = "idjag-proxy.io/inject";
/// On every pod that has the sidecar; the `PodMonitor` selects it.
pub const LABEL_INJECTED: &str = "idjag-proxy.io/injected";
/// What was injected, as JSON.
pub const ANNOTATION_STATUS: &str = "idjag-proxy.io/status";

/// The annotations that set up a pod's sidecar, without the prefix.
pub const ANNOTATIONS: [&str; 7] = ["config", "image", "log-level", "resources", "socket", "http-proxy", "no-proxy"];

/// The sidecar, first of the init containers.
pub(crate) const CONTAINER: &str = "idjag-proxy";
/// The `ConfigMap` and the `Secret` where no annotation says another name.
pub(crate) const CONFIG: &str = "idjag-proxy";
/// The key of the `ConfigMap` that is the configuration file.
pub(crate) const CONFIG_KEY: &str = "proxy.yaml";

pub(crate) const VOLUME_CONFIG: &str = "idjag-proxy-config";
pub(crate) const VOLUME_SECRETS: &str = "idjag-proxy-secrets";
pub(crate) const VOLUME_ADMIN: &str = "idjag-proxy-admin";
pub(crate) const VOLUME_WORKLOAD_API: &str = "idjag-proxy-workload-api";
pub(crate) const VOLUME_NO_TOKEN: &str = "idjag-proxy-no-token";
pub(crate) const VOLUMES: [&str; 5] =
    [VOLUME_CONFIG, VOLUME_SECRETS, VOLUME_ADMIN, VOLUME_WORKLOAD_API, VOLUME_NO_TOKEN];

/// The SPIFFE CSI driver, whose volumes are the Workload API's socket.
pub(crate) const CSI_DRIVER: &str = "csi.spiffe.io";

//! Names that the sidecar and its pod use, each defined once.

/// The sidecar's default image, built from the same sources as this program.
pub const IMAGE: &str = concat!("idjag-proxy:", env!("CARGO_PKG_VERSION"));
/// The sidecar's user and group. No agent may run as this user: it could read what the sidecar
/// holds.
pub const UID: i64 = 17080;
/// The loopback port on which the agent reaches the sidecar.
pub const OUTBOUND_PORT: u16 = 17080;
/// The port on which the kubelet and Prometheus reach the sidecar.
pub(crate) const METRICS_PORT: u16 = 17090;
pub(crate) const METRICS_PORT_NAME: &str = "idjag-metrics";

/// The prefix of all our labels and annotations.
pub(crate) const PREFIX: &str = "idjag-proxy.io/";
/// `enabled` or `disabled`, on a namespace or a pod.
pub const LABEL_INJECT: &str = "idjag-proxy.io/inject";
/// `true` on every pod that has the sidecar; the `PodMonitor` selects it.
pub const LABEL_INJECTED: &str = "idjag-proxy.io/injected";
/// Describes the injected sidecar, as JSON.
pub const ANNOTATION_STATUS: &str = "idjag-proxy.io/status";

/// The names of the annotations that set up a pod's sidecar, without the prefix.
pub const ANNOTATIONS: [&str; 7] = ["config", "image", "log-level", "resources", "socket", "http-proxy", "no-proxy"];

/// The sidecar, which is the first init container.
pub(crate) const CONTAINER: &str = "idjag-proxy";
/// The default name of the `ConfigMap` and the `Secret`.
pub(crate) const CONFIG: &str = "idjag-proxy";
/// The key of the `ConfigMap` that holds the configuration file.
pub(crate) const CONFIG_KEY: &str = "proxy.yaml";

pub(crate) const VOLUME_CONFIG: &str = "idjag-proxy-config";
pub(crate) const VOLUME_SECRETS: &str = "idjag-proxy-secrets";
pub(crate) const VOLUME_ADMIN: &str = "idjag-proxy-admin";
pub(crate) const VOLUME_WORKLOAD_API: &str = "idjag-proxy-workload-api";
/// An empty volume, mounted where the service account's token would be, so that the sidecar has
/// none.
pub(crate) const VOLUME_NO_TOKEN: &str = "idjag-proxy-no-token";
pub(crate) const VOLUMES: [&str; 5] =
    [VOLUME_CONFIG, VOLUME_SECRETS, VOLUME_ADMIN, VOLUME_WORKLOAD_API, VOLUME_NO_TOKEN];

/// The SPIFFE CSI driver, whose volumes contain the Workload API's socket.
pub(crate) const CSI_DRIVER: &str = "csi.spiffe.io";

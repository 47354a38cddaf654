//! What the outside sees of the identity.
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The identity's series, all present from the start.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Seconds since the epoch; 0 while there is none.
    pub(super) expiry: Gauge,
    pub(super) accepted: IntCounter,
    pub(super) refused: IntCounter,
    /// 1 while the X.509 stream is open and has delivered; stays 0 with PEM files.
    pub(super) connected: IntGauge,
    required: IntGauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let expiry = Gauge::new(
            "idjag_proxy_svid_expiry_timestamp_seconds",
            "When the X.509-SVID in use expires, in seconds since the epoch; 0 while there is none",
        )?;
        let updates = IntCounterVec::new(
            Opts::new("idjag_proxy_svid_updates_total", "Updates of the X.509-SVID and its trust bundles"),
            &["result"],
        )?;
        let connected = IntGauge::new(
            "idjag_proxy_workload_api_connected",
            "Whether the Workload API's X.509 stream is open and has delivered",
        )?;
        let required = IntGauge::new(
            "idjag_proxy_identity_required",
            "Whether the configuration needs an identity: without one the proxy is then not ready",
        )?;
        registry.register(Box::new(required.clone()))?;
        registry.register(Box::new(expiry.clone()))?;
        registry.register(Box::new(updates.clone()))?;
        registry.register(Box::new(connected.clone()))?;
        let (accepted, refused) = (updates.with_label_values(&["accepted"]), updates.with_label_values(&["refused"]));
        Ok(Self { expiry, accepted, refused, connected, required })
    }

    /// Says whether the configuration in force needs an identity.
    pub fn require(&self, required: bool) {
        self.required.set(i64::from(required));
    }
}

//! The metrics of the identity and its source.
use crate::telemetry::Registrar;
use prometheus::{IntCounter, IntGauge};

/// The metrics of the identity and its source.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// When the SVID expires, in seconds since the epoch; 0 while there is none.
    pub(super) expiry: IntGauge,
    pub(super) accepted: IntCounter,
    pub(super) refused: IntCounter,
    /// 1 while the X.509 stream is open and has delivered a message; always 0 with PEM files.
    pub(super) connected: IntGauge,
    required: IntGauge,
}

impl Metrics {
    /// Registers the metrics, all of which are present from the start.
    ///
    /// # Errors
    /// A name is already registered.
    pub fn new(registrar: &Registrar) -> prometheus::Result<Self> {
        let help = "Updates of the X.509-SVID and its trust bundles";
        let updates = registrar.counters("svid_updates_total", help, &["result"])?;
        Ok(Self {
            expiry: registrar.gauge(
                "svid_expiry_timestamp_seconds",
                "When the X.509-SVID in use expires, in seconds since the epoch; 0 while there is none",
            )?,
            accepted: updates.with_label_values(&["accepted"]),
            refused: updates.with_label_values(&["refused"]),
            connected: registrar
                .gauge("workload_api_connected", "Whether the Workload API's X.509 stream is open and has delivered")?,
            required: registrar.gauge(
                "identity_required",
                "Whether the configuration needs an identity: without one the proxy is then not ready",
            )?,
        })
    }

    /// Sets whether the configuration in force needs an identity.
    pub fn set_required(&self, required: bool) {
        self.required.set(i64::from(required));
    }
}

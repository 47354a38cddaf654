//! The metrics of the token cache.
use crate::telemetry::Registrar;
use prometheus::{IntCounter, IntCounterVec, IntGauge};

/// Counters of the token cache; every series is present from the start.
#[derive(Clone)]
pub struct Metrics {
    pub(super) hit: IntCounter,
    pub(super) miss: IntCounter,
    pub(super) shared: IntCounter,
    pub(super) negative: IntCounter,
    pub(super) entries: IntGauge,
    pub(super) bytes: IntGauge,
    pub(super) refreshes: IntCounterVec,
}

const OUTCOMES: [&str; 2] = ["success", "failure"];

impl Metrics {
    /// Registers `token_cache_total`, `token_cache_entries`, `token_cache_bytes` and
    /// `token_refreshes_total` for `servers`.
    pub fn new<'s>(registrar: &Registrar, servers: impl IntoIterator<Item = &'s str>) -> prometheus::Result<Self> {
        let cache =
            registrar.counters("token_cache_total", "Look-ups of tokens by tier and result.", &["tier", "result"])?;
        let entries = registrar.gauges("token_cache_entries", "Tokens held.", &["tier"])?;
        let bytes = registrar.gauges("token_cache_bytes", "Bytes of tokens held.", &["tier"])?;
        let help = "Renewals ahead of expiry by server and outcome.";
        let refreshes = registrar.counters("token_refreshes_total", help, &["server", "outcome"])?;
        // ID-JAGs are not cached yet, so their series stay at zero.
        for result in ["hit", "miss", "shared", "negative"] {
            cache.with_label_values(&["id_jag", result]);
        }
        for gauge in [&entries, &bytes] {
            gauge.with_label_values(&["id_jag"]);
        }
        let result = |result| cache.with_label_values(&["access", result]);
        let metrics = Self {
            hit: result("hit"),
            miss: result("miss"),
            shared: result("shared"),
            negative: result("negative"),
            entries: entries.with_label_values(&["access"]),
            bytes: bytes.with_label_values(&["access"]),
            refreshes,
        };
        servers.into_iter().for_each(|server| metrics.declare(server));
        Ok(metrics)
    }

    /// Makes every series of a server present. A reload may add servers;
    /// [`Registrar::remove_series`] removes the series.
    pub fn declare(&self, server: &str) {
        for outcome in OUTCOMES {
            self.refreshes.with_label_values(&[server, outcome]);
        }
    }
}

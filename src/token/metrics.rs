//! What the cache counts.
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

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

impl Metrics {
    /// Registers `token_cache_total`, `token_cache_entries`, `token_cache_bytes` and `token_refreshes_total` for `servers`.
    pub fn new<'s>(registry: &Registry, servers: impl IntoIterator<Item = &'s str>) -> prometheus::Result<Self> {
        let cache = IntCounterVec::new(
            Opts::new("idjag_proxy_token_cache_total", "Look-ups of tokens by tier and result."),
            &["tier", "result"],
        )?;
        let entries = IntGaugeVec::new(Opts::new("idjag_proxy_token_cache_entries", "Tokens held."), &["tier"])?;
        let bytes = IntGaugeVec::new(Opts::new("idjag_proxy_token_cache_bytes", "Bytes of tokens held."), &["tier"])?;
        let refreshes = IntCounterVec::new(
            Opts::new("idjag_proxy_token_refreshes_total", "Renewals ahead of expiry by server and outcome."),
            &["server", "outcome"],
        )?;
        for collector in [&cache, &refreshes] {
            registry.register(Box::new(collector.clone()))?;
        }
        for collector in [&entries, &bytes] {
            registry.register(Box::new(collector.clone()))?;
        }
        for server in servers {
            for outcome in ["success", "failure"] {
                refreshes.with_label_values(&[server, outcome]);
            }
        }
        let result = |result| cache.with_label_values(&["access", result]);
        Ok(Self {
            hit: result("hit"),
            miss: result("miss"),
            shared: result("shared"),
            negative: result("negative"),
            entries: entries.with_label_values(&["access"]),
            bytes: bytes.with_label_values(&["access"]),
            refreshes,
        })
    }
}

//! What the exchanges are counted by.
use super::error::{ExchangeError, KINDS};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use std::time::Duration;

/// Which token a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    /// An ID-JAG, at the identity provider.
    IdJag,
    /// An access token.
    Access,
}

impl Leg {
    const ALL: [Self; 2] = [Self::IdJag, Self::Access];

    fn label(self) -> &'static str {
        match self {
            Self::IdJag => "id_jag",
            Self::Access => "access",
        }
    }
}

/// `exchanges_total` and `exchange_duration_seconds`.
#[derive(Clone, Debug)]
pub struct Metrics {
    exchanges: IntCounterVec,
    duration: HistogramVec,
}

const SUCCESS: &str = "success";

impl Metrics {
    /// Registers both, with every series of these servers.
    ///
    /// # Errors
    /// A name is taken already.
    pub fn new<'s>(registry: &Registry, servers: impl IntoIterator<Item = &'s str>) -> prometheus::Result<Self> {
        let exchanges = IntCounterVec::new(
            Opts::new("idjag_proxy_exchanges_total", "Token requests by authorization server, leg and outcome."),
            &["server", "leg", "outcome"],
        )?;
        let buckets = vec![0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
        let duration = HistogramVec::new(
            HistogramOpts::new("idjag_proxy_exchange_duration_seconds", "Time of token requests, discovery included.")
                .buckets(buckets),
            &["server", "leg"],
        )?;
        registry.register(Box::new(exchanges.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        let metrics = Self { exchanges, duration };
        servers.into_iter().for_each(|server| metrics.declare(server));
        Ok(metrics)
    }

    /// Makes every series of a server present; a reload may bring new ones.
    pub fn declare(&self, server: &str) {
        for leg in Leg::ALL {
            self.duration.with_label_values(&[server, leg.label()]);
            for outcome in KINDS.iter().chain([&SUCCESS]) {
                self.exchanges.with_label_values(&[server, leg.label(), outcome]);
            }
        }
    }

    /// Takes the series of a server away, which a reload has removed.
    pub fn forget(&self, server: &str) {
        for leg in Leg::ALL {
            // An error means that there is none.
            let _ = self.duration.remove_label_values(&[server, leg.label()]);
            for outcome in KINDS.iter().chain([&SUCCESS]) {
                let _ = self.exchanges.remove_label_values(&[server, leg.label(), outcome]);
            }
        }
    }

    pub(super) fn count<T>(&self, server: &str, leg: Leg, result: &Result<T, ExchangeError>, took: Duration) {
        let outcome = result.as_ref().map_or_else(ExchangeError::kind, |_| SUCCESS);
        self.exchanges.with_label_values(&[server, leg.label(), outcome]).inc();
        self.duration.with_label_values(&[server, leg.label()]).observe(took.as_secs_f64());
    }
}

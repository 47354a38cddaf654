//! Counters and timers of token requests.
use super::error::{ExchangeError, Failure};
use crate::telemetry::Registrar;
use prometheus::{HistogramVec, IntCounterVec};
use std::time::Duration;

/// The token that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    /// An ID-JAG from the identity provider.
    IdJag,
    /// The access token from the authorization server.
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

/// The metrics `exchanges_total` and `exchange_duration_seconds`.
#[derive(Clone, Debug)]
pub struct Metrics {
    exchanges: IntCounterVec,
    duration: HistogramVec,
}

const SUCCESS: &str = "success";

impl Metrics {
    /// Registers both metrics, with every series of these servers.
    ///
    /// # Errors
    /// A name is already registered.
    pub fn new<'s>(registrar: &Registrar, servers: impl IntoIterator<Item = &'s str>) -> prometheus::Result<Self> {
        let help = "Token requests by authorization server, leg and outcome.";
        let exchanges = registrar.counters("exchanges_total", help, &["server", "leg", "outcome"])?;
        let duration = registrar.histograms(
            "exchange_duration_seconds",
            "Time of token requests, discovery included.",
            &["server", "leg"],
            &[0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0],
        )?;
        let metrics = Self { exchanges, duration };
        servers.into_iter().for_each(|server| metrics.declare(server));
        Ok(metrics)
    }

    /// Makes every series of a server present. A reload may add servers;
    /// [`Registrar::remove_series`] removes the series.
    pub fn declare(&self, server: &str) {
        for leg in Leg::ALL {
            self.duration.with_label_values(&[server, leg.label()]);
            for outcome in Failure::kinds().chain([SUCCESS]) {
                self.exchanges.with_label_values(&[server, leg.label(), outcome]);
            }
        }
    }

    pub(super) fn count<T>(&self, server: &str, leg: Leg, result: &Result<T, ExchangeError>, took: Duration) {
        let outcome = result.as_ref().map_or_else(ExchangeError::kind, |_| SUCCESS);
        self.exchanges.with_label_values(&[server, leg.label(), outcome]).inc();
        self.duration.with_label_values(&[server, leg.label()]).observe(took.as_secs_f64());
    }
}

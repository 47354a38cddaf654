//! The dependencies that all steps of an exchange share.
use super::error::{ExchangeError, Failure};
use super::metrics::{Leg, Metrics};
use crate::issuer::{Issuer, Issuers, Workload};

/// The issuers, with the workload that asks them, and the counters.
pub(super) struct Context {
    pub(super) issuers: Issuers,
    pub(super) metrics: Metrics,
}

impl Context {
    pub(super) fn workload(&self) -> &Workload {
        self.issuers.workload()
    }

    /// Runs one token request, and counts and times it.
    pub(super) async fn counted<T>(
        &self,
        issuer: &Issuer,
        leg: Leg,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, ExchangeError> {
        let started = tokio::time::Instant::now();
        let server = &issuer.server().name;
        let result = request.await.map_err(|failure| ExchangeError::new(server, failure));
        self.metrics.count(server, leg, &result, started.elapsed());
        result
    }
}

//! The injector's probes. The injector is live while the certificate's rotation loop runs, and
//! ready while the API server trusts the certificate that is served.
use crate::http_server::Probe;
use crate::sync::lock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// A rotation loop that has not finished a round for this long is stuck: each of its calls has a
/// deadline of seconds.
const STUCK: Duration = Duration::from_secs(300);
/// How long the last observation counts while the API server does not answer. This is far below the
/// time that a CA stays trusted after its last use.
const STALE: Duration = Duration::from_secs(600);

/// The state that the probes check. Clones share it.
#[derive(Clone)]
pub(super) struct Health(Arc<ProbeState>);

struct ProbeState {
    draining: AtomicBool,
    rotation: Mutex<RotationReport>,
}

/// The last report of the rotation loop.
struct RotationReport {
    last_round: Instant,
    last_observation: Instant,
    /// What is missing before the injector is ready.
    waiting_for: Option<String>,
    /// Why the last observation of the cluster failed.
    problem: Option<String>,
}

impl Health {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let waiting_for = Some("a first look at the cluster".to_owned());
        Self(Arc::new(ProbeState {
            draining: AtomicBool::new(false),
            rotation: Mutex::new(RotationReport { last_round: now, last_observation: now, waiting_for, problem: None }),
        }))
    }

    /// Makes the injector unready because it is shutting down.
    pub(super) fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Records an observation of the cluster, and what is missing by it.
    pub(super) fn record_observation(&self, waiting_for: Option<String>) {
        let now = Instant::now();
        let mut report = self.report();
        match (&report.waiting_for, &waiting_for) {
            (Some(_), None) => tracing::info!("ready: the API server trusts the certificate that is served"),
            (old, Some(new)) if old.as_ref() != Some(new) => tracing::warn!(waiting_for = %new, "not ready"),
            _ => {}
        }
        if report.problem.take().is_some() {
            tracing::info!("the API server answers again");
        }
        *report = RotationReport { last_round: now, last_observation: now, waiting_for, problem: None };
    }

    /// Records that the cluster could not be observed.
    pub(super) fn record_failure(&self, why: &str) {
        let mut report = self.report();
        report.last_round = Instant::now();
        if let Some(waiting_for) = &mut report.waiting_for {
            why.clone_into(waiting_for);
        }
        if report.problem.is_none() {
            tracing::warn!(%why, "the API server does not answer; the served certificate stays as it is");
        }
        report.problem = Some(why.to_owned());
    }

    /// Returns the result of `/livez`.
    pub(super) fn liveness(&self) -> Probe {
        let age = self.report().last_round.elapsed();
        let stuck =
            (age > STUCK).then(|| format!("the certificate's loop, which has been stuck for {} s", age.as_secs()));
        Probe { waiting_for: stuck.into_iter().collect() }
    }

    /// Returns the result of `/readyz`.
    pub(super) fn readiness(&self) -> Probe {
        if self.0.draining.load(Ordering::Relaxed) {
            return Probe { waiting_for: vec!["the shutdown to finish".to_owned()] };
        }
        let report = self.report();
        let age = report.last_observation.elapsed();
        let stale = (age > STALE).then(|| format!("the API server, silent for {} s", age.as_secs()));
        Probe { waiting_for: report.waiting_for.clone().or(stale).into_iter().collect() }
    }

    fn report(&self) -> MutexGuard<'_, RotationReport> {
        lock(&self.0.rotation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn injector_becomes_unready_when_the_api_server_is_gone_for_long() {
        let health = Health::new();
        assert_eq!(health.readiness().waiting_for, ["a first look at the cluster"]);
        health.record_failure("the API server: refused");
        assert_eq!(health.readiness().waiting_for, ["the API server: refused"]);
        health.record_observation(None);
        assert!(health.readiness().is_ok());
        tokio::time::advance(Duration::from_secs(590)).await;
        health.record_failure("the API server: refused");
        assert!(health.readiness().is_ok());
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(health.readiness().waiting_for, ["the API server, silent for 610 s"]);
        assert!(health.liveness().is_ok());
        health.record_observation(None);
        assert!(health.readiness().is_ok());
        health.drain();
        assert_eq!(health.readiness().waiting_for, ["the shutdown to finish"]);
    }

    #[tokio::test(start_paused = true)]
    async fn injector_with_a_stuck_loop_is_not_live() {
        let health = Health::new();
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(!health.liveness().is_ok());
    }
}

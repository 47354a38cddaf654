//! Probes of the injector. Live: the loop that keeps the certificate turns. Ready: the API server would trust what is served.
use crate::http_server::Probe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A loop that has not turned for this long is stuck: each of its calls has a deadline of seconds.
const STUCK: Duration = Duration::from_secs(300);
/// What was seen is believed for this long while the API server does not answer. It is far below the time that a CA stays trusted
/// after its last use.
const STALE: Duration = Duration::from_secs(600);

/// What the probes look at.
#[derive(Clone)]
pub(super) struct Health(Arc<State>);

struct State {
    draining: AtomicBool,
    kept: Mutex<Kept>,
}

/// What the loop that keeps the certificate reports.
struct Kept {
    turned: Instant,
    seen: Instant,
    waiting_for: Option<String>,
    /// Why the cluster could not be seen the last time.
    trouble: Option<String>,
}

impl Health {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let waiting_for = Some("a first look at the cluster".to_owned());
        Self(Arc::new(State {
            draining: AtomicBool::new(false),
            kept: Mutex::new(Kept { turned: now, seen: now, waiting_for, trouble: None }),
        }))
    }

    pub(super) fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// The cluster was seen, and this is what is missing.
    pub(super) fn saw(&self, waiting_for: Option<String>) {
        let now = Instant::now();
        let mut kept = self.kept();
        match (&kept.waiting_for, &waiting_for) {
            (Some(_), None) => tracing::info!("ready: the API server trusts the certificate that is served"),
            (old, Some(new)) if old.as_ref() != Some(new) => tracing::warn!(waiting_for = %new, "not ready"),
            _ => {}
        }
        if kept.trouble.take().is_some() {
            tracing::info!("the cluster is seen again");
        }
        *kept = Kept { turned: now, seen: now, waiting_for, trouble: None };
    }

    /// The cluster could not be seen.
    pub(super) fn missed(&self, why: &str) {
        let mut kept = self.kept();
        kept.turned = Instant::now();
        if let Some(waiting_for) = &mut kept.waiting_for {
            why.clone_into(waiting_for);
        }
        if kept.trouble.is_none() {
            tracing::warn!(%why, "the cluster cannot be seen; what is served stays as it is");
        }
        kept.trouble = Some(why.to_owned());
    }

    /// `/livez`
    pub(super) fn live(&self) -> Probe {
        let turned = self.kept().turned.elapsed();
        let stuck =
            (turned > STUCK).then(|| format!("the certificate's loop to turn again after {} s", turned.as_secs()));
        Probe { waiting_for: stuck.into_iter().collect() }
    }

    /// `/readyz`
    pub(super) fn ready(&self) -> Probe {
        if self.0.draining.load(Ordering::Relaxed) {
            return Probe { waiting_for: vec!["nothing: it is shutting down".to_owned()] };
        }
        let kept = self.kept();
        let unseen = kept.seen.elapsed();
        let stale = (unseen > STALE).then(|| format!("the API server, silent for {} s", unseen.as_secs()));
        Probe { waiting_for: kept.waiting_for.clone().or(stale).into_iter().collect() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic elsewhere leaves plain data.
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_restarts_makes_nobody_unready_one_that_is_gone_does() {
        let health = Health::new();
        assert_eq!(health.ready().waiting_for, ["a first look at the cluster"]);
        health.missed("the API server: refused");
        assert_eq!(health.ready().waiting_for, ["the API server: refused"]);
        health.saw(None);
        assert!(health.ready().is_ok());
        tokio::time::advance(Duration::from_secs(590)).await;
        health.missed("the API server: refused");
        assert!(health.ready().is_ok());
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(health.ready().waiting_for, ["the API server, silent for 610 s"]);
        assert!(health.live().is_ok());
        health.saw(None);
        assert!(health.ready().is_ok());
        health.drain();
        assert_eq!(health.ready().waiting_for, ["nothing: it is shutting down"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_is_stuck_is_not_live() {
        let health = Health::new();
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(!health.live().is_ok());
    }
}

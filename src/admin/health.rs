//! The probes. The proxy is live while its runtimes make progress, started once it has held an
//! identity, and ready while the next request could succeed.
use crate::http_server::{MetricsEndpoint, Probe};
use crate::identity::Identity;
use crate::proxy::{Pulse, Shared};
use crate::telemetry::Registrar;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A worker whose timer has not fired for this long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Answers the probes. Clones share its state.
#[derive(Clone)]
pub struct Health(Arc<HealthState>);

struct HealthState {
    shared: Arc<Shared>,
    /// The identity, if a source is configured.
    identity: Option<Identity>,
    pulse: Pulse,
    draining: AtomicBool,
    started: AtomicBool,
}

impl Health {
    /// `identity` is the identity if a source is configured. The probes wait for it only while a
    /// route needs it.
    pub fn new(shared: Arc<Shared>, identity: Option<Identity>, pulse: Pulse) -> Self {
        Self(Arc::new(HealthState {
            shared,
            identity,
            pulse,
            draining: AtomicBool::new(false),
            started: AtomicBool::new(false),
        }))
    }

    /// Makes the endpoint of the metrics of `registrar` and of the probes. `refresh` runs before
    /// each scrape.
    ///
    /// # Errors
    /// The name `ready` is already registered.
    pub fn endpoint(
        &self,
        registrar: &Registrar,
        refresh: impl Fn() + Send + Sync + 'static,
    ) -> prometheus::Result<MetricsEndpoint> {
        let ready = registrar.gauge("ready", "Whether the next request could succeed.")?;
        let health = self.clone();
        let refresh = move || {
            refresh();
            ready.set(i64::from(health.readiness().is_ok()));
        };
        let (live, started, ready) = (self.clone(), self.clone(), self.clone());
        let endpoint = MetricsEndpoint::new(registrar, refresh)
            .with_probe("/livez", move || live.liveness())
            .with_probe("/readyz", move || ready.readiness())
            .with_probe("/startupz", move || started.startup());
        Ok(endpoint)
    }

    /// Makes `/readyz` fail from now on.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Tells whether the process is shutting down.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Answers `/livez`, which never depends on a peer.
    pub fn liveness(&self) -> Probe {
        let stuck = self.0.pulse.stuck(STUCK);
        Probe { waiting_for: stuck.map(|worker| format!("worker {worker} to make progress")).collect() }
    }

    /// Answers `/startupz`, which keeps succeeding once it has.
    pub fn startup(&self) -> Probe {
        if self.0.started.load(Ordering::Relaxed) {
            return Probe::default();
        }
        // An identity counts even if it was held and has expired before the first probe.
        let never = |identity: &Identity| identity.latest_held().is_none();
        let never = self.identity().is_some_and(never);
        let waiting_for: Vec<String> = self.identity_missing().into_iter().filter(|_| never).collect();
        self.0.started.store(waiting_for.is_empty(), Ordering::Relaxed);
        Probe { waiting_for }
    }

    /// Answers `/readyz`: the identity is valid, every eager grant has been obtained once, and the
    /// process is not draining.
    pub fn readiness(&self) -> Probe {
        let mut waiting_for: Vec<String> = self.identity_missing().into_iter().collect();
        if self.is_draining() {
            waiting_for.push("the shutdown to finish".to_owned());
        }
        let table = self.0.shared.table();
        let missing =
            table.eager_missing().map(|(route, server)| format!("a first token for route `{route}` from `{server}`"));
        waiting_for.extend(missing);
        Probe { waiting_for }
    }

    fn identity_missing(&self) -> Option<String> {
        let missing = self.identity()?.current().err()?;
        Some(format!("an identity: {missing}"))
    }

    fn identity(&self) -> Option<&Identity> {
        self.0.identity.as_ref().filter(|_| self.0.shared.table().needs_identity())
    }
}

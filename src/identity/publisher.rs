//! The writers' side of the identity: publishes, counts and logs every change.
use super::handle::{Identity, IdentityInner};
use super::jwt::JwtIssuer;
use super::material::UpdateRefused;
use super::metrics::Metrics;
use super::snapshot::{CheckedUpdate, Snapshot};
use super::state::{IdentityState, SharedState};
use crate::clock::{Clock, Timestamp};
use crate::telemetry::gauge_value;
use std::collections::HashMap;
use std::sync::Arc;

/// Publishes the updates of one source. Exactly one task holds it.
pub(super) struct Publisher {
    shared: Arc<IdentityInner>,
    metrics: Metrics,
    /// How often each kind of problem has occurred since the last good update.
    occurrences: HashMap<&'static str, u32>,
    /// The revision whose expiry has been logged.
    expiry_logged: Option<u64>,
}

/// How many times the same problem is logged until an update is accepted.
const LOG_LIMIT: u32 = 3;

impl Publisher {
    pub(super) fn new(source: String, jwt: JwtIssuer, clock: Clock, metrics: Metrics) -> (Self, Identity) {
        let shared = Arc::new(IdentityInner { state: SharedState::new(source, clock), jwt });
        let identity = Identity(shared.clone());
        (Self { shared, metrics, occurrences: HashMap::new(), expiry_logged: None }, identity)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.shared.state.now()
    }

    /// Returns the latest snapshot unless it was withdrawn, even if it has expired.
    pub(super) fn not_withdrawn(&self) -> Option<Arc<Snapshot>> {
        self.shared.state.load().not_withdrawn().cloned()
    }

    pub(super) fn has_valid(&self) -> bool {
        self.not_withdrawn().is_some_and(|snapshot| snapshot.svid.is_valid_at(self.now()))
    }

    /// Publishes a checked update to the readers.
    pub(super) fn publish(&mut self, update: CheckedUpdate) {
        self.metrics.accepted.inc();
        self.occurrences.clear();
        let before = self.not_withdrawn();
        if before.as_ref().is_some_and(|before| before.same_material(&update)) {
            self.change(|state| state.waiting_for = None);
            return;
        }
        if before.is_none_or(|before| before.svid.id != update.svid.id) {
            self.shared.jwt.clear_cache();
        }
        let CheckedUpdate { svid, bundles } = &update;
        tracing::info!(
            spiffe_id = %svid.id,
            expires = %svid.not_after,
            trust_domains = bundles.len(),
            "identity: new X.509-SVID in use"
        );
        self.metrics.expiry.set(gauge_value(svid.not_after.unix_seconds()));
        let revision = self.next_revision();
        let snapshot = Arc::new(Snapshot::new(revision, update));
        self.change(|state| {
            state.held = Some(snapshot);
            state.withdrawn = None;
            state.waiting_for = None;
        });
        self.announce(revision);
    }

    /// Counts and logs an update that is not used. The one before it stays in use.
    pub(super) fn refuse(&mut self, why: &UpdateRefused) {
        self.metrics.refused.inc();
        let why = why.to_string();
        let kept = if self.has_valid() { "the one in use is kept" } else { "none is in use" };
        self.log_limited("refused", || tracing::warn!("identity: an update was refused, {kept}: {why}"));
        let waiting = format!("the last update was refused: {why}");
        self.change(|state| {
            state.last_refused = Some(why);
            state.waiting_for = Some(waiting);
        });
    }

    /// Stops using the identity, because the source says that this workload has none (SPIFFE
    /// Workload API §5.2.1).
    pub(super) fn withdraw(&mut self, why: &str) {
        if self.not_withdrawn().is_none() {
            return;
        }
        tracing::warn!("identity: withdrawn, and no longer used: {why}");
        self.metrics.expiry.set(0);
        self.shared.jwt.clear_cache();
        let revision = self.next_revision();
        self.change(|state| state.withdrawn = Some(why.to_owned()));
        self.announce(revision);
    }

    /// Logs and publishes what the source is waiting for. Repetitions are recognised by `kind`,
    /// because texts differ in detail.
    pub(super) fn report_waiting(&mut self, kind: &'static str, why: &str) {
        self.log_limited(kind, || tracing::warn!("identity: {why}"));
        self.change(|state| state.waiting_for = Some(why.to_owned()));
    }

    pub(super) fn set_connected(&mut self, connected: bool) {
        self.change(|state| state.connected = connected);
    }

    /// Sets the Workload API's gauge and the client for JWT-SVIDs. Files have neither.
    pub(super) fn set_api_connected(&mut self, client: Option<spiffe::WorkloadApiClient>) {
        let connected = client.is_some();
        self.metrics.connected.set(i64::from(connected));
        self.shared.jwt.set_client(client);
        self.set_connected(connected);
    }

    /// Compares the SVID with the clock. If the SVID has expired, logs it, wakes the subscribers
    /// and returns true, once for each SVID.
    pub(super) fn check_expiry(&mut self) -> bool {
        let Some(snapshot) = self.not_withdrawn() else { return false };
        if snapshot.svid.is_valid_at(self.now()) || self.expiry_logged == Some(snapshot.revision) {
            return false;
        }
        self.expiry_logged = Some(snapshot.revision);
        tracing::error!(
            spiffe_id = %snapshot.svid.id,
            "identity: the X.509-SVID expired at {}; it is no longer used",
            snapshot.svid.not_after
        );
        let revision = self.next_revision();
        self.announce(revision);
        true
    }

    fn log_limited(&mut self, kind: &'static str, log: impl FnOnce()) {
        let count = self.occurrences.entry(kind).or_insert(0);
        *count = count.saturating_add(1);
        if *count <= LOG_LIMIT {
            log();
            if *count == LOG_LIMIT {
                tracing::warn!("identity: the same problem ({kind}) is not logged again until an update is accepted");
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut IdentityState)) {
        self.shared.state.change(change);
    }

    fn next_revision(&self) -> u64 {
        *self.shared.state.changes.borrow() + 1
    }

    /// Wakes the subscribers. It is called after the state was changed, so that they see the new
    /// state.
    fn announce(&self, revision: u64) {
        self.shared.state.changes.send_replace(revision);
    }
}

//! The owner's side: the one place that changes what readers see, counts it and says it.
use super::handle::{Identity, Shared};
use super::jwt::JwtIssuer;
use super::material::UpdateRefused;
use super::metrics::Metrics;
use super::snapshot::{CheckedUpdate, Snapshot};
use super::state::{IdentityState, SharedState};
use crate::clock::{Clock, Timestamp};
use crate::telemetry::gauge_value;
use std::collections::HashMap;
use std::sync::Arc;

/// Held by exactly one owner task.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    metrics: Metrics,
    /// How often each kind of trouble was met since the last good update.
    trouble: HashMap<&'static str, u32>,
    /// The revision whose expiry has been told.
    told_expired: Option<u64>,
}

/// The same trouble is logged this often, then not until something good happens.
const LOGGED: u32 = 3;

impl Publisher {
    pub(super) fn new(source: String, jwt: JwtIssuer, clock: Clock, metrics: Metrics) -> (Self, Identity) {
        let shared = Arc::new(Shared { state: SharedState::new(source, clock), jwt });
        let identity = Identity(shared.clone());
        (Self { shared, metrics, trouble: HashMap::new(), told_expired: None }, identity)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.shared.state.now()
    }

    /// What may be used, whether or not it has expired.
    pub(super) fn usable(&self) -> Option<Arc<Snapshot>> {
        self.shared.state.load().usable().cloned()
    }

    pub(super) fn has_valid(&self) -> bool {
        self.usable().is_some_and(|snapshot| snapshot.svid.is_valid_at(self.now()))
    }

    /// Makes checked material what everyone sees.
    pub(super) fn publish(&mut self, update: CheckedUpdate) {
        self.metrics.accepted.inc();
        self.trouble.clear();
        let before = self.usable();
        if before.as_ref().is_some_and(|before| before.same_material(&update)) {
            self.change(|state| state.waiting_for = None);
            return;
        }
        if before.is_none_or(|before| before.svid.id != update.svid.id) {
            self.shared.jwt.forget();
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

    /// Counts and tells of an update that is not used; what was good before stays.
    pub(super) fn refuse(&mut self, why: &UpdateRefused) {
        self.metrics.refused.inc();
        let why = why.to_string();
        let kept = if self.has_valid() { "the one in use stays" } else { "there is none in use" };
        self.tell("refused", || tracing::warn!("identity: an update was refused, {kept}: {why}"));
        let waiting = format!("the last update was refused: {why}");
        self.change(|state| {
            state.last_refused = Some(why);
            state.waiting_for = Some(waiting);
        });
    }

    /// The source says that we have no identity (WA-7): nothing of it may be used any more.
    pub(super) fn withdraw(&mut self, why: &str) {
        if self.usable().is_none() {
            return;
        }
        tracing::warn!("identity: withdrawn, nothing of it is used any more: {why}");
        self.metrics.expiry.set(0);
        self.shared.jwt.forget();
        let revision = self.next_revision();
        self.change(|state| state.withdrawn = Some(why.to_owned()));
        self.announce(revision);
    }

    /// Says what the source waits for. `kind` is what repetitions are told by: texts may differ in detail.
    pub(super) fn waiting(&mut self, kind: &'static str, why: &str) {
        self.tell(kind, || tracing::warn!("identity: {why}"));
        self.change(|state| state.waiting_for = Some(why.to_owned()));
    }

    pub(super) fn set_connected(&mut self, connected: bool) {
        self.change(|state| state.connected = connected);
    }

    /// The Workload API's own gauge: with files there is no such connection.
    pub(super) fn set_api_connected(&mut self, client: Option<spiffe::WorkloadApiClient>) {
        let connected = client.is_some();
        self.metrics.connected.set(i64::from(connected));
        self.shared.jwt.set_client(client);
        self.set_connected(connected);
    }

    /// Looks at the clock; true once for each SVID that has expired.
    pub(super) fn note_expiry(&mut self) -> bool {
        let Some(snapshot) = self.usable() else { return false };
        if snapshot.svid.is_valid_at(self.now()) || self.told_expired == Some(snapshot.revision) {
            return false;
        }
        self.told_expired = Some(snapshot.revision);
        tracing::error!(
            spiffe_id = %snapshot.svid.id,
            "identity: the X.509-SVID expired at {}; it is not used any more",
            snapshot.svid.not_after
        );
        let revision = self.next_revision();
        self.announce(revision);
        true
    }

    fn tell(&mut self, kind: &'static str, log: impl FnOnce()) {
        let count = self.trouble.entry(kind).or_insert(0);
        *count = count.saturating_add(1);
        if *count <= LOGGED {
            log();
            if *count == LOGGED {
                tracing::warn!("identity: the same again ({kind}) is not logged until an update is accepted");
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut IdentityState)) {
        self.shared.state.change(change);
    }

    fn next_revision(&self) -> u64 {
        *self.shared.state.changes.borrow() + 1
    }

    /// After the state, so that whoever is woken sees it.
    fn announce(&self, revision: u64) {
        self.shared.state.changes.send_replace(revision);
    }
}

//! What is known of the identity: replaced as a whole by the source's owner, judged by the clock whenever it is read.
use super::SpiffeId;
use super::snapshot::Snapshot;
use crate::clock::{Clock, Timestamp};
use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;
use tokio::sync::watch;

/// There is no identity that may be used now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Missing {
    /// `waiting` (none yet), `expired` or `withdrawn`.
    pub kind: MissingKind,
    /// What is missing and what to do about it, for people.
    pub reason: String,
}

/// How an identity can be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingKind {
    /// None has come yet.
    Waiting,
    /// The last one expired before a new one came.
    Expired,
    /// The Workload API took it back.
    Withdrawn,
}

impl MissingKind {
    /// A stable name for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// What the owner learned so far.
#[derive(Clone, Default)]
pub(super) struct IdentityState {
    /// The last snapshot accepted.
    pub(super) held: Option<Arc<Snapshot>>,
    /// Why `held` may not be used although it may not have expired.
    pub(super) withdrawn: Option<String>,
    pub(super) waiting_for: Option<String>,
    pub(super) connected: bool,
    pub(super) last_refused: Option<String>,
}

impl IdentityState {
    /// The snapshot that may be used, if the clock allows.
    pub(super) fn usable(&self) -> Option<&Arc<Snapshot>> {
        if self.withdrawn.is_some() { None } else { self.held.as_ref() }
    }
}

/// The state as readers and the owner share it.
pub(super) struct SharedState {
    pub(super) source: String,
    /// The clock that validity is judged by.
    pub(super) clock: Clock,
    state: ArcSwap<IdentityState>,
    pub(super) changes: watch::Sender<u64>,
}

impl SharedState {
    /// `source` names the source for people.
    pub(super) fn new(source: String, clock: Clock) -> Self {
        Self { source, clock, state: ArcSwap::from_pointee(IdentityState::default()), changes: watch::Sender::new(0) }
    }

    pub(super) fn load(&self) -> Guard<Arc<IdentityState>> {
        self.state.load()
    }

    /// Changes the state. Only the one owner calls it: of two changes at the same time one would be lost.
    pub(super) fn change(&self, change: impl FnOnce(&mut IdentityState)) {
        let mut state = IdentityState::clone(&self.load());
        change(&mut state);
        self.state.store(Arc::new(state));
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn current(&self) -> Result<Arc<Snapshot>, Missing> {
        let state = self.load();
        match state.usable() {
            Some(snapshot) if snapshot.svid.is_valid_at(self.now()) => Ok(snapshot.clone()),
            _ => Err(missing(&self.source, &state)),
        }
    }

    pub(super) fn is_valid(&self) -> bool {
        self.load().usable().is_some_and(|snapshot| snapshot.svid.is_valid_at(self.now()))
    }

    /// Whether this SPIFFE ID is the one that may be used now.
    pub(super) fn is_current(&self, id: &SpiffeId) -> Result<(), Missing> {
        let current = self.current()?;
        if current.svid.id == *id {
            return Ok(());
        }
        let reason = format!("the identity changed from {id} to {} meanwhile; ask again", current.svid.id);
        Err(Missing { kind: MissingKind::Withdrawn, reason })
    }
}

fn missing(source: &str, state: &IdentityState) -> Missing {
    let waiting = state.waiting_for.as_deref().unwrap_or("no update has come since");
    match (&state.withdrawn, &state.held) {
        (Some(why), _) => {
            let mut reason = format!("the identity was withdrawn: {why}");
            if state.waiting_for.as_ref().is_some_and(|waiting| waiting != why) {
                reason = format!("{reason}; now: {waiting}");
            }
            Missing { kind: MissingKind::Withdrawn, reason }
        }
        (None, Some(snapshot)) => {
            let at = snapshot.svid.not_after;
            let reason = format!(
                "the X.509-SVID of {} expired at {at} and {source} gave no new one: {waiting}",
                snapshot.svid.id
            );
            Missing { kind: MissingKind::Expired, reason }
        }
        (None, None) => Missing {
            kind: MissingKind::Waiting,
            reason: format!(
                "there is no identity yet: {}",
                state.waiting_for.as_deref().unwrap_or("its source has not been asked")
            ),
        },
    }
}

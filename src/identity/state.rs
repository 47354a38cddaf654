//! The state of the identity. The source's task replaces it as a whole; readers compare it with the
//! clock.
use super::SpiffeId;
use super::snapshot::Snapshot;
use crate::clock::{Clock, Timestamp};
use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;
use tokio::sync::watch;

/// Why no identity can be used now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Missing {
    /// How the identity is missing.
    pub kind: MissingKind,
    /// What is missing and what to do about it, described for people.
    pub reason: String,
}

/// How an identity can be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingKind {
    /// The source has not delivered one yet.
    Waiting,
    /// The last one expired before a new one arrived.
    Expired,
    /// The Workload API withdrew it.
    Withdrawn,
}

impl MissingKind {
    /// Returns a stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// What the source has delivered so far, and what it is waiting for.
#[derive(Clone, Default)]
pub(super) struct IdentityState {
    /// The last snapshot accepted.
    pub(super) held: Option<Arc<Snapshot>>,
    /// Why `held` must not be used, even if it has not expired.
    pub(super) withdrawn: Option<String>,
    pub(super) waiting_for: Option<String>,
    pub(super) connected: bool,
    pub(super) last_refused: Option<String>,
}

impl IdentityState {
    /// Returns the latest snapshot unless it was withdrawn. The caller compares its expiry with the
    /// clock.
    pub(super) fn not_withdrawn(&self) -> Option<&Arc<Snapshot>> {
        if self.withdrawn.is_some() { None } else { self.held.as_ref() }
    }
}

/// The state that readers and the source's task share.
pub(super) struct SharedState {
    pub(super) source: String,
    /// The clock that decides whether an SVID has expired.
    pub(super) clock: Clock,
    state: ArcSwap<IdentityState>,
    pub(super) changes: watch::Sender<u64>,
}

impl SharedState {
    /// `source` describes the source for people.
    pub(super) fn new(source: String, clock: Clock) -> Self {
        Self { source, clock, state: ArcSwap::from_pointee(IdentityState::default()), changes: watch::Sender::new(0) }
    }

    pub(super) fn load(&self) -> Guard<Arc<IdentityState>> {
        self.state.load()
    }

    /// Replaces the state by a changed copy. Only the source's task may call this: of two
    /// concurrent changes one would be lost.
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
        match state.not_withdrawn() {
            Some(snapshot) if snapshot.svid.is_valid_at(self.now()) => Ok(snapshot.clone()),
            _ => Err(missing(&self.source, &state)),
        }
    }

    pub(super) fn is_valid(&self) -> bool {
        self.load().not_withdrawn().is_some_and(|snapshot| snapshot.svid.is_valid_at(self.now()))
    }

    /// Checks that this SPIFFE ID is the one that can be used now.
    pub(super) fn check_current(&self, id: &SpiffeId) -> Result<(), Missing> {
        let current = self.current()?;
        if current.svid.id == *id {
            return Ok(());
        }
        let reason = format!("the identity changed from {id} to {} in the meantime; try again", current.svid.id);
        Err(Missing { kind: MissingKind::Withdrawn, reason })
    }
}

fn missing(source: &str, state: &IdentityState) -> Missing {
    let waiting = state.waiting_for.as_deref().unwrap_or("no update has arrived since");
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
                "the X.509-SVID of {} expired at {at} and {source} has delivered no new one: {waiting}",
                snapshot.svid.id
            );
            Missing { kind: MissingKind::Expired, reason }
        }
        (None, None) => Missing {
            kind: MissingKind::Waiting,
            reason: format!(
                "no identity has arrived yet: {}",
                state.waiting_for.as_deref().unwrap_or("its source has not been asked")
            ),
        },
    }
}

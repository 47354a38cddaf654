//! The reader's side: one atomic load and the clock say whether there is an identity now, and why not.
use super::jwt::{JwtIssuer, JwtSvid, JwtSvidError};
use super::snapshot::Snapshot;
use super::{SpiffeId, people_time};
use crate::clock::{Clock, Timestamp};
use arc_swap::ArcSwap;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// A handle to the identity that some source keeps current. Cheap to clone, shared by all threads.
#[derive(Clone)]
pub struct Identity(pub(super) Arc<Shared>);

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

/// The identity at one moment, for the admin page. No secret is in it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Status {
    /// Where it comes from.
    pub source: String,
    /// Whether the Workload API's stream is open and has delivered; with files, whether they could be read last time.
    pub connected: bool,
    /// Whether there is an SVID that may be used now.
    pub valid: bool,
    /// What the source waits for, for people.
    pub waiting_for: Option<String>,
    /// The SPIFFE ID last held, even if it may not be used any more.
    pub spiffe_id: Option<String>,
    /// When that SVID expires, in seconds since the epoch.
    pub expires_at: Option<u64>,
    /// The other trust domains whose bundles are held.
    pub federated_trust_domains: Vec<String>,
    /// Grows with every change.
    pub revision: u64,
    /// Why the last refused update was refused.
    pub last_refused: Option<String>,
}

pub(super) struct Shared {
    pub(super) source: String,
    pub(super) clock: Clock,
    pub(super) state: ArcSwap<State>,
    pub(super) changes: watch::Sender<u64>,
    pub(super) jwt: JwtIssuer,
}

/// Replaced as a whole by the one owner.
#[derive(Clone, Default)]
pub(super) struct State {
    /// The last snapshot accepted.
    pub(super) held: Option<Arc<Snapshot>>,
    /// Why `held` may not be used although it may not have expired.
    pub(super) withdrawn: Option<String>,
    pub(super) waiting_for: Option<String>,
    pub(super) connected: bool,
    pub(super) last_refused: Option<String>,
}

impl State {
    /// The snapshot that may be used, if the clock allows.
    pub(super) fn usable(&self) -> Option<&Arc<Snapshot>> {
        if self.withdrawn.is_some() { None } else { self.held.as_ref() }
    }
}

impl Identity {
    /// What may be used now, by the clock.
    ///
    /// # Errors
    /// [`Missing`], with what it waits for.
    pub fn current(&self) -> Result<Arc<Snapshot>, Missing> {
        let state = self.0.state.load();
        match state.usable() {
            Some(snapshot) if snapshot.svid.is_valid_at(self.0.clock.now()) => Ok(snapshot.clone()),
            _ => Err(missing(&self.0.source, &state)),
        }
    }

    /// Whether [`Self::current`] would succeed; for the request path.
    pub fn is_valid(&self) -> bool {
        let state = self.0.state.load();
        state.usable().is_some_and(|snapshot| snapshot.svid.is_valid_at(self.0.clock.now()))
    }

    /// What was accepted last, even if it has expired or was withdrawn; to be shown, never to be used.
    pub fn latest_held(&self) -> Option<Arc<Snapshot>> {
        self.0.state.load().held.clone()
    }

    /// The revision; it grows with every accepted update that brought something new, every withdrawal and every expiry.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// A JWT-SVID for exactly this audience and the SPIFFE ID of [`Self::current`], from the cache to half of its life.
    ///
    /// # Errors
    /// There is no identity now, the source has no JWT-SVIDs, or the Workload API refused or did not answer in time.
    pub async fn jwt_svid(&self, audience: &str) -> Result<JwtSvid, JwtSvidError> {
        self.0.jwt.svid(self, audience).await
    }

    /// For the admin page.
    pub fn status(&self) -> Status {
        let state = self.0.state.load();
        let svid = state.held.as_ref().map(|snapshot| &snapshot.svid);
        let federated = state.held.iter().flat_map(|snapshot| snapshot.federated());
        Status {
            source: self.0.source.clone(),
            connected: state.connected,
            valid: self.is_valid(),
            waiting_for: state.waiting_for.clone(),
            spiffe_id: svid.map(|svid| svid.id.to_string()),
            expires_at: svid.map(|svid| svid.not_after.unix_seconds()),
            federated_trust_domains: federated.map(ToString::to_string).collect(),
            revision: *self.0.changes.borrow(),
            last_refused: state.last_refused.clone(),
        }
    }

    /// The clock that validity is judged by.
    pub(super) fn now(&self) -> Timestamp {
        self.0.clock.now()
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

impl fmt::Debug for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Identity").field("source", &self.0.source).finish_non_exhaustive()
    }
}

fn missing(source: &str, state: &State) -> Missing {
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
            let at = people_time(snapshot.svid.not_after);
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

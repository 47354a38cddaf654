//! The state of one token in the owner.
//!
//! Sharing follows the rules of [`crate::single_flight`]: callers that arrive during a fetch wait
//! for it and share its result, good or bad; a usable token is served while it is renewed; a
//! failure is remembered briefly; and after a failed renewal the next one is delayed. That module
//! is not used, because here a fetch runs in a task that no caller leads, a refused token voids the
//! fetch in flight, and its waiters then start over.
use super::event::{TokenError, Waiter};
use super::key::UserToken;
use super::schedule::{refresh_at, retry_after};
use super::slot::{AccessToken, Slot};
use crate::clock::Timestamp;
use crate::exchange::ExchangeError;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// One token, or why there is none.
pub(super) struct Entry {
    /// The slot of the grant, which is dropped once no configuration names the grant any more.
    pub(super) slot: Weak<Slot>,
    pub(super) delegated: bool,
    pub(super) held: Option<Arc<AccessToken>>,
    /// Whether the last token was neither refused nor purged, so that it should be renewed even
    /// after it has expired.
    pub(super) renewing: bool,
    pub(super) waiters: Vec<Waiter>,
    /// The generation in which the fetch in flight began. Its result counts only if the generation
    /// is still the same.
    pub(super) fetching: Option<u64>,
    /// Whether the fetch in flight renews a token ahead of its expiry, for the metrics.
    pub(super) refreshing: bool,
    /// Grows when a token is refused or purged, so that the result of a fetch that began before is
    /// discarded.
    pub(super) generation: u64,
    /// The last failure, and until when further callers get it.
    pub(super) negative: Option<(ExchangeError, Timestamp)>,
    pub(super) refresh_at: Timestamp,
    /// The number of failed fetches in a row.
    pub(super) failures: u32,
    /// The time at which a refused token was last replaced.
    pub(super) reminted_at: Option<Timestamp>,
    /// The user's token, kept only during a delegated fetch, which may have to start over.
    pub(super) user: Option<UserToken>,
}

impl Entry {
    pub(super) fn new(slot: &Arc<Slot>) -> Self {
        Self {
            slot: Arc::downgrade(slot),
            delegated: slot.grant().is_delegated(),
            held: None,
            renewing: false,
            waiters: Vec::new(),
            fetching: None,
            refreshing: false,
            generation: 0,
            negative: None,
            refresh_at: Timestamp::FAR_FUTURE,
            failures: 0,
            reminted_at: None,
            user: None,
        }
    }

    /// The failure of the last fetch, while it is remembered.
    pub(super) fn remembered_failure(&self, now: Timestamp) -> Option<ExchangeError> {
        self.negative.as_ref().filter(|(_, until)| now < *until).map(|(error, _)| error.clone())
    }

    pub(super) fn usable(&self, now: Timestamp) -> Option<Arc<AccessToken>> {
        self.held.clone().filter(|token| token.is_usable(now))
    }

    /// Stores the fetched token and sends it to all waiters.
    pub(super) fn accept(&mut self, token: &Arc<AccessToken>, jitter: f64) {
        self.failures = 0;
        self.negative = None;
        self.refresh_at = refresh_at(token.minted_at(), token.expires_at(), jitter);
        self.held = Some(Arc::clone(token));
        self.renewing = true;
        self.user = None;
        if !self.delegated
            && let Some(slot) = self.slot.upgrade()
        {
            slot.hold(Some(Arc::clone(token)));
        }
        self.answer(&Ok(Arc::clone(token)));
    }

    /// Records a failed fetch. The held token stays until it expires, all waiters share the error,
    /// and the next attempt is delayed.
    pub(super) fn fail(&mut self, error: &ExchangeError, now: Timestamp, jitter: f64) {
        let wait = error.retry_after().unwrap_or(Duration::ZERO).max(error.negative_ttl());
        let wait = wait.max(retry_after(self.failures, jitter));
        self.failures = self.failures.saturating_add(1);
        self.refresh_at = now.plus(wait);
        self.negative = Some((error.clone(), now.plus(error.negative_ttl())));
        self.user = None;
        self.answer(&Err(TokenError::Exchange(error.clone())));
    }

    /// Drops the held token and voids the fetch in flight.
    pub(super) fn drop_held(&mut self) {
        self.generation += 1;
        self.held = None;
        self.renewing = false;
        self.refresh_at = Timestamp::FAR_FUTURE;
        if !self.delegated
            && let Some(slot) = self.slot.upgrade()
        {
            slot.hold(None);
        }
    }

    /// Drops an expired token, because it is a secret without further use. The slot still knows
    /// when it expired.
    pub(super) fn drop_expired(&mut self, now: Timestamp) {
        if self.usable(now).is_none()
            && self.held.take().is_some()
            && let Some(slot) = self.slot.upgrade().filter(|_| !self.delegated)
        {
            slot.clear();
        }
    }

    /// Whether the entry can be removed without losing anything.
    pub(super) fn is_spent(&self, now: Timestamp) -> bool {
        let idle = self.fetching.is_none() && self.waiters.is_empty();
        idle && self.usable(now).is_none()
            && self.remembered_failure(now).is_none()
            && (self.delegated || self.slot.strong_count() == 0)
    }

    fn answer(&mut self, result: &Result<Arc<AccessToken>, TokenError>) {
        for waiter in self.waiters.drain(..) {
            // An error means that the caller has hung up; the result stays in the cache for the
            // next one.
            let _ = waiter.reply.send(result.clone());
        }
    }
}

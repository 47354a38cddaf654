//! One key's state in the owner.
use super::event::{TokenError, Waiter};
use super::key::UserToken;
use super::schedule::{refresh_at, retry_after};
use super::slot::{AccessToken, Slot};
use crate::clock::Timestamp;
use crate::exchange::ExchangeError;
use std::sync::{Arc, Weak};
use std::time::Duration;

pub(super) struct Entry {
    /// Gone once no configuration names the grant any more.
    pub(super) slot: Weak<Slot>,
    pub(super) delegated: bool,
    pub(super) held: Option<Arc<AccessToken>>,
    /// There was a token that was neither refused nor purged: another one is wanted ahead of its end, or after it.
    pub(super) renewing: bool,
    pub(super) waiters: Vec<Waiter>,
    /// A fetch is under way; what it brings counts only if `generation` is still this.
    pub(super) fetching: Option<u64>,
    pub(super) refreshing: bool,
    /// Grows when a token is refused or purged: a mint that began before cannot bring the old state back.
    pub(super) generation: u64,
    pub(super) negative: Option<(ExchangeError, Timestamp)>,
    pub(super) refresh_at: Timestamp,
    pub(super) failures: u32,
    /// When a refused token was last replaced.
    pub(super) reminted_at: Option<Timestamp>,
    /// Kept only while a delegated fetch is under way, which may have to begin again.
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

    /// The error that still stands from the last fetch.
    pub(super) fn standing_error(&self, now: Timestamp) -> Option<ExchangeError> {
        self.negative.as_ref().filter(|(_, until)| now < *until).map(|(error, _)| error.clone())
    }

    pub(super) fn usable(&self, now: Timestamp) -> Option<Arc<AccessToken>> {
        self.held.clone().filter(|token| token.is_usable(now))
    }

    /// Takes what a fetch brought and tells every waiter.
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

    /// A fetch failed: what is held stays until its real end, waiters share the error, and the next try waits.
    pub(super) fn fail(&mut self, error: &ExchangeError, now: Timestamp, jitter: f64) {
        let wait = error.retry_after().unwrap_or(Duration::ZERO).max(error.negative_ttl());
        let wait = wait.max(retry_after(self.failures, jitter));
        self.failures = self.failures.saturating_add(1);
        self.refresh_at = now.plus(wait);
        self.negative = Some((error.clone(), now.plus(error.negative_ttl())));
        self.user = None;
        self.answer(&Err(TokenError::Exchange(error.clone())));
    }

    /// Lets the held token die.
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

    /// Lets a token go that is over: a secret that nobody can use any more. That there was one stays known, and when it ended.
    pub(super) fn drop_expired(&mut self, now: Timestamp) {
        if self.usable(now).is_none()
            && self.held.take().is_some()
            && let Some(slot) = self.slot.upgrade().filter(|_| !self.delegated)
        {
            slot.let_go();
        }
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_spent(&self, now: Timestamp) -> bool {
        let idle = self.fetching.is_none() && self.waiters.is_empty();
        idle && self.usable(now).is_none()
            && self.standing_error(now).is_none()
            && (self.delegated || self.slot.strong_count() == 0)
    }

    fn answer(&mut self, result: &Result<Arc<AccessToken>, TokenError>) {
        for waiter in self.waiters.drain(..) {
            // An error means that the caller has left; the result stays in the cache for the next one.
            let _ = waiter.reply.send(result.clone());
        }
    }
}

//! The handle that the data plane asks, and what it gets.
use super::entry::{Reply, Waiter};
use super::key::UserToken;
use super::metrics::Metrics;
use super::owner::Owner;
use super::slot::{AccessToken, Slot};
use crate::clock::{Clock, Timestamp};
use crate::exchange::{ExchangeError, Grant, GrantDigest};
use crate::identity::Identity;
use lru::LruCache;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Bounds of the cache.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The longest that a request waits for a token.
    pub token_timeout: Duration,
    /// Requests that may wait for the owner at one time: as many as may be in flight. Past it a request is answered at once.
    pub waiting: NonZeroUsize,
    /// Delegated tokens held at most, in the owner.
    pub delegated: NonZeroUsize,
    /// A refused token is replaced at most once in this time.
    pub remint_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            token_timeout: Duration::from_secs(10),
            waiting: NonZeroUsize::new(10_000).expect("not zero"),
            delegated: NonZeroUsize::new(4096).expect("not zero"),
            remint_interval: Duration::from_secs(10),
        }
    }
}

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// The exchange failed; every waiter has the same.
    #[error(transparent)]
    Exchange(ExchangeError),
    /// Nothing came within the token timeout; the exchange goes on for those who come later.
    #[error("no token within the time that a request waits for one")]
    Timeout,
    /// More requests wait for tokens than the owner takes.
    #[error("too many requests are waiting for a token")]
    Busy,
    /// The process is going down.
    #[error("the proxy is shutting down")]
    Stopped,
}

pub(super) enum Event {
    Want { slot: Arc<Slot>, user: Option<UserToken>, waiter: Waiter },
    Rejected { slot: Arc<Slot>, user: Option<UserToken>, serial: u64, waiter: Waiter },
    Eager { slot: Arc<Slot> },
}

/// Asks the owner. Cloned freely.
#[derive(Clone)]
pub struct Tokens {
    events: mpsc::Sender<Event>,
    slots: Arc<Mutex<HashMap<GrantDigest, Weak<Slot>>>>,
    fence: Arc<AtomicU64>,
    clock: Clock,
    timeout: Duration,
    metrics: Metrics,
}

impl Tokens {
    /// A handle, and the owner that must be run for it.
    pub fn new<M>(
        mint: M,
        identity: Option<Identity>,
        clock: Clock,
        metrics: Metrics,
        settings: Settings,
    ) -> (Self, Owner<M>) {
        let (sender, receiver) = mpsc::channel(settings.waiting.get());
        let fence = Arc::new(AtomicU64::new(0));
        let tokens = Self {
            events: sender,
            slots: Arc::default(),
            fence: Arc::clone(&fence),
            clock: clock.clone(),
            timeout: settings.token_timeout,
            metrics: metrics.clone(),
        };
        (tokens, Owner::new(mint, receiver, super::owner::Surroundings { identity, clock, metrics, settings, fence }))
    }

    /// The slot of a grant: the same one for equal grants, so that a reload keeps its tokens.
    pub fn slot(&self, grant: &Arc<Grant>) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| slot.strong_count() > 0);
        let digest = grant.digest();
        if let Some(slot) = slots.get(&digest).and_then(Weak::upgrade) {
            slot.renew(grant);
            return slot;
        }
        let slot = Arc::new(Slot::new(Arc::clone(grant)));
        slots.insert(digest, Arc::downgrade(&slot));
        slot
    }

    /// Has a grant of the workload's own obtained ahead of the first request, and kept.
    pub async fn make_eager(&self, slot: &Arc<Slot>, eager: bool) {
        slot.set_eager(eager);
        if eager && slot.held().is_none() {
            // An error means that the owner is gone, and with it the process.
            let _ = self.events.send(Event::Eager { slot: Arc::clone(slot) }).await;
        }
    }

    /// The held token of a grant of the workload's own.
    pub fn ready(&self, slot: &Slot, now: Timestamp) -> Option<Arc<AccessToken>> {
        let token = slot.ready(now)?;
        self.metrics.hit.inc();
        Some(token)
    }

    /// A token from the owner: held by it, or minted now.
    pub async fn obtain(&self, slot: &Arc<Slot>, user: Option<UserToken>) -> Result<Arc<AccessToken>, TokenError> {
        self.ask(|waiter| Event::Want { slot: Arc::clone(slot), user, waiter }).await
    }

    /// After an upstream refused `token` as invalid: another one. The refused one itself comes back where it was replaced a
    /// moment ago already, because a second replacement would be refused as well.
    pub async fn replace(
        &self,
        slot: &Arc<Slot>,
        user: Option<UserToken>,
        token: &AccessToken,
    ) -> Result<Arc<AccessToken>, TokenError> {
        let serial = token.serial();
        self.ask(|waiter| Event::Rejected { slot: Arc::clone(slot), user, serial, waiter }).await
    }

    /// The same where nobody waits for the other one, because the request cannot be sent again.
    pub fn discard(&self, slot: &Arc<Slot>, user: Option<UserToken>, token: &AccessToken) {
        let (reply, _): (Reply, _) = oneshot::channel();
        let (slot, serial) = (Arc::clone(slot), token.serial());
        // Where the owner has no room for it, or is gone, the upstream refuses the next request as well.
        let _ = self.events.try_send(Event::Rejected { slot, user, serial, waiter: Waiter { reply } });
    }

    /// Now, by the clock that tokens are judged by.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Grows whenever tokens may have died other than by age; what a worker cached before is void.
    pub(super) fn fence(&self) -> u64 {
        self.fence.load(Ordering::Acquire)
    }

    async fn ask(&self, event: impl FnOnce(Waiter) -> Event) -> Result<Arc<AccessToken>, TokenError> {
        let (reply, answer): (Reply, _) = oneshot::channel();
        self.events.try_send(event(Waiter { reply })).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TokenError::Busy,
            mpsc::error::TrySendError::Closed(_) => TokenError::Stopped,
        })?;
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(TokenError::Stopped),
            Err(_) => Err(TokenError::Timeout),
        }
    }
}

/// A worker's own memory of delegated tokens, from (grant, SHA-256 of the user's token), so that a user's token is verified
/// once per worker and not once per request.
pub struct Delegated {
    tokens: LruCache<(u64, [u8; 32]), (u64, Arc<AccessToken>)>,
}

impl Delegated {
    /// Holds at most `capacity` tokens.
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self { tokens: LruCache::new(capacity) }
    }

    /// The token that this user's token minted, while it lives.
    pub fn ready(&mut self, tokens: &Tokens, slot: &Slot, hash: [u8; 32]) -> Option<Arc<AccessToken>> {
        let (fence, token) = self.tokens.get(&(slot.id(), hash))?;
        if *fence != tokens.fence() || !token.is_usable(tokens.now()) {
            self.tokens.pop(&(slot.id(), hash));
            return None;
        }
        tokens.metrics.hit.inc();
        Some(Arc::clone(token))
    }

    /// Remembers what the owner answered to a question that began at `fence`.
    pub fn remember(&mut self, fence: u64, slot: &Slot, hash: [u8; 32], token: &Arc<AccessToken>) {
        self.tokens.put((slot.id(), hash), (fence, Arc::clone(token)));
    }

    /// The fence to give to [`Delegated::remember`]; read before asking.
    pub fn fence(tokens: &Tokens) -> u64 {
        tokens.fence()
    }
}

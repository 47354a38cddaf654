//! The handle that the data plane asks, and what it gets.
use super::event::{Event, Reply, TokenError, Waiter};
use super::key::UserToken;
use super::metrics::Metrics;
use super::owner::{Context, Owner};
use super::settings::Settings;
use super::slot::{AccessToken, Slot};
use crate::clock::{Clock, Timestamp};
use crate::exchange::{Grant, GrantDigest};
use crate::identity::Identity;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Asks the owner. Cloned freely.
#[derive(Clone)]
pub struct Tokens {
    events: mpsc::Sender<Event>,
    slots: Arc<Mutex<HashMap<GrantDigest, Weak<Slot>>>>,
    fence: Arc<AtomicU64>,
    clock: Clock,
    timeout: Duration,
    pub(super) metrics: Metrics,
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
        (tokens, Owner::new(mint, receiver, Context { identity, clock, metrics, settings, fence }))
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

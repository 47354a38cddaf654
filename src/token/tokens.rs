//! The handle through which the data plane obtains tokens.
use super::event::{Event, TokenError, Waiter};
use super::key::UserToken;
use super::metrics::Metrics;
use super::owner::{Context, Owner};
use super::settings::TokenSettings;
use super::slot::{AccessToken, Slot};
use crate::clock::{Clock, Timestamp};
use crate::exchange::{Grant, GrantDigest};
use crate::identity::Identity;
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A handle to the owner. Clones are cheap and share it.
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
    /// Creates a handle, and the owner that must run for it.
    pub fn new<M>(
        mint: M,
        identity: Option<Identity>,
        clock: Clock,
        metrics: Metrics,
        settings: TokenSettings,
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

    /// The slot of a grant. Equal grants share one, so that a reload keeps its tokens.
    pub fn slot(&self, grant: &Arc<Grant>) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        slots.retain(|_, slot| slot.strong_count() > 0);
        let digest = grant.digest();
        if let Some(slot) = slots.get(&digest).and_then(Weak::upgrade) {
            slot.replace_grant(grant);
            return slot;
        }
        let slot = Arc::new(Slot::new(Arc::clone(grant)));
        slots.insert(digest, Arc::downgrade(&slot));
        slot
    }

    /// Sets whether the token of one of the workload's own grants is obtained before the first
    /// request, and always renewed.
    pub async fn set_eager(&self, slot: &Arc<Slot>, eager: bool) {
        slot.set_eager(eager);
        if eager && slot.held().is_none() {
            // An error means that the owner has ended, and the process with it.
            let _ = self.events.send(Event::Eager { slot: Arc::clone(slot) }).await;
        }
    }

    /// The usable token of one of the workload's own grants, if it is held.
    pub fn ready(&self, slot: &Slot, now: Timestamp) -> Option<Arc<AccessToken>> {
        let token = slot.ready(now)?;
        self.metrics.hit.inc();
        Some(token)
    }

    /// Obtains a token from the owner, which returns the one that it holds or mints one.
    pub async fn obtain(&self, slot: &Arc<Slot>, user: Option<UserToken>) -> Result<Arc<AccessToken>, TokenError> {
        self.request(|waiter| Event::Want { slot: Arc::clone(slot), user, waiter }).await
    }

    /// Replaces `token`, which an upstream refused as invalid. It returns `token` itself if it
    /// replaced another refused one less than one interval ago, because another replacement would
    /// be refused as well.
    pub async fn replace(
        &self,
        slot: &Arc<Slot>,
        user: Option<UserToken>,
        token: &AccessToken,
    ) -> Result<Arc<AccessToken>, TokenError> {
        let serial = token.serial();
        self.request(|waiter| Event::Rejected { slot: Arc::clone(slot), user, serial, waiter }).await
    }

    /// Replaces `token` like [`Self::replace`], but does not wait, because the request cannot be
    /// sent again.
    pub fn discard(&self, slot: &Arc<Slot>, user: Option<UserToken>, token: &AccessToken) {
        let (reply, _) = oneshot::channel();
        let (slot, serial) = (Arc::clone(slot), token.serial());
        // If the owner's queue is full or the owner has ended, the upstream refuses the next
        // request as well.
        let _ = self.events.try_send(Event::Rejected { slot, user, serial, waiter: Waiter { reply } });
    }

    /// The current time, by the clock that decides whether tokens have expired.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A number that grows whenever tokens may have become invalid before they expire. What a
    /// worker cached under an earlier number is void.
    pub(super) fn fence(&self) -> u64 {
        self.fence.load(Ordering::Acquire)
    }

    async fn request(&self, event: impl FnOnce(Waiter) -> Event) -> Result<Arc<AccessToken>, TokenError> {
        let (reply, answer) = oneshot::channel();
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

//! The owner of all tokens: one task that applies one event at a time.
use super::entry::Entry;
use super::event::{Event, TokenError, Waiter};
use super::key::{TokenKey, UserToken};
use super::metrics::Metrics;
use super::settings::TokenSettings;
use super::slot::{AccessToken, Slot};
use crate::clock::{Clock, Timestamp};
use crate::exchange::{ExchangeError, Exchanger, Grant, IssuedToken};
use crate::identity::Identity;
use crate::secret::Secret;
use crate::tasks::Stop;
use crate::telemetry::gauge_value;
use lru::LruCache;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// A source of tokens: the exchange with authorization servers, or a test.
pub trait Mint: Clone + Send + Sync + 'static {
    /// Mints a token for a grant. `user` is the user's token, if the grant is delegated.
    fn mint(
        &self,
        grant: &Grant,
        user: Option<&Secret>,
    ) -> impl Future<Output = Result<IssuedToken, ExchangeError>> + Send;
}

impl Mint for Exchanger {
    async fn mint(&self, grant: &Grant, user: Option<&Secret>) -> Result<IssuedToken, ExchangeError> {
        Exchanger::mint(self, grant, user).await
    }
}

/// How many exchanges run at once, so that a burst of users does not become a burst at the
/// authorization server.
const CONCURRENT_FETCHES: usize = 64;
/// How often tokens are checked for expiry and renewal.
const TICK: Duration = Duration::from_secs(1);

/// The dependencies of the owner.
pub(super) struct Context {
    pub(super) identity: Option<Identity>,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) settings: TokenSettings,
    pub(super) fence: Arc<AtomicU64>,
}

/// The task behind [`super::Tokens`], with all its state.
pub struct Owner<M> {
    mint: M,
    events: mpsc::Receiver<Event>,
    entries: LruCache<TokenKey, Entry>,
    fetches: JoinSet<Done>,
    permits: Arc<Semaphore>,
    /// The SPIFFE ID in whose name the held tokens were minted.
    spiffe_id: Option<String>,
    context: Context,
}

/// The result of a fetch.
struct Done {
    key: TokenKey,
    generation: u64,
    result: Result<IssuedToken, ExchangeError>,
}

impl<M> Owner<M> {
    pub(super) fn new(mint: M, events: mpsc::Receiver<Event>, context: Context) -> Self {
        Self {
            mint,
            events,
            entries: LruCache::unbounded(),
            fetches: JoinSet::new(),
            permits: Arc::new(Semaphore::new(CONCURRENT_FETCHES)),
            spiffe_id: None,
            context,
        }
    }
}

impl<M: Mint> Owner<M> {
    /// Runs until `stop` fires.
    pub async fn run(mut self, mut stop: Stop) -> Result<(), String> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut identity = self.context.identity.as_ref().map(Identity::changes);
        loop {
            tokio::select! {
                () = stop.stopped() => return Ok(()),
                event = self.events.recv() => match event {
                    Some(event) => self.apply(event),
                    None => return Ok(()),
                },
                Some(done) = self.fetches.join_next() => match done {
                    Ok(done) => self.finish(done),
                    Err(panic) => return Err(format!("a token exchange ended unexpectedly: {panic}")),
                },
                true = changed(identity.as_mut()) => self.purge_if_identity_changed(),
                _ = tick.tick() => self.tick(),
            }
        }
    }

    fn apply(&mut self, event: Event) {
        // The identity may have changed before this task noticed: a token of the old one must not
        // be served for the new one.
        self.purge_if_identity_changed();
        match event {
            Event::Want { slot, user, waiter } => self.want(&slot, user, Some(waiter)),
            Event::Eager { slot } => self.want(&slot, None, None),
            Event::Rejected { slot, user, serial, waiter } => self.replace(&slot, user, serial, waiter),
        }
    }

    /// Answers `waiter` from the cache, or starts or joins a fetch. Without a waiter it only
    /// fetches.
    fn want(&mut self, slot: &Arc<Slot>, user: Option<UserToken>, waiter: Option<Waiter>) {
        let now = self.context.clock.now();
        let key = self.key(slot, user.as_ref());
        let metrics = self.context.metrics.clone();
        let entry = self.entry(key, slot);
        let Some(waiter) = waiter else { return self.fetch(key, user) };
        slot.mark_used();
        if let Some(token) = entry.usable(now) {
            metrics.hit.inc();
            let _ = waiter.reply.send(Ok(token));
        } else if entry.fetching.is_some() {
            metrics.shared.inc();
            entry.waiters.push(waiter);
        } else if let Some(error) = entry.remembered_failure(now) {
            metrics.negative.inc();
            let _ = waiter.reply.send(Err(TokenError::Exchange(error)));
        } else {
            metrics.miss.inc();
            entry.waiters.push(waiter);
            self.fetch(key, user);
        }
    }

    /// Drops the held token if it is the refused one, and mints at most one replacement per
    /// interval.
    fn replace(&mut self, slot: &Arc<Slot>, user: Option<UserToken>, serial: u64, waiter: Waiter) {
        let now = self.context.clock.now();
        let interval = self.context.settings.remint_interval;
        let key = self.key(slot, user.as_ref());
        let entry = self.entry(key, slot);
        let held = entry.held.clone().filter(|token| token.serial() == serial);
        let Some(held) = held else { return self.want(slot, user, Some(waiter)) };
        if entry.reminted_at.is_some_and(|at| now.since(at) < interval) {
            let _ = waiter.reply.send(Ok(held));
            return;
        }
        entry.reminted_at = Some(now);
        entry.drop_held();
        self.context.fence.fetch_add(1, Ordering::AcqRel);
        self.want(slot, user, Some(waiter));
    }

    /// Records the result of a fetch.
    fn finish(&mut self, done: Done) {
        let Done { key, generation, result } = done;
        // As in `apply`: a token that was minted in the name of the old identity is void.
        self.purge_if_identity_changed();
        let now = self.context.clock.now();
        let Some(entry) = self.entries.peek_mut(&key) else { return };
        entry.fetching = None;
        let refreshing = std::mem::take(&mut entry.refreshing);
        let slot = entry.slot.upgrade();
        if entry.generation != generation {
            // This token was minted before its predecessor was refused or purged, so it is void.
            // The waiters start over, with the current key.
            let (waiters, user) = (std::mem::take(&mut entry.waiters), entry.user.take());
            let Some(slot) = slot else { return };
            if self.key(&slot, user.as_ref()) != key {
                self.entries.pop(&key);
            }
            waiters.into_iter().for_each(|waiter| self.want(&slot, user.clone(), Some(waiter)));
            return;
        }
        let outcome = if result.is_ok() { "success" } else { "failure" };
        match result.map(|issued| AccessToken::new(issued, now)) {
            Ok(Some(token)) => entry.accept(&Arc::new(token), fastrand::f64()),
            Ok(None) => entry.fail(&ExchangeError::unusable_token(), now, fastrand::f64()),
            Err(error) => {
                tracing::warn!(error = %error, kind = error.kind(), refreshing, "no token from the authorization server");
                entry.fail(&error, now, fastrand::f64());
            }
        }
        if refreshing && let Some(slot) = slot {
            self.context.metrics.refreshes.with_label_values(&[slot.grant().server().name.as_str(), outcome]).inc();
        }
        self.evict_excess();
    }

    fn tick(&mut self) {
        let now = self.context.clock.now();
        let due: Vec<TokenKey> =
            self.entries.iter().filter(|(_, entry)| is_due(entry, now)).map(|(key, _)| *key).collect();
        for key in due {
            if let Some(entry) = self.entries.peek_mut(&key) {
                entry.refreshing = entry.renewing;
                self.fetch(key, None);
            }
        }
        for (_, entry) in &mut self.entries {
            entry.drop_expired(now);
        }
        let spent: Vec<TokenKey> =
            self.entries.iter().filter(|(_, entry)| entry.is_spent(now)).map(|(key, _)| *key).collect();
        for key in spent {
            self.entries.pop(&key);
        }
        let held = || self.entries.iter().filter_map(|(_, entry)| entry.held.as_ref());
        self.context.metrics.entries.set(gauge_value(held().count()));
        self.context.metrics.bytes.set(gauge_value(held().map(|token| token.size()).sum::<usize>()));
    }

    /// If the identity has changed or is gone, drops every token that was minted in its name.
    fn purge_if_identity_changed(&mut self) {
        let Some(identity) = &self.context.identity else { return };
        let id = identity.current().ok().map(|snapshot| snapshot.svid.id.to_string());
        if id == self.spiffe_id {
            return;
        }
        self.spiffe_id = id;
        self.context.fence.fetch_add(1, Ordering::AcqRel);
        let mut eager = Vec::new();
        let mut idle = Vec::new();
        for (key, entry) in &mut self.entries {
            let Some(slot) = entry.slot.upgrade().filter(|slot| slot.grant().needs_identity()) else { continue };
            entry.drop_held();
            if entry.fetching.is_none() {
                idle.push(*key);
            }
            if slot.is_eager() {
                eager.push(slot);
            }
        }
        for key in idle {
            self.entries.pop(&key);
        }
        for slot in eager {
            self.want(&slot, None, None);
        }
    }

    fn fetch(&mut self, key: TokenKey, user: Option<UserToken>) {
        let Some(entry) = self.entries.peek_mut(&key) else { return };
        let Some(slot) = entry.slot.upgrade().filter(|_| entry.fetching.is_none()) else { return };
        entry.fetching = Some(entry.generation);
        entry.user.clone_from(&user);
        let generation = entry.generation;
        let (mint, permits) = (self.mint.clone(), Arc::clone(&self.permits));
        self.fetches.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let result = mint.mint(&slot.grant(), user.as_ref().map(|user| &user.token)).await;
            Done { key, generation, result }
        });
    }

    fn key(&self, slot: &Slot, user: Option<&UserToken>) -> TokenKey {
        let grant = slot.grant();
        TokenKey::new(&grant.digest(), self.spiffe_id.as_deref().filter(|_| grant.needs_identity()), user)
    }

    fn entry(&mut self, key: TokenKey, slot: &Arc<Slot>) -> &mut Entry {
        let entry = self.entries.get_or_insert_mut(key, || Entry::new(slot));
        if entry.slot.strong_count() == 0 {
            entry.slot = Arc::downgrade(slot);
        }
        entry
    }

    /// Evicts the least recently used delegated tokens beyond the limit.
    fn evict_excess(&mut self) {
        let limit = self.context.settings.delegated.get();
        let idle = |entry: &Entry| entry.delegated && entry.fetching.is_none();
        while self.entries.iter().filter(|(_, entry)| entry.delegated).count() > limit {
            let oldest = self.entries.iter().rev().find(|(_, entry)| idle(entry)).map(|(key, _)| *key);
            let Some(oldest) = oldest else { return };
            self.entries.pop(&oldest);
        }
    }
}

/// Whether a token is due for renewal. Only the workload's own grants are renewed: eager ones
/// always, the others while they are in use. Renewing a delegated grant would mean keeping the
/// user's token.
fn is_due(entry: &Entry, now: Timestamp) -> bool {
    if entry.delegated || entry.fetching.is_some() || now < entry.refresh_at {
        return false;
    }
    entry.slot.upgrade().is_some_and(|slot| slot.is_eager() || (entry.renewing && slot.take_used()))
}

async fn changed(identity: Option<&mut tokio::sync::watch::Receiver<u64>>) -> bool {
    match identity {
        Some(changes) => changes.changed().await.is_ok(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Registrar;
    use crate::token::Tokens;
    use crate::token::tests::grant;
    use tokio::sync::oneshot;

    #[derive(Clone)]
    struct Ready {
        clock: Clock,
        refuses: bool,
    }

    impl Mint for Ready {
        async fn mint(&self, _: &Grant, _: Option<&Secret>) -> Result<IssuedToken, ExchangeError> {
            if self.refuses {
                return Err(ExchangeError::unusable_token());
            }
            let expires_at = self.clock.now().plus(Duration::from_secs(1000));
            Ok(IssuedToken { token: Secret::new("token".to_owned()), expires_at, scopes: Vec::new() })
        }
    }

    #[tokio::test]
    async fn user_token_is_kept_only_during_the_fetch() {
        for refuses in [false, true] {
            let clock = Clock::shiftable();
            let metrics = Metrics::new(&Registrar::default(), ["as"]).expect("metrics");
            let mint = Ready { clock: clock.clone(), refuses };
            let (tokens, owner) = Tokens::new(mint, None, clock, metrics, TokenSettings::default());
            assert_kept_only_while_fetching(&tokens.slot(&grant("a", true)), owner).await;
        }
    }

    async fn assert_kept_only_while_fetching(slot: &Arc<Slot>, mut owner: Owner<Ready>) {
        let want = |owner: &mut Owner<Ready>| -> oneshot::Receiver<Result<Arc<AccessToken>, TokenError>> {
            let (reply, answer) = oneshot::channel();
            owner.want(slot, Some(UserToken::new("alices".to_owned())), Some(Waiter { reply }));
            answer
        };
        let is_kept = |owner: &Owner<Ready>| owner.entries.iter().any(|(_, entry)| entry.user.is_some());
        let mut minted = want(&mut owner);
        assert!(is_kept(&owner));
        let done = owner.fetches.join_next().await.expect("a fetch").expect("no panic");
        owner.finish(done);
        let first = minted.try_recv().expect("answered");
        assert!(!is_kept(&owner), "after the fetch: {first:?}");
        let again = want(&mut owner).try_recv().expect("answered");
        assert_eq!(again.is_ok(), first.is_ok());
        assert!(!is_kept(&owner), "after the same answer: {again:?}");
    }
}

//! One fetch for many callers. [`SingleFlight`] lets one caller fetch what several want at the same
//! time; [`CachedValue`] also keeps the result while it is fresh, serves it while it is stale, and
//! remembers failures for a moment.
//!
//! Neither stores a future: the caller that leads drives its own, in place or in a task, so a fetch
//! need not be `Send`. A caller that hangs up cancels nothing for the others. If it was the leader,
//! one of the waiting callers leads next.
use crate::clock::{Clock, Timestamp};
use crate::sync::lock;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// Elects one of the callers that want the same thing at the same time. It remembers nothing once
/// the fetch has ended.
#[derive(Debug)]
pub struct SingleFlight<T> {
    /// Alive while there is a leader.
    in_flight: Mutex<Weak<watch::Sender<Option<T>>>>,
}

/// The role of a caller in a fetch.
#[derive(Debug)]
pub enum Role<T> {
    /// This caller fetches.
    Leader(Leader<T>),
    /// The caller waits for the leader.
    Follower(Follower<T>),
}

/// The one caller that fetches. Dropping it without [`Leader::finish`] makes one of the followers
/// lead.
#[derive(Debug)]
pub struct Leader<T>(Arc<watch::Sender<Option<T>>>);

/// A caller that waits for the leader's result.
#[derive(Debug)]
pub struct Follower<T>(watch::Receiver<Option<T>>);

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self { in_flight: Mutex::new(Weak::new()) }
    }
}

impl<T: Clone> SingleFlight<T> {
    /// Follows the fetch in flight, or leads a new one if there is none. This never waits.
    pub fn join(&self) -> Role<T> {
        let mut in_flight = lock(&self.in_flight);
        if let Some(leader) = in_flight.upgrade() {
            return Role::Follower(Follower(leader.subscribe()));
        }
        let leader = Arc::new(watch::Sender::new(None));
        *in_flight = Arc::downgrade(&leader);
        Role::Leader(Leader(leader))
    }

    /// Follows the fetch in flight, if there is one.
    pub fn follow(&self) -> Option<Follower<T>> {
        lock(&self.in_flight).upgrade().map(|leader| Follower(leader.subscribe()))
    }
}

impl<T: Clone> Leader<T> {
    /// Ends the fetch. All its followers get a clone of `result`; later callers fetch again.
    pub fn finish(self, result: T) {
        self.0.send_replace(Some(result));
    }

    /// A follower of this leader, for a caller that leaves the fetch to a task.
    pub fn follower(&self) -> Follower<T> {
        Follower(self.0.subscribe())
    }
}

impl<T: Clone> Follower<T> {
    /// The leader's result; `None` if the leader was dropped without one, and the caller should
    /// join again.
    pub async fn result(mut self) -> Option<T> {
        let result = self.0.wait_for(Option::is_some).await.ok()?;
        result.clone()
    }
}

/// A cache of one value, which is fetched once for many callers.
///
/// - While the value is fresh, it is served.
/// - While it is stale, one caller at a time fetches a newer one, and the others are served the
///   stale one without waiting. After a transient failure of the fetch, the stale value is served,
///   and not fetched again during [`FailurePolicy::pause`].
/// - Without a usable value, callers wait for one fetch and share its result, good or bad. A
///   failure answers later callers, too, during [`FailurePolicy::negative`].
#[derive(Debug)]
pub struct CachedValue<T, E> {
    policy: FailurePolicy<E>,
    state: Mutex<CacheState<T, E>>,
    flight: SingleFlight<Result<T, E>>,
}

/// The rules that apply after a fetch has failed.
#[derive(Clone, Copy, Debug)]
pub struct FailurePolicy<E> {
    /// How long a failure is served to further callers. With zero, only the callers that waited for
    /// the fetch share it.
    pub negative: Duration,
    /// How long a stale value is served without another attempt.
    pub pause: Duration,
    /// Whether a stale value may be served in place of this failure, because it may end by itself.
    pub is_transient: fn(&E) -> bool,
}

/// A value and the times that bound its use, by the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Fetched<T> {
    /// The value that was fetched.
    pub value: T,
    /// The value is not used while the clock reads earlier than this.
    pub valid_from: Timestamp,
    /// The time when the value becomes stale.
    pub fresh_until: Timestamp,
    /// The time when a stale value can no longer be used.
    pub usable_until: Timestamp,
}

/// A value that [`CachedValue::get`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served<T, E> {
    /// A fresh value, or a stale one that may still be used.
    pub value: T,
    /// Why a stale value was not renewed. Only the caller whose fetch failed gets it, so that it is
    /// logged once.
    pub renewal_failure: Option<E>,
}

#[derive(Debug)]
struct CacheState<T, E> {
    cached: Option<Fetched<T>>,
    /// When the last attempt to renew the cached value failed.
    paused_at: Option<Timestamp>,
    /// The last failure that was returned, and when that was.
    failed: Option<(E, Timestamp)>,
    /// The time of the last fetch of [`CachedValue::refresh`].
    refreshed_at: Option<Timestamp>,
}

/// What the cache holds, before any fetch.
enum Lookup<T, E> {
    /// No fetch is due.
    Settled(Result<T, E>),
    /// A value that should be renewed, and can be used until then.
    Stale(T),
    /// There is nothing that can be used.
    Missing,
}

impl<T: Clone, E: Clone> CachedValue<T, E> {
    /// Creates an empty cache.
    pub fn new(policy: FailurePolicy<E>) -> Self {
        let state = CacheState { cached: None, paused_at: None, failed: None, refreshed_at: None };
        Self { policy, state: Mutex::new(state), flight: SingleFlight::default() }
    }

    /// Returns the cached value, or fetches it. `fetch` is called only if a fetch is due and this
    /// caller leads it.
    ///
    /// # Errors
    /// The failure of the fetch, or of an earlier one that is still remembered.
    pub async fn get<F: Future<Output = Result<Fetched<T>, E>>>(
        &self,
        clock: &Clock,
        fetch: impl FnOnce() -> F,
    ) -> Result<Served<T, E>, E> {
        loop {
            let stale = match self.lookup(clock) {
                Lookup::Settled(result) => return result.map(Served::without_failure),
                Lookup::Stale(value) => Some(value),
                Lookup::Missing => None,
            };
            match (self.flight.join(), stale) {
                (Role::Leader(leader), _) => return self.lead(leader, clock, fetch).await,
                (Role::Follower(_), Some(value)) => return Ok(Served::without_failure(value)),
                (Role::Follower(follower), None) => {
                    if let Some(result) = follower.result().await {
                        return result.map(Served::without_failure);
                    }
                }
            }
        }
    }

    /// Returns a newer value than the one that the caller has, as `is_newer` decides: one that
    /// another caller has fetched since, or the result of `fetch`. `None` if there is no newer one
    /// and the last refresh was less than `interval` ago.
    ///
    /// # Errors
    /// The failure of `fetch`. It is neither shared nor remembered, because the cached value may
    /// still be good.
    pub async fn refresh<F: Future<Output = Result<Fetched<T>, E>>>(
        &self,
        clock: &Clock,
        interval: Duration,
        is_newer: impl Fn(&T) -> bool,
        fetch: impl FnOnce() -> F,
    ) -> Result<Option<T>, E> {
        loop {
            let role = self.flight.join();
            let leader = match role {
                Role::Leader(leader) => leader,
                Role::Follower(follower) => {
                    follower.result().await;
                    continue;
                }
            };
            {
                let (state, now) = (lock(&self.state), clock.now());
                if let Some(cached) = state.cached.as_ref().filter(|cached| is_newer(&cached.value)) {
                    return Ok(Some(cached.value.clone()));
                }
                if state.refreshed_at.is_some_and(|at| is_within(at, interval, now)) {
                    return Ok(None);
                }
            }
            let fetched = fetch().await;
            let mut state = lock(&self.state);
            state.refreshed_at = Some(clock.now());
            let value = state.keep(fetched?);
            leader.finish(Ok(value.clone()));
            return Ok(Some(value));
        }
    }

    async fn lead<F: Future<Output = Result<Fetched<T>, E>>>(
        &self,
        leader: Leader<Result<T, E>>,
        clock: &Clock,
        fetch: impl FnOnce() -> F,
    ) -> Result<Served<T, E>, E> {
        // A fetch may have ended between the lookup in the cache and the election.
        if let Lookup::Settled(result) = self.lookup(clock) {
            return result.map(Served::without_failure);
        }
        let fetched = fetch().await;
        let result = self.record(fetched, clock.now());
        leader.finish(result.as_ref().map(|served| served.value.clone()).map_err(E::clone));
        result
    }

    fn record(&self, fetched: Result<Fetched<T>, E>, now: Timestamp) -> Result<Served<T, E>, E> {
        let mut state = lock(&self.state);
        let failure = match fetched {
            Ok(fetched) => return Ok(Served::without_failure(state.keep(fetched))),
            Err(failure) => failure,
        };
        if let Some(value) = state.usable(now)
            && (self.policy.is_transient)(&failure)
        {
            state.paused_at = Some(now);
            return Ok(Served { value, renewal_failure: Some(failure) });
        }
        state.failed = Some((failure.clone(), now));
        Err(failure)
    }

    fn lookup(&self, clock: &Clock) -> Lookup<T, E> {
        let (state, now) = (lock(&self.state), clock.now());
        if let Some(value) = state.fresh(now) {
            return Lookup::Settled(Ok(value));
        }
        let usable = state.usable(now);
        if let Some(value) = &usable
            && state.paused_at.is_some_and(|at| is_within(at, self.policy.pause, now))
        {
            return Lookup::Settled(Ok(value.clone()));
        }
        match &state.failed {
            Some((failure, at)) if is_within(*at, self.policy.negative, now) => Lookup::Settled(Err(failure.clone())),
            _ => usable.map_or(Lookup::Missing, Lookup::Stale),
        }
    }
}

impl<T: Clone, E> CacheState<T, E> {
    fn fresh(&self, now: Timestamp) -> Option<T> {
        let cached = self.cached.as_ref()?;
        (cached.valid_from <= now && now < cached.fresh_until).then(|| cached.value.clone())
    }

    fn usable(&self, now: Timestamp) -> Option<T> {
        let cached = self.cached.as_ref()?;
        (cached.valid_from <= now && now < cached.usable_until).then(|| cached.value.clone())
    }

    fn keep(&mut self, fetched: Fetched<T>) -> T {
        self.failed = None;
        self.paused_at = None;
        self.cached.insert(fetched).value.clone()
    }
}

impl<T, E> Served<T, E> {
    fn without_failure(value: T) -> Self {
        Self { value, renewal_failure: None }
    }
}

/// Whether `now` is less than `span` after `at`. A clock that was set back to before `at` ends the
/// span.
fn is_within(at: Timestamp, span: Duration, now: Timestamp) -> bool {
    at <= now && now.since(at) < span
}

#[cfg(test)]
mod tests;

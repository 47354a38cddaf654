//! One document of a server's: fetched once for all who need it, kept while it is fresh, and used on while the server is in trouble.
use super::error::Failure;
use super::freshness::Kept;
use crate::clock::{Clock, Timestamp};
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A failed fetch is not repeated for this long.
const NEGATIVE: Duration = Duration::from_secs(5);
/// A document that is over is used for this long once more while the server that publishes it is in trouble.
const STALE_STEP: Duration = Duration::from_secs(30);

/// A document, or why there is none. What is at hand is had without waiting for a fetch that is under way.
pub(super) struct Shelf<T> {
    /// How long past its end a document is used on.
    stale: Duration,
    state: Mutex<State<T>>,
    /// Held while the document is fetched.
    fetching: tokio::sync::Mutex<()>,
}

struct State<T> {
    kept: Option<Kept<T>>,
    /// Until when a document that is over is good enough.
    stale_until: Timestamp,
    failed: Option<(Failure, Timestamp)>,
    renewed: Timestamp,
}

/// What was on the shelf.
pub(super) enum Document<T> {
    /// As it should be.
    Good(T),
    /// An old one, because of this failure: told to the one who met it.
    InsteadOf(Failure, T),
}

impl<T: Clone> Shelf<T> {
    /// Empty.
    pub(super) fn new(stale: Duration) -> Self {
        let (kept, failed) = (None, None);
        let state = State { kept, stale_until: Timestamp::EPOCH, failed, renewed: Timestamp::EPOCH };
        Self { stale, state: Mutex::new(state), fetching: tokio::sync::Mutex::default() }
    }

    /// The document, fetched if it is not at hand. Who comes while it is fetched goes on with the old one, or waits if there is none.
    pub(super) async fn get(
        &self,
        clock: &Clock,
        fetch: impl Future<Output = Result<Kept<T>, Failure>>,
    ) -> Result<Document<T>, Failure> {
        if let Some(result) = self.state().at_hand(clock.now()) {
            return result.map(Document::Good);
        }
        let free = self.fetching.try_lock().ok();
        let old = self.state().stale(clock.now(), self.stale);
        let _one = match (free, old) {
            (Some(one), _) => one,
            (None, Some((document, _))) => return Ok(Document::Good(document)),
            (None, None) => self.fetching.lock().await,
        };
        if let Some(result) = self.state().at_hand(clock.now()) {
            return result.map(Document::Good);
        }
        let fetched = fetch.await;
        let (mut state, now) = (self.state(), clock.now());
        let failure = match fetched {
            Ok(kept) => return Ok(Document::Good(state.keep(kept))),
            Err(failure) => failure,
        };
        if failure.is_passing()
            && let Some((document, end)) = state.stale(now, self.stale)
        {
            state.stale_until = now.plus(STALE_STEP).min(end);
            return Ok(Document::InsteadOf(failure, document));
        }
        state.failed = Some((failure.clone(), now));
        Err(failure)
    }

    /// Another document than those that do: what somebody else has fetched, or a new one unless the last renewal is less than
    /// `interval` ago. Who asks meanwhile shares it.
    pub(super) async fn renew(
        &self,
        clock: &Clock,
        interval: Duration,
        is_newer: impl Fn(&T) -> bool,
        fetch: impl Future<Output = Result<Kept<T>, Failure>>,
    ) -> Result<Option<T>, Failure> {
        let _one = self.fetching.lock().await;
        {
            let (state, now) = (self.state(), clock.now());
            if let Some(kept) = state.kept.as_ref().filter(|kept| is_newer(&kept.document)) {
                return Ok(Some(kept.document.clone()));
            }
            if state.renewed <= now && now.since(state.renewed) < interval {
                return Ok(None);
            }
        }
        let fetched = fetch.await;
        let (mut state, now) = (self.state(), clock.now());
        state.renewed = now;
        Ok(Some(state.keep(fetched?)))
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> State<T> {
    /// What need not be fetched: a fresh document, an old one that is good enough for now, or a fresh failure.
    fn at_hand(&self, now: Timestamp) -> Option<Result<T, Failure>> {
        let good = |kept: &&Kept<T>| kept.is_fresh(now) || (kept.from <= now && now < self.stale_until);
        if let Some(kept) = self.kept.as_ref().filter(good) {
            return Some(Ok(kept.document.clone()));
        }
        let (failure, at) = self.failed.as_ref()?;
        (*at <= now && now.since(*at) < NEGATIVE).then(|| Err(failure.clone()))
    }

    /// The document that is over, as long as it may be used on, and when that ends.
    fn stale(&self, now: Timestamp, limit: Duration) -> Option<(T, Timestamp)> {
        let kept = self.kept.as_ref().filter(|kept| kept.from <= now)?;
        let end = kept.until.plus(limit);
        (now < end).then(|| (kept.document.clone(), end))
    }

    fn keep(&mut self, fetched: Kept<T>) -> T {
        self.failed = None;
        self.stale_until = Timestamp::EPOCH;
        self.kept.insert(fetched).document.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use std::pin::pin;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn who_comes_while_an_old_document_is_fetched_anew_goes_on_with_it() {
        let clock = Clock::shiftable();
        let shelf = Shelf::new(Duration::from_secs(600));
        let kept = |document: u8| Ok(Kept::new(document, &HeaderMap::new(), clock.now()));
        assert!(matches!(shelf.get(&clock, async { kept(1) }).await, Ok(Document::Good(1))));
        clock.shift(301);
        let (answer, answered) = oneshot::channel();
        let mut renewing = pin!(shelf.get(&clock, async { kept(answered.await.expect("an answer")) }));
        tokio::select! {
            biased;
            _ = &mut renewing => panic!("nobody has answered"),
            () = std::future::ready(()) => {}
        }
        let meanwhile = shelf.get(&clock, async { panic!("one fetch is enough") });
        let meanwhile = tokio::time::timeout(Duration::from_secs(60), meanwhile).await.expect("no wait");
        assert!(matches!(meanwhile, Ok(Document::Good(1))));
        answer.send(2).expect("awaited");
        assert!(matches!(renewing.await, Ok(Document::Good(2))));
    }
}

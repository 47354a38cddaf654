//! Documents that an issuer publishes, metadata and key sets: each is fetched once for all callers,
//! kept while it is fresh, and used for some time longer while the issuer fails.
use super::error::IssuerError;
use super::freshness::lifetime;
use crate::clock::{Clock, Timestamp};
use crate::single_flight::{CachedValue, FailurePolicy, Fetched, Served};
use http::HeaderMap;
use std::time::Duration;

/// How long a failure is served to further callers before the document is fetched again.
const NEGATIVE: Duration = Duration::from_secs(5);
/// How long a stale document is used after a failed fetch, before it is fetched again.
const RETRY_PAUSE: Duration = Duration::from_secs(30);

/// The cache of one document.
pub(super) struct DocumentCache<T> {
    /// How long a stale document may be used.
    stale: Duration,
    cached: CachedValue<T, IssuerError>,
}

impl<T: Clone> DocumentCache<T> {
    /// Creates an empty cache. A stale document is used for up to `stale` while its issuer fails.
    pub(super) fn new(stale: Duration) -> Self {
        let policy = FailurePolicy { negative: NEGATIVE, pause: RETRY_PAUSE, is_transient: IssuerError::is_transient };
        Self { stale, cached: CachedValue::new(policy) }
    }

    /// Wraps a document that arrived at `now`, with the lifetime that its headers give it.
    pub(super) fn fetched(&self, document: T, headers: &HeaderMap, now: Timestamp) -> Fetched<T> {
        let fresh_until = now.plus(lifetime(headers));
        // `valid_from`: if the clock is later set back to before this, the document's age is
        // unknown, and it is not used.
        Fetched { value: document, valid_from: now, fresh_until, usable_until: fresh_until.plus(self.stale) }
    }

    /// The document, as [`CachedValue::get`] returns it.
    pub(super) async fn get<F: Future<Output = Result<Fetched<T>, IssuerError>>>(
        &self,
        clock: &Clock,
        fetch: impl FnOnce() -> F,
    ) -> Result<Served<T, IssuerError>, IssuerError> {
        // A fetch is rare, and its future is large: boxing it keeps the futures of all callers
        // small.
        self.cached.get(clock, || Box::pin(fetch())).await
    }

    /// A newer document, as [`CachedValue::refresh`] returns it.
    pub(super) async fn refresh<F: Future<Output = Result<Fetched<T>, IssuerError>>>(
        &self,
        clock: &Clock,
        interval: Duration,
        is_newer: impl Fn(&T) -> bool,
        fetch: impl FnOnce() -> F,
    ) -> Result<Option<T>, IssuerError> {
        self.cached.refresh(clock, interval, is_newer, || Box::pin(fetch())).await
    }
}

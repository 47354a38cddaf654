//! The limits of one route on its requests: at one time, and per unit of time. All workers share
//! them.
use super::error::{Reason, Refusal};
use crate::policy::{Rate, RouteLimits};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Admits the requests of one route.
pub(super) struct Limiter {
    requests: Option<usize>,
    rate: Option<Rate>,
    state: Arc<LimiterState>,
}

struct LimiterState {
    in_flight: AtomicUsize,
    started: Instant,
    /// The theoretical arrival time of the generic cell rate algorithm (ITU-T I.371, annex A), in
    /// nanoseconds since `started`: when the next request would arrive if all of them came evenly.
    theoretical: AtomicU64,
}

/// A place among the requests of a route at one time, which is free again when it is dropped.
pub(super) struct RoutePlace(Arc<LimiterState>);

impl Limiter {
    /// A limiter for these limits, if there are any. After a reload it goes on with the counts of
    /// `previous`.
    pub(super) fn new(limits: &RouteLimits, previous: Option<&Self>) -> Option<Self> {
        let RouteLimits { request_body: _, requests, rate } = *limits;
        let state = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.state));
        (requests.is_some() || rate.is_some()).then_some(Self { requests, rate, state })
    }

    /// Admits a request that arrives now. A request that is refused does not count.
    ///
    /// # Errors
    /// The route is at one of its limits.
    pub(super) fn admit(&self) -> Result<RoutePlace, Refusal> {
        let before = self.state.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = RoutePlace(Arc::clone(&self.state));
        if let Some(most) = self.requests
            && before >= most
        {
            let detail = format!("The route allows {most} requests at one time.");
            return Err(Refusal::new(Reason::RateLimited, detail).with_retry_after(Duration::from_secs(1)));
        }
        if let Some(rate) = self.rate {
            self.state.count(rate).map_err(|wait| {
                let whole = Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
                Refusal::new(Reason::RateLimited, format!("The route allows {rate}.")).with_retry_after(whole)
            })?;
        }
        Ok(place)
    }
}

impl LimiterState {
    /// Counts a request. If there are too many, returns when there is room for it.
    fn count(&self, rate: Rate) -> Result<(), Duration> {
        let now = nanoseconds(self.started.elapsed());
        let whole = nanoseconds(rate.per);
        let step = whole / u64::from(rate.requests);
        let next = |theoretical: u64| theoretical.max(now) + step;
        let counted = self.theoretical.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |theoretical| {
            Some(next(theoretical)).filter(|next| next - now <= whole)
        });
        counted.map(|_| ()).map_err(|theoretical| Duration::from_nanos(next(theoretical) - now - whole))
    }
}

impl Default for LimiterState {
    fn default() -> Self {
        Self { in_flight: AtomicUsize::new(0), started: Instant::now(), theoretical: AtomicU64::new(0) }
    }
}

impl Drop for RoutePlace {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(requests: Option<usize>, rate: Option<(u32, u64)>) -> Limiter {
        let rate = rate.map(|(requests, seconds)| Rate { requests, per: Duration::from_secs(seconds) });
        Limiter::new(&RouteLimits { request_body: None, requests, rate }, None).expect("a limit")
    }

    fn admitted(limiter: &Limiter, tries: usize) -> usize {
        (0..tries).filter(|_| limiter.admit().is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn rate_allows_its_number_at_once_and_then_evenly() {
        let limiter = limiter(None, Some((10, 60)));
        assert_eq!(admitted(&limiter, 100), 10);
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(6)).await;
            assert_eq!(admitted(&limiter, 100), 1, "one for each sixth second, however many were refused");
        }
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(admitted(&limiter, 100), 10, "what was not used does not add up");
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_says_when_there_is_room() {
        let limiter = limiter(None, Some((2, 60)));
        assert_eq!(admitted(&limiter, 2), 2);
        tokio::time::advance(Duration::from_millis(500)).await;
        let response = limiter.admit().err().expect("refused").response(crate::proxy::Dialect::Plain, "1");
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (429, &"30".parse().expect("a value"))
        );
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(admitted(&limiter, 2), 1);
    }

    #[test]
    fn requests_at_one_time_are_limited_and_keep_their_places_over_a_reload() {
        let first = limiter(Some(2), None);
        let (one, _two) = (first.admit().expect("a place"), first.admit().expect("a place"));
        let limits = RouteLimits { requests: Some(2), ..RouteLimits::default() };
        let second = Limiter::new(&limits, Some(&first)).expect("a limit");
        assert!(second.admit().is_err());
        drop(one);
        assert!(second.admit().is_ok());
        assert!(Limiter::new(&RouteLimits::default(), Some(&first)).is_none());
    }
}

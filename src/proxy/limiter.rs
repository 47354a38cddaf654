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
    in_flight: Arc<AtomicUsize>,
    rate: Option<RateLimiter>,
}

/// Admits as many requests as one rate allows.
struct RateLimiter {
    rate: Rate,
    arrivals: Arc<Arrivals>,
}

/// The requests that have counted toward one rate.
struct Arrivals {
    started: Instant,
    /// The theoretical arrival time of the generic cell rate algorithm (ITU-T I.371, annex A), in
    /// nanoseconds since `started`: when the next request would arrive if all of them came evenly.
    theoretical: AtomicU64,
}

/// A place among the requests of a route at one time, which is free again when it is dropped.
pub(super) struct RoutePlace(Arc<AtomicUsize>);

impl Limiter {
    /// A limiter for these limits, if there are any. After a reload it goes on with the counts of
    /// `previous`.
    pub(super) fn new(limits: &RouteLimits, previous: Option<&Self>) -> Option<Self> {
        let RouteLimits { request_body: _, requests, rate } = *limits;
        let in_flight = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.in_flight));
        let previous = previous.and_then(|previous| previous.rate.as_ref());
        let rate = rate.map(|rate| RateLimiter::new(rate, previous));
        (requests.is_some() || rate.is_some()).then_some(Self { requests, in_flight, rate })
    }

    /// Admits a request that arrives now. A request that is refused does not count.
    ///
    /// # Errors
    /// The route is at one of its limits.
    pub(super) fn admit(&self) -> Result<RoutePlace, Refusal> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = RoutePlace(Arc::clone(&self.in_flight));
        if let Some(most) = self.requests
            && before >= most
        {
            let detail = format!("The route allows {most} requests at one time.");
            return Err(Refusal::new(Reason::RateLimited, detail).with_retry_after(Duration::from_secs(1)));
        }
        if let Some(limiter) = &self.rate {
            limiter.count().map_err(|wait| {
                let whole = Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
                let detail = format!("The route allows {}.", limiter.rate);
                Refusal::new(Reason::RateLimited, detail).with_retry_after(whole)
            })?;
        }
        Ok(place)
    }
}

impl RateLimiter {
    /// A limiter that goes on with the count of `previous`. If that had another rate, the requests
    /// that it has admitted delay others by one unit of the new rate at most. Otherwise a route
    /// that has used up a rate per hour would stay blocked for that hour, even if the new rate is
    /// higher.
    fn new(rate: Rate, previous: Option<&Self>) -> Self {
        let arrivals = match previous {
            Some(previous) if previous.rate == rate => Arc::clone(&previous.arrivals),
            Some(previous) => Arc::new(previous.arrivals.limited_to(rate.per)),
            None => Arc::default(),
        };
        Self { rate, arrivals }
    }

    /// Counts a request. If there are too many, returns when there is room for it.
    fn count(&self) -> Result<(), Duration> {
        let Arrivals { started, theoretical } = &*self.arrivals;
        let now = nanoseconds(started.elapsed());
        let whole = nanoseconds(self.rate.per);
        let step = whole / u64::from(self.rate.requests);
        let next = |theoretical: u64| theoretical.max(now) + step;
        let counted = theoretical.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |theoretical| {
            Some(next(theoretical)).filter(|next| next - now <= whole)
        });
        counted.map(|_| ()).map_err(|theoretical| Duration::from_nanos(next(theoretical) - now - whole))
    }
}

impl Arrivals {
    /// The same requests, with a theoretical arrival time that is at most `most` from now.
    fn limited_to(&self, most: Duration) -> Self {
        let latest = nanoseconds(self.started.elapsed()) + nanoseconds(most);
        let theoretical = self.theoretical.load(Ordering::Relaxed).min(latest);
        Self { started: self.started, theoretical: AtomicU64::new(theoretical) }
    }
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { started: Instant::now(), theoretical: AtomicU64::new(0) }
    }
}

impl Drop for RoutePlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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

    #[tokio::test(start_paused = true)]
    async fn reload_with_another_rate_limits_by_that_rate_alone() {
        let first = limiter(None, Some((600, 3600)));
        assert_eq!(admitted(&first, 1000), 600);
        let after_reload = |requests: u32, seconds: u64, previous: &Limiter| {
            let rate = Some(Rate { requests, per: Duration::from_secs(seconds) });
            Limiter::new(&RouteLimits { rate, ..RouteLimits::default() }, Some(previous)).expect("a limit")
        };
        let same = after_reload(600, 3600, &first);
        assert_eq!(admitted(&same, 1000), 0, "the counts go on");
        let raised = after_reload(50, 1, &same);
        assert_eq!(admitted(&raised, 100), 0, "the reload allows no burst");
        // A request that has still found the former table.
        assert_eq!(admitted(&same, 1), 0);
        tokio::time::advance(Duration::from_millis(20)).await;
        assert_eq!(admitted(&raised, 100), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(admitted(&raised, 100), 50);
        let lowered = after_reload(10, 3600, &raised);
        assert_eq!(admitted(&lowered, 100), 9, "what was counted in the last second counts");
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

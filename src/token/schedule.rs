//! When a token is renewed, and when it is no longer sent.
use crate::clock::Timestamp;
use std::time::Duration;

/// How long before its expiry a token is no longer sent. This leaves room for the transfer to the
/// upstream and for clock skew.
pub(super) fn skew(lifetime: Duration) -> Duration {
    (lifetime / 20).min(Duration::from_secs(5))
}

/// When to renew a token: at four fifths of its lifetime or 30 s before it expires, whichever is
/// first, but never in the first half. `jitter` in 0..1 moves this earlier by up to a twentieth of
/// the lifetime, so that a fleet that started together does not renew together.
pub(super) fn refresh_at(minted_at: Timestamp, expires_at: Timestamp, jitter: f64) -> Timestamp {
    let lifetime = expires_at.since(minted_at);
    let before_end = lifetime.saturating_sub(Duration::from_secs(30)).max(lifetime / 2);
    let delay = (lifetime * 4 / 5).min(before_end);
    minted_at.plus(delay.saturating_sub((lifetime / 20).mul_f64(jitter.clamp(0.0, 1.0))))
}

/// How long to wait after a number of failed refreshes in a row: 1 s, doubled each time, at most a
/// minute. `jitter` in 0..1 determines half of it.
pub(super) fn retry_after(failures: u32, jitter: f64) -> Duration {
    let base = Duration::from_secs(1 << failures.min(6)).min(Duration::from_secs(60));
    base.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_between_half_of_the_lifetime_and_its_end() {
        let start = Timestamp::from_unix_seconds(1_000);
        for (lifetime, latest) in [(3600, 2880), (100, 70), (40, 20), (2, 1)] {
            let end = start.plus(Duration::from_secs(lifetime));
            assert_eq!(refresh_at(start, end, 0.0), start.plus(Duration::from_secs(latest)));
            assert!(refresh_at(start, end, 1.0) < refresh_at(start, end, 0.0));
        }
        assert_eq!(refresh_at(start, Timestamp::EPOCH, 0.5), start);
    }

    #[test]
    fn retry_is_between_a_second_and_a_minute() {
        assert_eq!(retry_after(0, 1.0), Duration::from_secs(1));
        assert_eq!(retry_after(u32::MAX, 1.0), Duration::from_secs(60));
    }
}

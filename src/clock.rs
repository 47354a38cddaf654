//! The only place that reads the wall clock. It is for the instants in protocols: `exp`, `iat`, a
//! certificate's `notAfter`. Durations are measured with `tokio::time`.
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An instant in milliseconds since the Unix epoch. Arithmetic saturates, so that a hostile `exp`
/// of 2^63 is merely far away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The epoch itself, earlier than any real instant.
    pub const EPOCH: Self = Self(0);
    /// An instant later than any real one.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// Converts whole seconds since the epoch, the unit of JWT's `NumericDate` (RFC 7519 §2).
    pub const fn from_unix_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Converts milliseconds since the epoch.
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Returns the seconds since the epoch, rounded down.
    pub const fn unix_seconds(self) -> u64 {
        self.0 / 1000
    }

    /// Returns the milliseconds since the epoch.
    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// Returns the instant that is later by `duration`.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// Returns the instant that is earlier by `duration`, but not before the epoch.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// Returns the time since `earlier`, or zero if this instant is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Shows the instant for people, in UTC and to the second (RFC 3339).
impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The last second of the year 9999 is the last that the format can show.
        let seconds = self.unix_seconds().min(253_402_300_799);
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).fmt(f)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The source of wall time. Tests shift it to see the effect of a clock jump or of a laptop's
/// sleep.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    shift_millis: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// Returns the machine's clock.
    pub fn system() -> Self {
        Self { shift_millis: None }
    }

    /// Returns the machine's clock plus a shift that [`Clock::shift`] sets. All clones share the
    /// shift.
    pub fn shiftable() -> Self {
        Self { shift_millis: Some(Arc::default()) }
    }

    /// Moves a shiftable clock by `seconds` from where it is now. On the machine's clock it does
    /// nothing.
    pub fn shift(&self, seconds: i64) {
        if let Some(shift) = &self.shift_millis {
            shift.fetch_add(seconds.saturating_mul(1000), Ordering::Relaxed);
        }
    }

    /// Returns the current time.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn now(&self) -> Timestamp {
        let real = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis);
        let shift = self.shift_millis.as_ref().map_or(0, |shift| shift.load(Ordering::Relaxed));
        Timestamp(real.saturating_add_signed(shift))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let far = Timestamp::from_unix_seconds(u64::MAX).plus(Duration::MAX);
        assert_eq!(far, Timestamp::FAR_FUTURE);
        assert_eq!(Timestamp::EPOCH.minus(Duration::from_secs(5)), Timestamp::EPOCH);
        assert_eq!(Timestamp::EPOCH.since(far), Duration::ZERO);
    }

    #[test]
    fn timestamp_is_shown_in_utc_up_to_the_year_9999() {
        assert_eq!(Timestamp::from_unix_millis(1_700_000_000_999).to_string(), "2023-11-14T22:13:20Z");
        assert_eq!(Timestamp::FAR_FUTURE.to_string(), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn shift_is_shared_by_clones() {
        let clock = Clock::shiftable();
        let before = clock.clone().now();
        clock.shift(7200);
        assert!(clock.clone().now().since(before) >= Duration::from_secs(7200));
        clock.shift(-14400);
        assert!(clock.now() < before);
    }
}

//! The settings of the token cache.
use std::num::NonZeroUsize;
use std::time::Duration;

/// The limits and timeouts of the cache.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// The longest time that a request waits for a token.
    pub token_timeout: Duration,
    /// How many requests may wait for the owner at the same time: as many as may be in flight.
    /// Further requests fail at once.
    pub waiting: NonZeroUsize,
    /// The most delegated tokens that the owner holds.
    pub delegated: NonZeroUsize,
    /// A refused token is replaced at most once per interval.
    pub remint_interval: Duration,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            token_timeout: Duration::from_secs(10),
            waiting: NonZeroUsize::new(10_000).expect("not zero"),
            delegated: NonZeroUsize::new(4096).expect("not zero"),
            remint_interval: Duration::from_secs(10),
        }
    }
}

//! What the token cache is bounded by.
use std::num::NonZeroUsize;
use std::time::Duration;

/// Bounds of the cache.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The longest that a request waits for a token.
    pub token_timeout: Duration,
    /// Requests that may wait for the owner at one time: as many as may be in flight. Past it a request is answered at once.
    pub waiting: NonZeroUsize,
    /// Delegated tokens held at most, in the owner.
    pub delegated: NonZeroUsize,
    /// A refused token is replaced at most once in this time.
    pub remint_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            token_timeout: Duration::from_secs(10),
            waiting: NonZeroUsize::new(10_000).expect("not zero"),
            delegated: NonZeroUsize::new(4096).expect("not zero"),
            remint_interval: Duration::from_secs(10),
        }
    }
}

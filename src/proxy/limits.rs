//! The limits of the data plane.
use crate::policy::Timeouts;
use std::num::NonZeroUsize;
use std::time::Duration;

/// The limits of the data plane.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a path and query.
    pub uri: usize,
    /// Bytes of a request's head.
    pub head: usize,
    /// Connections that agents hold, on all workers together.
    pub connections: usize,
    /// Requests in flight, on all workers together.
    pub requests: i64,
    /// Delegated tokens that one worker remembers.
    pub delegated: NonZeroUsize,
    /// How long a connection may be open without a whole request head.
    pub head_timeout: Duration,
    /// How long an answer may go unread. A route sets its own idle timeout instead.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            uri: 8 * 1024,
            head: 64 * 1024,
            connections: 4096,
            requests: 4096,
            delegated: NonZeroUsize::new(1024).expect("not zero"),
            head_timeout: Duration::from_secs(75),
            write_timeout: Timeouts::default().idle,
        }
    }
}

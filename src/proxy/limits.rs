//! The limits of the data plane.
use crate::policy::Timeouts;
use std::num::NonZeroUsize;
use std::time::Duration;

/// What the flow control of HTTP/2 lets one side send before the other reads it (RFC 9113 §6.9), in
/// bytes. It bounds what the proxy holds for an agent or an upstream that reads slowly.
pub mod windows {
    /// One stream: 12 MiB a second over a path with a delay of 20 ms.
    pub const STREAM: u32 = 256 << 10;
    /// All streams of one connection together.
    pub const CONNECTION: u32 = 1 << 20;
    /// What is buffered for one stream to an upstream that does not read.
    pub const SEND_BUFFER: u32 = 64 << 10;
}

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

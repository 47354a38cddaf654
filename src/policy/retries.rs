//! When a request is sent again.
use http::StatusCode;

/// When the requests of a route are sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often a request is sent again at most.
    pub attempts: u32,
    /// After what it is sent again.
    pub on: RetryConditions,
    /// How many percent of the requests of the last ten seconds may be sent again.
    pub budget: u32,
}

/// After what a request is sent again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryConditions {
    /// No connection could be made.
    pub connect: bool,
    /// The upstream says that it did not process the request (RFC 9113 §8.7).
    pub unprocessed: bool,
    /// The connection or stream ended before an answer, or the attempt took too long. Only for
    /// idempotent methods (RFC 9110 §9.2.2).
    pub reset: bool,
    /// The answer has one of these statuses. Only for idempotent methods.
    pub statuses: Box<[StatusCode]>,
}

impl Retries {
    /// The statuses that may be retried: those by which a server, or a proxy before it, says that
    /// it could not serve the request at the time.
    pub const STATUSES: [u16; 4] = [429, 502, 503, 504];
}

impl Default for Retries {
    fn default() -> Self {
        let on = RetryConditions { connect: true, unprocessed: true, ..RetryConditions::default() };
        Self { attempts: 2, on, budget: 20 }
    }
}

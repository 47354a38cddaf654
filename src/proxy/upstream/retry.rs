//! When a request is sent again, and how long after.
use super::error::SendError;
use super::proof::Proof;
use super::request_body::RequestBody;
use super::request_copy::RequestCopy;
use super::retry_budget::RetryBudget;
use crate::policy::Retries;
use crate::proxy::metrics::RouteMetrics;
use http::{HeaderMap, Request, Response, header};
use std::time::Duration;
use tokio::time::Instant;

/// How often a request may be sent again because a connection had ended by itself before it was
/// sent. Further pooled connections may have ended, too.
const MAX_STALE: u32 = 3;
/// The longest time that a `Retry-After` may ask for. The agent waits meanwhile.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(2);

/// What a route allows, and the metrics that count it.
#[derive(Clone, Copy)]
pub(crate) struct Retrying<'c> {
    pub(crate) policy: &'c Retries,
    pub(crate) metrics: &'c RouteMetrics,
}

/// A failed attempt.
pub(super) struct FailedAttempt {
    pub(super) error: SendError,
    pub(super) proof: Proof,
    /// Whether the upstream had answered another request on the connection before.
    pub(super) was_pooled: bool,
}

/// The request to send again.
pub(super) struct Repeat {
    pub(super) request: Box<Request<RequestBody>>,
    pub(super) pause: Option<Duration>,
}

/// How often a request has been sent again.
pub(super) struct Tries<'c> {
    retrying: Retrying<'c>,
    copy: Option<&'c RequestCopy>,
    budget: &'c RetryBudget,
    /// Because a connection had ended.
    stale: u32,
    /// Because the route allows it.
    retried: u32,
}

/// The pauses between the attempts to connect or send: an upstream that restarts needs a moment.
pub(super) fn pauses() -> impl Iterator<Item = Duration> {
    // Those who have failed together do not all come back at once.
    [50, 150, 400, 900].into_iter().map(|pause| Duration::from_millis(pause).mul_f64(1.0 + fastrand::f64() / 2.0))
}

impl<'c> Tries<'c> {
    pub(super) fn new(retrying: Retrying<'c>, copy: Option<&'c RequestCopy>, budget: &'c RetryBudget) -> Self {
        Self { retrying, copy, budget, stale: 0, retried: 0 }
    }

    /// The request to send again after a failure. Whatever the route says, this happens if nothing
    /// of it was written, or if it is idempotent, has no body, and a pooled connection ended before
    /// a byte of the answer came (RFC 9110 §9.2.2). Such a request is also sent again once if an
    /// attempt took too long.
    ///
    /// # Errors
    /// It is not sent again.
    pub(super) fn after_failure(&mut self, failure: FailedAttempt) -> Result<Repeat, SendError> {
        let FailedAttempt { error, proof, was_pooled } = failure;
        let on = &self.retrying.policy.on;
        let repeat = match proof {
            Proof::NotSent(request) => self.count_stale().then_some(Repeat { request, pause: None }),
            Proof::NotProcessed if on.unprocessed => self.retry(None),
            Proof::ConnectionEnded if was_pooled && self.is_repeatable() && self.count_stale() => {
                self.copy.map(|copy| {
                    self.retrying.metrics.retried.inc();
                    Repeat { request: Box::new(copy.request()), pause: None }
                })
            }
            Proof::ConnectionEnded | Proof::StreamReset | Proof::Slow if on.reset && self.is_idempotent() => {
                self.retry(None)
            }
            Proof::Slow if self.is_repeatable() && self.retried == 0 => self.retry(None),
            _ => None,
        };
        repeat.ok_or(error)
    }

    /// The request to send again instead of passing the answer on.
    pub(super) fn after_answer<B>(&mut self, response: &Response<B>) -> Option<Repeat> {
        let statuses = &self.retrying.policy.on.statuses;
        if statuses.is_empty() || !statuses.contains(&response.status()) || !self.is_idempotent() {
            return None;
        }
        let at_least = retry_after(response.headers())?;
        self.retry(Some(at_least))
    }

    /// Sends the request again if the route still allows it.
    fn retry(&mut self, at_least: Option<Duration>) -> Option<Repeat> {
        let Retrying { policy, metrics } = self.retrying;
        let copy = self.copy.filter(|_| self.retried < policy.attempts)?;
        if !self.budget.withdraw(policy.budget, Instant::now()) {
            metrics.over_budget.inc();
            return None;
        }
        metrics.retried.inc();
        let pause = pauses().nth(self.retried as usize).or_else(|| pauses().last());
        self.retried += 1;
        Some(Repeat { request: Box::new(copy.request()), pause: pause.max(at_least) })
    }

    fn is_idempotent(&self) -> bool {
        self.copy.is_some_and(RequestCopy::is_idempotent)
    }

    fn is_repeatable(&self) -> bool {
        self.copy.is_some_and(|copy| copy.is_idempotent() && !copy.has_body())
    }

    fn count_stale(&mut self) -> bool {
        self.stale += 1;
        self.stale <= MAX_STALE
    }
}

/// How long the upstream asks to wait (RFC 9110 §10.2.3), zero if it does not; `None` if that is
/// too long, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let Some(value) = headers.get(header::RETRY_AFTER) else { return Some(Duration::ZERO) };
    let seconds = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds)).filter(|wait| *wait <= MAX_RETRY_AFTER)
}

//! What the request guard of a connection has found, for the connection's service.
use super::head::HeadViolation;
use crate::sync::lock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

/// What the guard of one connection reports to the connection's service. Requests are counted from
/// 1.
#[derive(Debug, Default)]
pub(super) struct Violations {
    refused: OnceLock<RefusedHead>,
    /// The request after which bytes are no longer checked, because it may switch protocols.
    switches: AtomicU64,
    /// The requests that are for the server itself, of those that the service has not taken.
    server_wide: Mutex<Vec<u64>>,
}

#[derive(Clone, Copy, Debug)]
struct RefusedHead {
    request: u64,
    violation: HeadViolation,
}

impl Violations {
    /// Records why the head of the given request is refused. It is the last one that is checked.
    pub(super) fn refuse(&self, request: u64, violation: HeadViolation) {
        // It is not set yet: nothing is checked after the first violation.
        let _ = self.refused.set(RefusedHead { request, violation });
    }

    /// Records that the bytes after the given request are not checked.
    pub(super) fn record_switch(&self, request: u64) {
        self.switches.store(request, Ordering::Relaxed);
    }

    /// Records that the given OPTIONS is for the server itself.
    pub(super) fn record_server_wide(&self, request: u64) {
        lock(&self.server_wide).push(request);
    }

    /// Why the head of the given request is refused, if it is.
    pub(super) fn of(&self, request: u64) -> Option<HeadViolation> {
        self.refused.get().filter(|refused| refused.request == request).map(|refused| refused.violation)
    }

    /// Whether the bytes after the given request are not checked. If it did not switch protocols,
    /// the connection must end.
    pub(super) fn switches(&self, request: u64) -> bool {
        self.switches.load(Ordering::Relaxed) == request
    }

    /// Whether the given OPTIONS is for the server itself and not for a path of it.
    pub(super) fn is_server_wide(&self, request: u64) -> bool {
        let mut waiting = lock(&self.server_wide);
        waiting.retain(|waiting| *waiting >= request);
        waiting.first() == Some(&request)
    }
}

//! Counts requests and connections, for draining and for the limit of requests in flight.
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The counts of all workers together. Clones share them.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    requests: AtomicI64,
    connections: AtomicI64,
    limit: i64,
}

/// One request in flight, which is counted until it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Counts>);

/// One connection of an agent, which is counted until it is dropped.
#[derive(Debug)]
pub struct Connected(Arc<Counts>);

impl Traffic {
    /// Creates the counts. At most `limit` requests may be in flight.
    pub fn new(limit: i64) -> Self {
        Self(Arc::new(Counts { requests: AtomicI64::new(0), connections: AtomicI64::new(0), limit }))
    }

    /// Counts a request. `None` if the limit is reached.
    pub fn count_request(&self) -> Option<InFlight> {
        let before = self.0.requests.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlight(Arc::clone(&self.0));
        (before < self.0.limit).then_some(in_flight)
    }

    /// Counts a connection of an agent.
    pub fn count_connection(&self) -> Connected {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(&self.0))
    }

    /// The requests in flight, including those whose response is still being sent.
    pub fn requests(&self) -> i64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// The connections that agents hold.
    pub fn connections(&self) -> i64 {
        self.0.connections.load(Ordering::Relaxed)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

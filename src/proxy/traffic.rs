//! How much is going on: what a drain waits for, and the limit on requests at once.
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Counts of all workers together.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    requests: AtomicI64,
    connections: AtomicI64,
    limit: i64,
}

/// One request in flight, until it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Counts>);

/// One connection of the agent's, until it is dropped.
#[derive(Debug)]
pub struct Connected(Arc<Counts>);

impl Traffic {
    /// None yet; `limit` is the most requests at once.
    pub fn new(limit: i64) -> Self {
        Self(Arc::new(Counts { requests: AtomicI64::new(0), connections: AtomicI64::new(0), limit }))
    }

    /// Takes a place, or `None` where all are taken.
    pub fn request(&self) -> Option<InFlight> {
        let before = self.0.requests.fetch_add(1, Ordering::Relaxed);
        let place = InFlight(Arc::clone(&self.0));
        (before < self.0.limit).then_some(place)
    }

    /// Counts a connection.
    pub fn connection(&self) -> Connected {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(&self.0))
    }

    /// Requests in flight, their responses' bodies included.
    pub fn requests(&self) -> i64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// Connections that agents hold.
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

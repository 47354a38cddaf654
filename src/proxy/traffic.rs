//! Counts requests and connections, for draining and for the limit of requests in flight.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use tokio::sync::watch;

/// The counts of all workers together. Clones share them.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    requests: AtomicI64,
    connections: AtomicI64,
    limit: i64,
    is_draining: AtomicBool,
    /// Tells the connections that wait for it.
    drain: watch::Sender<bool>,
    is_cut_off: AtomicBool,
}

/// One request in flight, which is counted until it is dropped.
#[derive(Debug)]
pub struct InFlight {
    counts: Arc<Counts>,
    is_within_limit: bool,
}

/// One connection of an agent, which is counted until it is dropped.
#[derive(Debug)]
pub struct Connected(Arc<Counts>);

impl Traffic {
    /// Creates the counts. At most `limit` requests may be in flight.
    pub fn new(limit: i64) -> Self {
        Self(Arc::new(Counts {
            requests: AtomicI64::new(0),
            connections: AtomicI64::new(0),
            limit,
            is_draining: AtomicBool::new(false),
            drain: watch::Sender::new(false),
            is_cut_off: AtomicBool::new(false),
        }))
    }

    /// Counts a request, also one that is beyond the limit and will be refused.
    pub fn count_request(&self) -> InFlight {
        let before = self.0.requests.fetch_add(1, Ordering::Relaxed);
        InFlight { counts: Arc::clone(&self.0), is_within_limit: before < self.0.limit }
    }

    /// Begins the drain: agents are told that their connections will close.
    pub fn drain(&self) {
        self.0.is_draining.store(true, Ordering::Relaxed);
        self.0.drain.send_replace(true);
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.0.is_draining.load(Ordering::Relaxed)
    }

    /// Waits for the drain to begin.
    pub fn draining(&self) -> impl Future<Output = ()> + use<> {
        let mut drain = self.0.drain.subscribe();
        async move {
            // The sender cannot have been dropped: connections are served with these counts.
            let _ = drain.wait_for(|drain| *drain).await;
        }
    }

    /// Records that the process stops now, so that requests in flight are cut off.
    pub fn cut_off(&self) {
        self.0.is_cut_off.store(true, Ordering::Relaxed);
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

impl InFlight {
    /// Whether there was a place for the request.
    pub fn is_within_limit(&self) -> bool {
        self.is_within_limit
    }

    /// Whether the process stops now.
    pub fn is_cut_off(&self) -> bool {
        self.counts.is_cut_off.load(Ordering::Relaxed)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.counts.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

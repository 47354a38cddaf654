//! Idle connections of one worker. Last in, first out, so that a quiet time lets the others age away.
use super::peer::Key;
use crate::proxy::body::RequestBody;
use crate::proxy::metrics::Metrics;
use hyper::client::conn::{http1, http2};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Shorter than what servers commonly keep: a connection that the server is about to close is better not used.
const IDLE: Duration = Duration::from_secs(30);
/// No connection is used for longer, so that DNS changes and load balancing reach us.
const AGE: Duration = Duration::from_secs(600);
/// Idle connections to one origin.
const WIDTH: usize = 1024;

/// One worker's connections.
pub(crate) struct Pool {
    shelves: RefCell<HashMap<Arc<Key>, Shelf>>,
    metrics: Metrics,
}

#[derive(Default)]
struct Shelf {
    idle: Vec<Idle>,
    shared: Option<Shared>,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    made: Made,
    since: Instant,
}

struct Shared {
    sender: http2::SendRequest<RequestBody>,
    made: Made,
}

/// When a connection was made, and with which revision of the identity.
#[derive(Clone, Copy)]
pub(super) struct Made {
    pub(super) at: Instant,
    pub(super) revision: u64,
}

/// An HTTP/1.1 connection in use. It goes back only when its response has been read to the end.
pub(crate) struct Lease {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) made: Made,
    pub(super) key: Arc<Key>,
    pub(super) pool: Rc<Pool>,
}

/// What a request can be sent on.
pub(super) enum Connection {
    Http1(Lease),
    Http2(http2::SendRequest<RequestBody>),
}

impl Pool {
    /// Empty.
    pub(crate) fn new(metrics: Metrics) -> Rc<Self> {
        Rc::new(Self { shelves: RefCell::default(), metrics })
    }

    /// An idle connection that was made with the identity of today, or `None`.
    pub(super) fn take(self: &Rc<Self>, key: &Arc<Key>) -> Option<Connection> {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.get_mut(key)?;
        let (now, revision) = (Instant::now(), key.revision());
        let fresh = |made: Made| made.revision == revision && now.duration_since(made.at) < AGE;
        if let Some(shared) = &shelf.shared {
            if fresh(shared.made) && !shared.sender.is_closed() {
                return Some(Connection::Http2(shared.sender.clone()));
            }
            shelf.shared = None;
        }
        let mut waiting = Vec::new();
        let found = loop {
            let Some(idle) = shelf.idle.pop() else { break None };
            self.metrics.upstream_idle.dec();
            if idle.sender.is_closed() || !fresh(idle.made) || now.duration_since(idle.since) >= IDLE {
                continue;
            }
            if idle.sender.is_ready() {
                break Some(idle);
            }
            // Its connection task has not seen the end of the last response yet; it will be ready for the next request.
            waiting.push(idle);
        };
        self.metrics.upstream_idle.add(i64::try_from(waiting.len()).unwrap_or(0));
        shelf.idle.extend(waiting);
        let idle = found?;
        Some(Connection::Http1(Lease {
            sender: idle.sender,
            made: idle.made,
            key: Arc::clone(key),
            pool: Rc::clone(self),
        }))
    }

    /// Whether a connection is about to become ready, so that waiting for one turn of the runtime is worth it.
    pub(super) fn has_waiting(&self, key: &Arc<Key>) -> bool {
        self.shelves.borrow().get(key).is_some_and(|shelf| !shelf.idle.is_empty())
    }

    /// Shares an HTTP/2 connection from now on.
    pub(super) fn share(&self, key: &Arc<Key>, sender: &http2::SendRequest<RequestBody>, made: Made) {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.entry(Arc::clone(key)).or_default();
        shelf.shared = Some(Shared { sender: sender.clone(), made });
    }

    /// Lets go what is too old, too long idle or of a past identity.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut shelves = self.shelves.borrow_mut();
        shelves.retain(|key, shelf| {
            let revision = key.revision();
            let fresh = |made: Made| made.revision == revision && now.duration_since(made.at) < AGE;
            let before = shelf.idle.len();
            shelf
                .idle
                .retain(|idle| !idle.sender.is_closed() && fresh(idle.made) && now.duration_since(idle.since) < IDLE);
            self.metrics.upstream_idle.sub(i64::try_from(before - shelf.idle.len()).unwrap_or(0));
            shelf.shared.take_if(|shared| !fresh(shared.made) || shared.sender.is_closed());
            !shelf.idle.is_empty() || shelf.shared.is_some()
        });
    }

    /// Lets go of everything that is idle: its descriptors are needed.
    pub(crate) fn let_go(&self) {
        for shelf in self.shelves.borrow_mut().values_mut() {
            self.metrics.upstream_idle.sub(i64::try_from(shelf.idle.len()).unwrap_or(0));
            shelf.idle.clear();
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Lease {
    /// Back to the pool.
    pub(crate) fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let mut shelves = self.pool.shelves.borrow_mut();
        let shelf = shelves.entry(self.key).or_default();
        if shelf.idle.len() < WIDTH {
            self.pool.metrics.upstream_idle.inc();
            shelf.idle.push(Idle { sender: self.sender, made: self.made, since: Instant::now() });
        }
    }
}

//! Idle connections of one worker. Last in, first out, so that a quiet time lets the others age away.
use super::config::Key;
use super::resolver::Names;
use crate::proxy::body::RequestBody;
use crate::proxy::metrics::Metrics;
use hyper::client::conn::{http1, http2};
use std::cell::{Cell, RefCell};
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
/// HTTP/2 connections to one origin.
const SHARED: usize = 32;

/// One worker's connections.
pub(crate) struct Pool {
    shelves: RefCell<HashMap<Arc<Key>, Shelf>>,
    metrics: Metrics,
    names: Rc<Names>,
}

#[derive(Default)]
struct Shelf {
    idle: Vec<Idle>,
    /// Of HTTP/2: several where one peer's limit of streams is not enough.
    shared: Vec<Shared>,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    made: Made,
    since: Instant,
}

struct Shared {
    sender: http2::SendRequest<RequestBody>,
    made: Made,
    streams: Rc<Streams>,
}

/// The streams of one HTTP/2 connection that are in use. One without any counts as idle.
pub(super) struct Streams {
    active: Cell<usize>,
    takes: Takes,
    metrics: Metrics,
}

/// How many streams the peer takes at once (RFC 9113 §6.5.2), as far as it has said.
type Takes = Box<dyn Fn() -> usize>;

/// One stream, until it is dropped.
pub(crate) struct Stream(Rc<Streams>);

/// When a connection was made, and with which revision of the identity.
#[derive(Clone, Copy)]
pub(super) struct Made {
    pub(super) at: Instant,
    pub(super) revision: u64,
}

/// What a request holds until its response has been read to the end.
pub(crate) enum Lease {
    /// The whole connection, which then goes back.
    Http1(Whole),
    /// A place on one that others use too.
    Http2(Stream),
}

/// An HTTP/1.1 connection in use.
pub(crate) struct Whole {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) made: Made,
    pub(super) key: Arc<Key>,
    pub(super) pool: Rc<Pool>,
}

/// What a request can be sent on.
pub(super) enum Connection {
    Http1(Whole),
    Http2(http2::SendRequest<RequestBody>, Stream),
}

impl Pool {
    /// Empty.
    pub(crate) fn new(metrics: Metrics, names: Rc<Names>) -> Rc<Self> {
        Rc::new(Self { shelves: RefCell::default(), metrics, names })
    }

    /// How new connections find their addresses.
    pub(super) fn names(&self) -> &Rc<Names> {
        &self.names
    }

    /// An idle connection that was made with the identity of today, or `None`.
    pub(super) fn take(self: &Rc<Self>, key: &Arc<Key>) -> Option<Connection> {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.get_mut(key)?;
        let (now, revision) = (Instant::now(), key.revision());
        let fresh = |made: Made| made.revision == revision && now.duration_since(made.at) < AGE;
        shelf.shared.retain(|shared| fresh(shared.made) && !shared.sender.is_closed());
        if let Some(connection) = shelf.stream() {
            return Some(connection);
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
        Some(Connection::Http1(Whole {
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

    /// Shares an HTTP/2 connection from now on; its first stream is for whoever made it.
    pub(super) fn share(
        &self,
        key: &Arc<Key>,
        sender: &http2::SendRequest<RequestBody>,
        made: Made,
        takes: Takes,
    ) -> Rc<Streams> {
        let streams = Rc::new(Streams { active: Cell::new(0), takes, metrics: self.metrics.clone() });
        self.metrics.upstream_idle.inc();
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.entry(Arc::clone(key)).or_default();
        shelf.shared.push(Shared { sender: sender.clone(), made, streams: Rc::clone(&streams) });
        streams
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
            shelf.shared.retain(|shared| fresh(shared.made) && !shared.sender.is_closed());
            !shelf.idle.is_empty() || !shelf.shared.is_empty()
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

impl Shelf {
    /// A place on a connection whose peer takes another stream. Where there are as many connections as may be, one waits its turn on
    /// the least used.
    fn stream(&self) -> Option<Connection> {
        let room = |shared: &&Shared| shared.streams.active.get() < (shared.streams.takes)();
        let least = || self.shared.iter().min_by_key(|shared| shared.streams.active.get());
        let full = self.shared.len() >= SHARED;
        let shared = self.shared.iter().find(room).or_else(|| least().filter(|_| full))?;
        Some(Connection::Http2(shared.sender.clone(), Stream::new(&shared.streams)))
    }
}

impl Stream {
    pub(super) fn new(streams: &Rc<Streams>) -> Self {
        let active = streams.active.get();
        if active == 0 {
            streams.metrics.upstream_idle.dec();
        }
        streams.active.set(active + 1);
        Self(Rc::clone(streams))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let active = self.0.active.get() - 1;
        self.0.active.set(active);
        if active == 0 {
            self.0.metrics.upstream_idle.inc();
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        // Whoever holds a stream holds this, so the connection was idle.
        self.metrics.upstream_idle.dec();
    }
}

impl Lease {
    /// The response has been read to the end.
    pub(crate) fn give_back(self) {
        match self {
            Self::Http1(connection) => connection.give_back(),
            Self::Http2(stream) => drop(stream),
        }
    }
}

impl Whole {
    /// Back to the pool.
    fn give_back(self) {
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

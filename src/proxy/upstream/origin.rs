//! The connections to one origin: those that are idle, shared or being made. Idle connections are
//! reused last in, first out, so that surplus ones age out in quiet periods.
use super::config::{PoolKey, Protocol};
use super::connection::{Counted, Http1Connection, Http2Connection, MAX_IDLE_TIME, StreamGuard};
use super::queue::{Caller, Connecting, Queue, Returnable, Waiting};
use super::request_body::RequestBody;
use super::retry_budget::RetryBudget;
use crate::proxy::metrics::UpstreamGauges;
use http::Version;
use hyper::client::conn::http2;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::time::Instant;

/// Idle HTTP/1.1 connections to one origin.
const MAX_IDLE: usize = 1024;
/// HTTP/2 connections to one origin.
const MAX_HTTP2: usize = 32;

/// The connections to one origin.
pub(super) struct OriginPool {
    idle: RefCell<Vec<IdleConnection>>,
    /// HTTP/2 connections: more than one if the peer's stream limit is too low.
    http2: RefCell<Vec<Http2Connection>>,
    queue: Rc<Queue<Connection>>,
    budget: RetryBudget,
    gauges: UpstreamGauges,
    /// The revision of the identity that the latest request needed.
    revision: Cell<u64>,
}

struct IdleConnection {
    connection: Http1Connection,
    since: Instant,
    _counted: Counted,
}

/// What a request holds until its response has been read to the end.
pub(crate) enum Lease {
    /// A whole connection, which then returns to the pool.
    Http1(Http1Lease),
    /// One stream of a connection that other requests share.
    Http2(StreamGuard),
}

/// An HTTP/1.1 connection in use.
pub(crate) struct Http1Lease {
    pub(super) connection: Http1Connection,
    origin: Rc<OriginPool>,
}

/// A connection that a request can be sent on.
pub(super) enum Connection {
    Http1(Http1Lease),
    Http2(http2::SendRequest<RequestBody>, StreamGuard),
}

/// Which connections a request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    /// Any that can take a request.
    Any,
    /// None that was idle over HTTP/1.1: one of them has just turned out to be closed, and so the
    /// others may be.
    NoIdle,
}

impl OriginPool {
    pub(super) fn new(key: &PoolKey, gauges: UpstreamGauges) -> Rc<Self> {
        let capacity = match (key.protocol, &key.tls) {
            (Protocol::Http1, _) | (Protocol::Negotiated, None) => Some(1),
            // ALPN decides, or the peer's settings do.
            (Protocol::Negotiated, Some(_)) | (Protocol::Http2, _) => None,
        };
        Rc::new(Self {
            idle: RefCell::default(),
            http2: RefCell::default(),
            queue: Queue::new(capacity),
            budget: RetryBudget::new(Instant::now()),
            gauges,
            revision: Cell::new(key.revision()),
        })
    }

    /// Counts the requests to the origin, and those that are sent again.
    pub(super) fn budget(&self) -> &RetryBudget {
        &self.budget
    }

    /// A connection that was made with the current identity and can take a request, or `None`.
    pub(super) fn take(self: &Rc<Self>, reuse: Reuse, revision: u64, now: Instant) -> Option<Connection> {
        self.revision.set(revision);
        self.stream(revision, now).or_else(|| match reuse {
            Reuse::Any => self.idle(revision, now),
            Reuse::NoIdle => None,
        })
    }

    /// A stream of a connection whose peer allows another one. Once there are as many connections
    /// as allowed, the request waits its turn on the least used one.
    fn stream(&self, revision: u64, now: Instant) -> Option<Connection> {
        let mut http2 = self.http2.borrow_mut();
        if http2.is_empty() {
            return None;
        }
        http2.retain(|connection| connection.is_usable(revision, now));
        let least_used = || http2.iter().min_by_key(|connection| connection.streams.active());
        let is_full = http2.len() >= MAX_HTTP2;
        let has_room = http2.iter().find(|connection| connection.streams.has_room());
        has_room.or_else(|| least_used().filter(|_| is_full)).map(Connection::stream)
    }

    fn idle(self: &Rc<Self>, revision: u64, now: Instant) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let mut not_ready = Vec::new();
        let found = loop {
            let Some(candidate) = idle.pop() else { break None };
            if !candidate.is_usable(revision, now) {
                continue;
            }
            if candidate.connection.sender.is_ready() {
                break Some(candidate);
            }
            // Its connection task has not yet seen the end of the last response; it will be ready
            // for the next request.
            not_ready.push(candidate);
        };
        idle.extend(not_ready);
        Some(Connection::Http1(self.lease(found?.connection)))
    }

    /// After [`Self::take`] found nothing: whether an idle connection is only waiting for its task
    /// to finish the last response, so that it is worth waiting for one turn of the runtime.
    pub(super) fn has_pending(&self) -> bool {
        !self.idle.borrow().is_empty()
    }

    /// Waits for a connection.
    pub(super) fn wait(&self) -> Waiting<Connection> {
        self.queue.join()
    }

    /// Registers a connection that the caller makes, if another one is needed.
    pub(super) fn begin_connecting(&self, caller: Caller) -> Option<Connecting<Connection>> {
        let limit = MAX_HTTP2.saturating_sub(self.http2.borrow().len());
        self.queue.begin(caller, limit, Instant::now())
    }

    /// Adds a new connection: for the caller that has waited longest, or as an idle one.
    pub(super) fn add_http1(self: &Rc<Self>, connection: Http1Connection) {
        self.queue.learn(1);
        self.queue.hand_over(Connection::Http1(self.lease(connection)));
    }

    /// Adds a new connection, and serves those who wait as far as the peer is known to allow it.
    /// Returns whether there was room for it. Otherwise those who wait share the others.
    pub(super) fn add_http2(self: &Rc<Self>, connection: &Http2Connection) -> bool {
        let has_room = self.http2.borrow().len() < MAX_HTTP2;
        if has_room {
            let origin = Rc::downgrade(self);
            connection.streams.on_freed(Box::new(move || {
                if let Some(origin) = origin.upgrade() {
                    origin.serve_freed();
                }
            }));
            self.http2.borrow_mut().push(connection.clone());
            self.serve(connection);
        }
        has_room
    }

    /// Serves those who wait once the peer has said how many streams it allows.
    pub(super) fn serve(&self, connection: &Http2Connection) {
        while self.queue.has_waiting() && !connection.sender.is_closed() && connection.streams.has_room() {
            self.queue.hand_over(Connection::stream(connection));
        }
    }

    /// Gives streams that have become free to those who wait, before newer requests take them.
    fn serve_freed(&self) {
        while self.queue.has_waiting() {
            let now = Instant::now();
            let is_free = |c: &&Http2Connection| c.is_usable(self.revision.get(), now) && c.streams.has_room();
            let Some(free) = self.http2.borrow().iter().find(is_free).cloned() else { return };
            self.queue.hand_over(Connection::stream(&free));
        }
    }

    /// Remembers how many streams the peer allows on each connection.
    pub(super) fn learn(&self, max_streams: usize) {
        self.queue.learn(max_streams);
    }

    fn lease(self: &Rc<Self>, connection: Http1Connection) -> Http1Lease {
        Http1Lease { connection, origin: Rc::clone(self) }
    }

    /// Evicts connections that are too old, idle for too long, or made with an earlier identity.
    /// Returns whether anything is left.
    pub(super) fn sweep(&self, revision: u64, now: Instant) -> bool {
        let (mut idle, mut http2) = (self.idle.borrow_mut(), self.http2.borrow_mut());
        idle.retain(|idle| idle.is_usable(revision, now));
        http2.retain(|connection| connection.is_usable(revision, now));
        !idle.is_empty() || !http2.is_empty()
    }

    /// Evicts every idle connection, because its file descriptor is needed.
    pub(super) fn evict_idle(&self) {
        self.idle.borrow_mut().clear();
        self.http2.borrow_mut().retain(|connection| connection.streams.active() > 0);
    }
}

impl IdleConnection {
    fn is_usable(&self, revision: u64, now: Instant) -> bool {
        !self.connection.sender.is_closed()
            && self.connection.established.is_current(revision, now)
            && now.duration_since(self.since) < MAX_IDLE_TIME
    }
}

impl Connection {
    fn stream(connection: &Http2Connection) -> Self {
        Self::Http2(connection.sender.clone(), StreamGuard::new(&connection.streams))
    }
}

impl Returnable for Connection {
    fn return_unclaimed(self) {
        match self {
            Self::Http1(lease) => lease.keep(),
            Self::Http2(_, stream) => drop(stream),
        }
    }
}

impl Lease {
    /// The address of the upstream.
    pub(crate) fn peer(&self) -> SocketAddr {
        match self {
            Self::Http1(lease) => lease.connection.established.peer,
            Self::Http2(stream) => stream.peer(),
        }
    }

    /// The protocol that the connection speaks.
    pub(crate) fn protocol(&self) -> Version {
        match self {
            Self::Http1(_) => Version::HTTP_11,
            Self::Http2(_) => Version::HTTP_2,
        }
    }

    /// Gives up a request that has not ended: an HTTP/1.1 connection ends at once, whatever it
    /// waits for. An HTTP/2 connection takes no new requests, and ends once all its remaining
    /// streams have been given up. Dropping the bodies is not enough, because hyper does not poll
    /// the body of a request while the upstream reads nothing.
    pub(crate) fn abort(self) {
        match self {
            Self::Http1(lease) => lease.connection.driver.abort(),
            Self::Http2(stream) => stream.abandon(),
        }
    }

    /// Returns the connection or stream to the pool, once the response has been read.
    pub(crate) fn give_back(self) {
        match self {
            Self::Http1(lease) => lease.give_back(),
            Self::Http2(stream) => drop(stream),
        }
    }
}

impl Http1Lease {
    /// Returns the connection: to the caller that has waited longest, or else to the pool.
    fn give_back(mut self) {
        let established = self.connection.established;
        if !self.origin.queue.has_waiting() || !established.is_current(self.origin.revision.get(), Instant::now()) {
            return self.keep();
        }
        tokio::task::spawn_local(async move {
            // The connection's task may not yet have seen the end of the last response. An error
            // means that the connection has ended.
            if self.connection.sender.ready().await.is_ok() {
                let origin = Rc::clone(&self.origin);
                origin.queue.hand_over(Connection::Http1(self));
            }
        });
    }

    /// Keeps the connection as an idle one.
    fn keep(self) {
        let Self { connection, origin } = self;
        let mut idle = origin.idle.borrow_mut();
        if !connection.sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(IdleConnection {
                connection,
                since: Instant::now(),
                _counted: Counted::new(&origin.gauges.idle),
            });
        }
    }
}

//! The connections of one worker. Idle connections are reused last in, first out, so that surplus
//! ones age out in quiet periods.
use super::config::PoolKey;
use super::request_body::RequestBody;
use super::resolver::Resolver;
use crate::proxy::metrics::UpstreamGauges;
use http::Version;
use hyper::client::conn::{http1, http2};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How long a connection may be idle. Shorter than what servers commonly allow: a connection that
/// the server is about to close is better not used.
const MAX_IDLE_TIME: Duration = Duration::from_secs(30);
/// The age at which a connection is retired, so that changes of DNS and load balancing take effect.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Idle HTTP/1.1 connections to one origin.
const MAX_IDLE: usize = 1024;
/// HTTP/2 connections to one origin.
const MAX_HTTP2: usize = 32;

/// The connections of one worker to its upstreams.
pub(crate) struct Pool {
    origins: RefCell<HashMap<Arc<PoolKey>, OriginPool>>,
    gauges: UpstreamGauges,
    resolver: Rc<Resolver>,
}

/// The connections to one origin.
#[derive(Default)]
struct OriginPool {
    idle: Vec<IdleConnection>,
    /// HTTP/2 connections: more than one if the peer's stream limit is too low.
    http2: Vec<Http2Connection>,
}

struct IdleConnection {
    sender: http1::SendRequest<RequestBody>,
    established: Established,
    driver: AbortHandle,
    since: Instant,
}

struct Http2Connection {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<StreamCount>,
}

/// The streams of one HTTP/2 connection that are in use. A connection without any counts as idle.
pub(super) struct StreamCount {
    established: Established,
    driver: AbortHandle,
    active: Cell<usize>,
    /// The active streams that no request waits for any more, although they have not ended.
    abandoned: Cell<usize>,
    max: MaxStreams,
    gauges: UpstreamGauges,
}

/// How many streams the peer allows at once (RFC 9113 §6.5.2), as far as it has said.
type MaxStreams = Box<dyn Fn() -> usize>;

/// Counts one stream as in use until it is dropped.
pub(crate) struct StreamGuard {
    streams: Rc<StreamCount>,
    is_abandoned: bool,
}

/// When and with whom a connection was established, and with which revision of the identity.
#[derive(Clone, Copy)]
pub(super) struct Established {
    pub(super) at: Instant,
    pub(super) revision: u64,
    pub(super) peer: SocketAddr,
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
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) established: Established,
    /// The task that drives the connection.
    pub(super) driver: AbortHandle,
    pub(super) key: Arc<PoolKey>,
    pub(super) pool: Rc<Pool>,
}

/// A connection that a request can be sent on.
pub(super) enum Connection {
    Http1(Http1Lease),
    Http2(http2::SendRequest<RequestBody>, StreamGuard),
}

impl Pool {
    /// Creates an empty pool.
    pub(crate) fn new(gauges: UpstreamGauges, resolver: Rc<Resolver>) -> Rc<Self> {
        Rc::new(Self { origins: RefCell::default(), gauges, resolver })
    }

    /// The resolver for the names of new connections.
    pub(super) fn resolver(&self) -> &Rc<Resolver> {
        &self.resolver
    }

    /// A pooled connection that was made with the current identity, or `None`.
    pub(super) fn take(self: &Rc<Self>, key: &Arc<PoolKey>) -> Option<Connection> {
        let mut origins = self.origins.borrow_mut();
        let origin = origins.get_mut(key)?;
        let (now, revision) = (Instant::now(), key.revision());
        origin.http2.retain(|connection| connection.is_usable(revision, now));
        if let Some(connection) = origin.stream() {
            return Some(connection);
        }
        let mut not_ready = Vec::new();
        let found = loop {
            let Some(idle) = origin.idle.pop() else { break None };
            self.gauges.idle.dec();
            if !idle.is_usable(revision, now) {
                continue;
            }
            if idle.sender.is_ready() {
                break Some(idle);
            }
            // Its connection task has not yet seen the end of the last response; it will be ready
            // for the next request.
            not_ready.push(idle);
        };
        self.gauges.idle.add(i64::try_from(not_ready.len()).unwrap_or(0));
        origin.idle.extend(not_ready);
        let idle = found?;
        Some(Connection::Http1(Http1Lease {
            sender: idle.sender,
            established: idle.established,
            driver: idle.driver,
            key: Arc::clone(key),
            pool: Rc::clone(self),
        }))
    }

    /// After [`Self::take`] found nothing: whether an idle connection is only waiting for its task
    /// to finish the last response, so that it is worth waiting for one turn of the runtime.
    pub(super) fn has_pending(&self, key: &Arc<PoolKey>) -> bool {
        self.origins.borrow().get(key).is_some_and(|origin| !origin.idle.is_empty())
    }

    /// Adds a new HTTP/2 connection to the pool. The caller takes its first stream.
    pub(super) fn add_http2(
        &self,
        key: &Arc<PoolKey>,
        sender: &http2::SendRequest<RequestBody>,
        streams: &Rc<StreamCount>,
    ) {
        let mut origins = self.origins.borrow_mut();
        let origin = origins.entry(Arc::clone(key)).or_default();
        origin.http2.push(Http2Connection { sender: sender.clone(), streams: Rc::clone(streams) });
    }

    /// Evicts connections that are too old, idle for too long, or made with an earlier identity.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut origins = self.origins.borrow_mut();
        origins.retain(|key, origin| {
            let revision = key.revision();
            let before = origin.idle.len();
            origin.idle.retain(|idle| idle.is_usable(revision, now));
            self.gauges.idle.sub(i64::try_from(before - origin.idle.len()).unwrap_or(0));
            origin.http2.retain(|connection| connection.is_usable(revision, now));
            !origin.idle.is_empty() || !origin.http2.is_empty()
        });
    }

    /// Evicts every idle HTTP/1.1 connection, because its file descriptor is needed.
    pub(crate) fn evict_idle(&self) {
        for origin in self.origins.borrow_mut().values_mut() {
            self.gauges.idle.sub(i64::try_from(origin.idle.len()).unwrap_or(0));
            origin.idle.clear();
        }
    }

    pub(super) fn gauges(&self) -> &UpstreamGauges {
        &self.gauges
    }
}

impl OriginPool {
    /// A stream of a connection whose peer allows another one. Once there are as many connections
    /// as allowed, the request waits its turn on the least used one.
    fn stream(&self) -> Option<Connection> {
        let has_room = |connection: &&Http2Connection| connection.streams.active.get() < (connection.streams.max)();
        let least_used = || self.http2.iter().min_by_key(|connection| connection.streams.active.get());
        let is_full = self.http2.len() >= MAX_HTTP2;
        let connection = self.http2.iter().find(has_room).or_else(|| least_used().filter(|_| is_full))?;
        Some(Connection::Http2(connection.sender.clone(), StreamGuard::new(&connection.streams)))
    }
}

impl Established {
    fn is_current(self, revision: u64, now: Instant) -> bool {
        self.revision == revision && now.duration_since(self.at) < MAX_AGE
    }
}

impl IdleConnection {
    fn is_usable(&self, revision: u64, now: Instant) -> bool {
        !self.sender.is_closed()
            && self.established.is_current(revision, now)
            && now.duration_since(self.since) < MAX_IDLE_TIME
    }
}

impl Http2Connection {
    fn is_usable(&self, revision: u64, now: Instant) -> bool {
        self.streams.established.is_current(revision, now)
            && self.streams.abandoned.get() == 0
            && !self.sender.is_closed()
    }
}

impl StreamCount {
    /// Counts the streams of a connection that has none yet. `driver` is the task that drives it.
    pub(super) fn new(
        established: Established,
        driver: AbortHandle,
        max: MaxStreams,
        gauges: &UpstreamGauges,
    ) -> Rc<Self> {
        gauges.idle.inc();
        let (active, abandoned, gauges) = (Cell::new(0), Cell::new(0), gauges.clone());
        Rc::new(Self { established, driver, active, abandoned, max, gauges })
    }

    /// Ends the connection if no request waits for any of its streams, but not all have ended.
    fn end_if_abandoned(&self) {
        if self.abandoned.get() > 0 && self.abandoned.get() == self.active.get() {
            self.driver.abort();
        }
    }
}

impl StreamGuard {
    pub(super) fn new(streams: &Rc<StreamCount>) -> Self {
        let active = streams.active.get();
        if active == 0 {
            streams.gauges.idle.dec();
        }
        streams.active.set(active + 1);
        Self { streams: Rc::clone(streams), is_abandoned: false }
    }

    /// Gives up a stream that may never end. It stays counted: what it takes is freed only with the
    /// connection, which takes no new requests from now on.
    fn abandon(mut self) {
        self.is_abandoned = true;
        self.streams.abandoned.set(self.streams.abandoned.get() + 1);
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let Self { streams, is_abandoned } = self;
        if !*is_abandoned {
            let active = streams.active.get() - 1;
            streams.active.set(active);
            if active == 0 {
                streams.gauges.idle.inc();
            }
        }
        streams.end_if_abandoned();
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        // A connection with abandoned streams was never idle again.
        if self.active.get() == 0 {
            self.gauges.idle.dec();
        }
    }
}

impl Lease {
    /// The address of the upstream.
    pub(crate) fn peer(&self) -> SocketAddr {
        match self {
            Self::Http1(connection) => connection.established.peer,
            Self::Http2(stream) => stream.streams.established.peer,
        }
    }

    /// The protocol that the connection speaks.
    pub(crate) fn protocol(&self) -> Version {
        match self {
            Self::Http1(_) => Version::HTTP_11,
            Self::Http2(_) => Version::HTTP_2,
        }
    }

    /// Gives up a request that has not ended: an HTTP/1.1 connection ends at once, whatever it waits
    /// for. An HTTP/2 connection takes no new requests, and ends once all its remaining streams have
    /// been given up. Dropping the bodies is not enough, because hyper does not poll the body of a
    /// request while the upstream reads nothing.
    pub(crate) fn abort(self) {
        match self {
            Self::Http1(connection) => connection.driver.abort(),
            Self::Http2(stream) => stream.abandon(),
        }
    }

    /// Returns the connection or stream to the pool, once the response has been read.
    pub(crate) fn give_back(self) {
        match self {
            Self::Http1(connection) => connection.give_back(),
            Self::Http2(stream) => drop(stream),
        }
    }
}

impl Http1Lease {
    /// Returns the connection to the pool.
    fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let mut origins = self.pool.origins.borrow_mut();
        let origin = origins.entry(self.key).or_default();
        if origin.idle.len() < MAX_IDLE {
            self.pool.gauges.idle.inc();
            origin.idle.push(IdleConnection {
                sender: self.sender,
                established: self.established,
                driver: self.driver,
                since: Instant::now(),
            });
        }
    }
}

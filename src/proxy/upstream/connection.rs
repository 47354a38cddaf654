//! One connection to an upstream, and the streams of it that are in use.
use super::proof::Proof;
use super::read_meter::ReadCount;
use super::request_body::RequestBody;
use crate::proxy::metrics::UpstreamGauges;
use hyper::client::conn::{http1, http2};
use prometheus::IntGauge;
use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How long a connection may be idle. Shorter than what servers commonly allow: a connection that
/// the server is about to close is better not used.
pub(super) const MAX_IDLE_TIME: Duration = Duration::from_secs(30);
/// The age at which a connection is retired, so that changes of DNS and load balancing take effect.
const MAX_AGE: Duration = Duration::from_secs(600);

/// When and with whom a connection was established, and with which revision of the identity.
#[derive(Clone, Copy)]
pub(super) struct Established {
    pub(super) at: Instant,
    pub(super) revision: u64,
    pub(super) peer: SocketAddr,
}

/// An HTTP/1.1 connection.
pub(super) struct Http1Connection {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) established: Established,
    /// The task that drives the connection.
    pub(super) driver: AbortHandle,
    /// What the upstream has sent on it.
    pub(super) received: Arc<ReadCount>,
}

/// An HTTP/2 connection, which many requests share.
#[derive(Clone)]
pub(super) struct Http2Connection {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) streams: Rc<StreamCount>,
}

/// The streams of one HTTP/2 connection that are in use. A connection without any counts as idle.
pub(super) struct StreamCount {
    established: Established,
    /// The task that drives the connection.
    driver: AbortHandle,
    active: Cell<usize>,
    /// The active streams that no request waits for any more, although they have not ended.
    abandoned: Cell<usize>,
    /// Whether the peer has answered a request on the connection.
    has_answered: Cell<bool>,
    /// Whether the connection has failed, so that it takes no new requests.
    is_retired: Cell<bool>,
    idle_since: Cell<Instant>,
    max: MaxStreams,
    /// Called when a stream has ended, once the pool has the connection.
    freed: OnceCell<Box<dyn Fn()>>,
    gauges: UpstreamGauges,
}

/// How many streams the peer allows at once (RFC 9113 §6.5.2), as far as it has said.
type MaxStreams = Box<dyn Fn() -> usize>;

/// Counts one stream as in use until it is dropped.
pub(crate) struct StreamGuard {
    streams: Rc<StreamCount>,
    is_abandoned: bool,
}

/// Counts a connection until it is dropped.
pub(super) struct Counted(IntGauge);

impl Established {
    pub(super) fn is_current(self, revision: u64, now: Instant) -> bool {
        self.revision == revision && now.duration_since(self.at) < MAX_AGE
    }
}

impl Counted {
    pub(super) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Http2Connection {
    /// Whether new requests may use the connection.
    pub(super) fn is_usable(&self, revision: u64, now: Instant) -> bool {
        let streams = &self.streams;
        streams.established.is_current(revision, now)
            && !streams.is_retired.get()
            && streams.abandoned.get() == 0
            && !self.sender.is_closed()
            && (streams.active.get() > 0 || now.duration_since(streams.idle_since.get()) < MAX_IDLE_TIME)
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
        Rc::new(Self {
            established,
            driver,
            active: Cell::new(0),
            abandoned: Cell::new(0),
            has_answered: Cell::new(false),
            is_retired: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            max,
            freed: OnceCell::new(),
            gauges: gauges.clone(),
        })
    }

    pub(super) fn established(&self) -> Established {
        self.established
    }

    pub(super) fn active(&self) -> usize {
        self.active.get()
    }

    /// Sets what is called whenever a stream has ended.
    pub(super) fn on_freed(&self, freed: Box<dyn Fn()>) {
        self.freed.get_or_init(|| freed);
    }

    /// How many streams the peer allows at once.
    pub(super) fn max(&self) -> usize {
        (self.max)()
    }

    /// Whether the peer allows another stream.
    pub(super) fn has_room(&self) -> bool {
        self.active.get() < self.max()
    }

    /// Ends the connection if no request waits for any of its streams, but not all have ended.
    fn end_if_abandoned(&self) {
        if self.abandoned.get() > 0 && self.abandoned.get() == self.active.get() {
            self.driver.abort();
        }
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

impl StreamGuard {
    pub(super) fn new(streams: &Rc<StreamCount>) -> Self {
        let active = streams.active.get();
        if active == 0 {
            streams.gauges.idle.dec();
        }
        streams.active.set(active + 1);
        Self { streams: Rc::clone(streams), is_abandoned: false }
    }

    /// The address of the upstream.
    pub(super) fn peer(&self) -> SocketAddr {
        self.streams.established.peer
    }

    /// Whether the peer has answered a request on the connection.
    pub(super) fn has_answered(&self) -> bool {
        self.streams.has_answered.get()
    }

    /// Records how a request ended: with an answer, or with an error, after which the connection
    /// takes no new requests unless only the stream has ended.
    pub(super) fn record_end(&self, error: Option<&hyper::Error>) {
        match error {
            None => self.streams.has_answered.set(true),
            Some(error) if Proof::spares_connection(error) => {}
            Some(_) => self.streams.is_retired.set(true),
        }
    }

    /// Gives up a stream that may never end. It stays counted: what it takes is freed only with the
    /// connection, which takes no new requests from now on.
    pub(super) fn abandon(mut self) {
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
                streams.idle_since.set(Instant::now());
                streams.gauges.idle.inc();
            }
        }
        streams.end_if_abandoned();
        if !*is_abandoned && let Some(freed) = streams.freed.get() {
            freed();
        }
    }
}

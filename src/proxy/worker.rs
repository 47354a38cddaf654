//! A worker: one thread with its own runtime, listeners and connections, so that a request lives and dies on one core.
use super::downstream::{Answers, Fault, Offered, Prefixed, Speaks, Strict, Verdicts, block_on, patient, sniff};
use super::metrics::Metrics;
use super::outbound::{self, Arrival, Table};
use super::traffic::{Connected, Traffic};
use super::upstream::{Guard, Names, Pool};
use crate::identity::Identity;
use crate::tasks::Stop;
use crate::token::{Delegated, Tokens};
use arc_swap::ArcSwap;
use http::uri::Authority;
use http::{HeaderValue, Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Bounds of the data plane.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a path and query.
    pub uri: usize,
    /// Bytes of a request's head.
    pub head: usize,
    /// Connections of the agent's, all workers together.
    pub connections: usize,
    /// Requests at once, all workers together.
    pub requests: i64,
    /// Delegated tokens that one worker remembers.
    pub delegated: NonZeroUsize,
    /// How long a connection may be open without a whole request head.
    pub head_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            uri: 8 * 1024,
            head: 64 * 1024,
            connections: 4096,
            requests: 4096,
            delegated: NonZeroUsize::new(1024).expect("not zero"),
            head_timeout: Duration::from_secs(75),
        }
    }
}

/// Bytes of one answer that wait for an agent who opens a wide window and does not read: there may be 200 of them on a connection.
const SEND_BUFFER: usize = 16 * 1024;

/// What all workers see: snapshots and handles, no lock on the request path.
pub struct Shared {
    table: ArcSwap<Table>,
    pub(super) tokens: Tokens,
    pub(super) identity: Option<Identity>,
    pub(super) metrics: Metrics,
    pub(super) traffic: Traffic,
    pub(super) guard: Guard,
    pub(super) limits: Limits,
    pub(super) pseudonym: String,
    /// One for each connection of the agent's, all workers together.
    places: Arc<Semaphore>,
    pulse: Pulse,
    via_http1: HeaderValue,
    via_http2: HeaderValue,
}

/// What [`Shared`] is made of.
pub struct SharedParts {
    /// The routes.
    pub table: Table,
    /// Where tokens come from.
    pub tokens: Tokens,
    /// The workload's identity, where one is configured.
    pub identity: Option<Identity>,
    /// The data plane's counters.
    pub metrics: Metrics,
    /// Counts of what is going on.
    pub traffic: Traffic,
    /// Addresses that are refused.
    pub guard: Guard,
    /// Bounds.
    pub limits: Limits,
    /// Where workers say that they turn.
    pub pulse: Pulse,
}

impl Shared {
    /// Takes a fresh pseudonym: two sidecars in one chain are no loop, this process twice is.
    pub fn new(parts: SharedParts) -> Self {
        let pseudonym = format!("idjag-proxy-{:08x}", fastrand::u32(..));
        let via = |version: &str| {
            HeaderValue::try_from(format!("{version} {pseudonym}")).expect("letters, digits, `-` and `.`")
        };
        Self {
            via_http1: via("1.1"),
            via_http2: via("2.0"),
            pseudonym,
            places: Arc::new(Semaphore::new(parts.limits.connections.min(Semaphore::MAX_PERMITS))),
            table: ArcSwap::from_pointee(parts.table),
            tokens: parts.tokens,
            identity: parts.identity,
            metrics: parts.metrics,
            traffic: parts.traffic,
            guard: parts.guard,
            limits: parts.limits,
            pulse: parts.pulse,
        }
    }

    /// The routes of now.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Swaps the routes; requests under way end with the old ones.
    pub fn replace(&self, table: Table) {
        self.table.store(Arc::new(table));
    }

    /// Where workers say that they turn.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Counts of what is going on.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    pub(super) fn via(&self, version: Version) -> &HeaderValue {
        if version >= Version::HTTP_2 { &self.via_http2 } else { &self.via_http1 }
    }
}

/// One worker's own things.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Rc<Pool>,
    pub(super) delegated: RefCell<Delegated>,
}

/// One connection of the agent's.
pub(super) struct Downstream {
    local: SocketAddr,
    tunnel: Option<Authority>,
    verdicts: Arc<Verdicts>,
    /// Requests so far, as far as they are counted: over HTTP/1.1.
    requests: Cell<u64>,
    _connected: Option<Connected>,
}

impl Downstream {
    fn new(local: SocketAddr, tunnel: Option<Authority>, connected: Option<Connected>) -> Rc<Self> {
        Rc::new(Self { local, tunnel, verdicts: Arc::default(), requests: Cell::new(0), _connected: connected })
    }

    /// Counts a request, and says why its head is refused if it is.
    pub(super) fn begin(&self) -> Option<Fault> {
        let request = self.requests.get() + 1;
        self.requests.set(request);
        self.verdicts.fault(request)
    }

    /// Whether what follows the latest request is not looked at.
    pub(super) fn switches(&self) -> bool {
        self.verdicts.switches(self.requests.get())
    }

    pub(super) fn arrival(&self) -> Arrival<'_> {
        Arrival { local: self.local, tunnel: self.tunnel.as_ref() }
    }

    /// What came through a CONNECT on this connection.
    pub(super) fn inside(&self, authority: Authority) -> Rc<Self> {
        Self::new(self.local, Some(authority), None)
    }
}

/// When each worker's timer last fired, in milliseconds since the start: by a clock that a laptop's sleep and an operator's hand do
/// not move.
#[derive(Clone, Debug)]
pub struct Pulse {
    start: Instant,
    last: Arc<[AtomicU64]>,
}

impl Pulse {
    /// Of so many workers.
    pub fn new(workers: usize) -> Self {
        Self { start: Instant::now(), last: (0..workers).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Workers whose timer has not fired for longer than `limit`.
    pub fn stuck(&self, limit: Duration) -> impl Iterator<Item = usize> + '_ {
        let now = self.start.elapsed();
        let late =
            move |last: &AtomicU64| now.saturating_sub(Duration::from_millis(last.load(Ordering::Relaxed))) > limit;
        self.last.iter().enumerate().filter(move |(_, last)| late(last)).map(|(worker, _)| worker)
    }

    fn beat(&self, worker: usize) {
        if let Some(last) = self.last.get(worker) {
            last.store(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// Runs one worker, the one of this number, on the calling thread until it is told to stop.
pub fn run_worker(
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
    index: usize,
    mut stop: Stop,
) -> Result<(), String> {
    let ended = block_on(async move {
        let worker = Rc::new(Worker {
            pool: Pool::new(shared.metrics.clone(), Names::system()),
            delegated: RefCell::new(Delegated::new(shared.limits.delegated)),
            shared,
        });
        for listener in listeners {
            let listener =
                tokio::net::TcpListener::from_std(listener).map_err(|error| format!("a listener failed: {error}"))?;
            tokio::task::spawn_local(accept(Rc::clone(&worker), listener));
        }
        tokio::task::spawn_local(tick(Rc::clone(&worker), index));
        stop.stopped().await;
        Ok(())
    });
    ended.map_err(|error| format!("a worker's runtime could not start: {error}"))?
}

/// Besides sweeping, its timer keeps the runtime's next wake-up near: else every request's head timer would have to wake the
/// driver for an earlier one.
async fn tick(worker: Rc<Worker>, index: usize) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tick.tick().await;
        worker.shared.pulse.beat(index);
        worker.pool.sweep();
    }
}

async fn accept(worker: Rc<Worker>, listener: tokio::net::TcpListener) {
    let mut shortage = Shortage::default();
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely.
                shortage.wait(&error).await;
                continue;
            }
        };
        let stream = loop {
            stream = match worker.shared.guard.admit(stream) {
                Ok(stream) => break stream,
                Err(stream) => stream,
            };
            worker.pool.let_go();
            shortage.wait(&"the last file descriptors are kept for probes, the identity and tokens").await;
        };
        shortage.failures = 0;
        // Only now: a listener that nobody calls must not hold a place that another one could use.
        let Ok(permit) = Arc::clone(&worker.shared.places).acquire_owned().await else { return };
        let worker = Rc::clone(&worker);
        tokio::task::spawn_local(async move {
            let _permit = permit;
            serve(&worker, stream).await;
        });
    }
}

/// A time in which connections cannot be accepted: it is waited out, and the log hears of it now and then.
#[derive(Default)]
struct Shortage {
    failures: u32,
    said: Option<Instant>,
}

impl Shortage {
    async fn wait(&mut self, why: &(dyn std::fmt::Display + Sync)) {
        self.failures += 1;
        if self.said.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
            self.said = Some(Instant::now());
            tracing::error!(error = %why, "a connection could not be accepted");
        }
        // Nothing tells when a descriptor becomes free: it is looked again, less and less often, and twice a second at the least.
        tokio::time::sleep(Duration::from_millis(10) * self.failures.min(50)).await;
    }
}

async fn serve(worker: &Rc<Worker>, stream: TcpStream) {
    let connected = worker.shared.traffic.connection();
    let Ok(local) = stream.local_addr() else { return };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a socket option was refused");
    }
    let sniffed = tokio::time::timeout(worker.shared.limits.head_timeout, sniff(stream)).await;
    let Ok(Ok((speaks, stream))) = sniffed else { return };
    let downstream = Downstream::new(local, None, Some(connected));
    match speaks {
        Speaks::Nothing => {}
        Speaks::Tls => tracing::warn!("a client spoke TLS to the outbound port; it takes plain HTTP: http://{local}"),
        speaks => serve_http(worker, downstream, (speaks, stream)).await,
    }
}

/// Serves HTTP on a connection whose protocol has been told.
pub(super) async fn serve_http<S>(
    worker: &Rc<Worker>,
    downstream: Rc<Downstream>,
    (speaks, stream): (Speaks, Prefixed<S>),
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &worker.shared.limits;
    let handle = |request: Request<Incoming>| outbound::handle(Rc::clone(worker), Rc::clone(&downstream), request);
    let given_up = &worker.shared.metrics.unread;
    let ended = if speaks == Speaks::Http2 {
        let service = service_fn(|request| {
            let answer = handle(request);
            async move { Ok::<_, Infallible>(answer.await.map(Offered)) }
        });
        let mut builder = http2::Builder::new(Answers { given_up: given_up.clone() });
        builder
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(200)
            .max_pending_accept_reset_streams(64)
            // Twice what is taken: a head in between is refused with a problem, a metric and a log line. What is beyond, h2 refuses
            // by itself, so that it is never held: with a bare 431, or by ending the connection.
            .max_header_list_size(u32::try_from(2 * limits.head).unwrap_or(u32::MAX))
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(Duration::from_secs(60));
        builder.serve_connection(TokioIo::new(stream), service).await
    } else {
        let service = service_fn(|request| {
            let answer = handle(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let strict = Strict::new(stream, limits.head, Arc::clone(&downstream.verdicts));
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .header_read_timeout(limits.head_timeout)
            // Above the limit of a head, so that no head is judged by size but here.
            .max_buf_size(limits.head.max(8 * 1024) + 1024);
        let serving = pin!(builder.serve_connection(TokioIo::new(strict), service).with_upgrades());
        patient(serving, given_up).await.unwrap_or(Ok(()))
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the agent's ended");
    }
}

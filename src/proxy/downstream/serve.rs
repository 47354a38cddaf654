//! Serves HTTP on a connection of the agent. The handler that answers the requests is a parameter:
//! the same connection code serves the outbound port and the inside of a tunnel.
use super::detect::{Detected, PrefixedIo, Protocol};
use super::head::HeadViolation;
use super::request_guard::RequestGuard;
use super::violations::Violations;
use super::write_timeout::{TrackedBody, WriteTimeout, with_write_timeout};
use crate::proxy::limits::{Limits, windows};
use crate::proxy::traffic::{Connected, Traffic};
use bytes::Bytes;
use futures_util::FutureExt;
use http::uri::Authority;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::IntCounter;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of one HTTP/2 answer that are buffered for an agent that opens a wide window and does not
/// read. There may be 200 such answers on a connection.
const MAX_SEND_BUFFER: usize = 16 * 1024;
/// HTTP/2 streams of one connection.
const MAX_STREAMS: u32 = 200;

/// A request of the agent.
pub(crate) struct ReceivedRequest {
    pub(crate) request: Request<Incoming>,
    /// The connection that it arrived on.
    pub(crate) downstream: Rc<Downstream>,
    /// How long its answer may go unread.
    pub(crate) write_timeout: WriteTimeout,
}

/// A connection of the agent.
pub(crate) struct Downstream {
    local: SocketAddr,
    tunnel: Option<Authority>,
    violations: Arc<Violations>,
    /// How many requests have arrived. It is meaningful with HTTP/1.1, where requests arrive one
    /// after another.
    requests: Cell<u64>,
    /// Held by everything that came of the connection, upgrades included.
    _place: Place,
}

/// What holds the place of a connection among those that agents may hold.
pub(crate) enum Place {
    /// The connection itself.
    Own { _permit: OwnedSemaphorePermit, _connected: Connected },
    /// The connection that it is tunnelled in.
    Outer(#[expect(dead_code, reason = "it is held")] Rc<Downstream>),
}

/// How a request reached this proxy.
#[derive(Clone, Copy)]
pub(crate) struct Arrival<'c> {
    /// The address by which URLs name the listener.
    pub(crate) local: SocketAddr,
    /// The authority of the CONNECT that the request came through.
    pub(crate) tunnel: Option<&'c Authority>,
}

impl Downstream {
    pub(super) fn new(local: SocketAddr, place: Place) -> Rc<Self> {
        Self::with(local, None, place)
    }

    /// The connection inside a tunnel that a CONNECT to `authority` has opened on this one.
    pub(crate) fn inside(self: &Rc<Self>, authority: Authority) -> Rc<Self> {
        Self::with(self.local, Some(authority), Place::Outer(Rc::clone(self)))
    }

    fn with(local: SocketAddr, tunnel: Option<Authority>, place: Place) -> Rc<Self> {
        Rc::new(Self { local, tunnel, violations: Arc::default(), requests: Cell::new(0), _place: place })
    }

    /// Counts a request. Returns why its head is refused, if it is.
    pub(crate) fn begin_request(&self) -> Option<HeadViolation> {
        let request = self.requests.get() + 1;
        self.requests.set(request);
        self.violations.of(request)
    }

    /// Whether a request has arrived.
    fn has_requests(&self) -> bool {
        self.requests.get() > 0
    }

    /// Whether the bytes after the latest request are not checked.
    pub(crate) fn may_switch(&self) -> bool {
        self.violations.switches(self.requests.get())
    }

    /// Whether the latest request, an OPTIONS, is for the server itself and not for a path of it.
    pub(crate) fn is_server_wide(&self) -> bool {
        self.violations.is_server_wide(self.requests.get())
    }

    pub(crate) fn arrival(&self) -> Arrival<'_> {
        Arrival { local: self.local, tunnel: self.tunnel.as_ref() }
    }
}

/// The HTTP server of the agent's connections, with its settings.
#[derive(Clone)]
pub(crate) struct Server {
    head_limit: usize,
    head_timeout: Duration,
    write_timeout: Duration,
    unread: IntCounter,
    traffic: Traffic,
}

impl Server {
    /// `unread` counts the answers that are abandoned because the agent does not read them.
    /// `traffic` says when the drain begins.
    pub(crate) fn new(limits: &Limits, unread: IntCounter, traffic: Traffic) -> Self {
        let Limits { head: head_limit, head_timeout, write_timeout, .. } = *limits;
        Self { head_limit, head_timeout, write_timeout, unread, traffic }
    }

    /// How long a connection may be open without a whole request head.
    pub(super) fn head_timeout(&self) -> Duration {
        self.head_timeout
    }

    /// Serves HTTP on a connection, whose requests `handler` answers.
    pub(crate) async fn serve<S, H, F, B>(&self, downstream: Rc<Downstream>, stream: Detected<S>, handler: H)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        H: Fn(ReceivedRequest) -> F,
        F: Future<Output = Response<B>> + 'static,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let served = match stream.protocol {
            Protocol::Http2 => self.http2(downstream, stream.io, handler).await,
            _ => self.http1(downstream, stream.io, handler).await,
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection of the agent ended");
        }
    }

    async fn http1<S, H, F, B>(&self, downstream: Rc<Downstream>, io: PrefixedIo<S>, handler: H) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        H: Fn(ReceivedRequest) -> F,
        F: Future<Output = Response<B>> + 'static,
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let write_timeout = WriteTimeout::new(self.write_timeout);
        let guarded = RequestGuard::new(io, self.head_limit, Arc::clone(&downstream.violations), write_timeout.clone());
        let service = service_fn(|request| {
            let (downstream, write_timeout) = (Rc::clone(&downstream), write_timeout.clone());
            // Mapped, not awaited in a block: hyper moves the future for each request, and a block
            // would have room for it twice.
            handler(ReceivedRequest { request, downstream, write_timeout }).map(Ok::<_, Infallible>)
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .header_read_timeout(self.head_timeout)
            // Above the limit of a head, so that only the request guard judges its size.
            .max_buf_size(self.head_limit.max(8 * 1024) + 1024);
        let serving = pin!(builder.serve_connection(TokioIo::new(guarded), service).with_upgrades());
        with_write_timeout(serving, &write_timeout, &self.unread).await.unwrap_or(Ok(()))
    }

    async fn http2<S, H, F, B>(&self, downstream: Rc<Downstream>, io: PrefixedIo<S>, handler: H) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        H: Fn(ReceivedRequest) -> F,
        F: Future<Output = Response<B>> + 'static,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let streams = StreamExecutor { called: Rc::default(), unread: self.unread.clone() };
        let service = service_fn(|request| {
            let write_timeout = WriteTimeout::new(self.write_timeout);
            streams.called.replace(Some(write_timeout.clone()));
            let downstream = Rc::clone(&downstream);
            let received = ReceivedRequest { request, downstream, write_timeout: write_timeout.clone() };
            // Boxed because hyper and the executor move the future on its way to its task.
            let answer = Box::pin(handler(received));
            async move { Ok::<_, Infallible>(answer.await.map(|body| TrackedBody::new(body, write_timeout))) }
        });
        let mut builder = http2::Builder::new(streams.clone());
        builder
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(64)
            // Twice the limit of a head: a head between the two is refused with a problem, a metric
            // and a log line. h2 refuses a larger one by itself, so that it is never held, with a
            // bare 431 or by ending the connection.
            .max_header_list_size(u32::try_from(2 * self.head_limit).unwrap_or(u32::MAX))
            .initial_stream_window_size(windows::STREAM)
            .initial_connection_window_size(windows::CONNECTION)
            .max_send_buf_size(MAX_SEND_BUFFER)
            .keep_alive_interval(Duration::from_secs(60));
        let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service));
        let mut draining = pin!(self.traffic.draining());
        let mut is_told = false;
        poll_fn(|cx| {
            let polled = serving.as_mut().poll(cx);
            // A connection that is made during the drain carries its first request: a client that
            // gets a GOAWAY before it has sent anything makes one connection after another.
            if polled.is_ready() || is_told || !downstream.has_requests() || draining.as_mut().poll(cx).is_pending() {
                return polled;
            }
            is_told = true;
            serving.as_mut().graceful_shutdown();
            serving.as_mut().poll(cx)
        })
        .await
    }
}

/// Spawns the tasks that answer HTTP/2 requests, each with its write timeout. hyper calls the
/// service for a request and then spawns that request's task, so the task to spawn is always that
/// of the request for which the service was called last.
#[derive(Clone)]
struct StreamExecutor {
    /// The write timeout of the request for which the service was called last, until its task is
    /// spawned.
    called: Rc<RefCell<Option<WriteTimeout>>>,
    unread: IntCounter,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        let (write_timeout, unread) = (self.called.take(), self.unread.clone());
        tokio::task::spawn_local(async move {
            let future = pin!(future);
            match write_timeout {
                Some(write_timeout) => drop(with_write_timeout(future, &write_timeout, &unread).await),
                None => drop(future.await),
            }
        });
    }
}

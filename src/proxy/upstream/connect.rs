//! New connections: once TCP is open, TLS and HTTP begin.
use super::abortable::Abortable;
use super::config::{PoolKey, Protocol, UpstreamTls};
use super::connection::{Counted, Established, Http1Connection, Http2Connection, StreamCount};
use super::dial::{open, server_name};
use super::error::SendError;
use super::pool::Pool;
use super::read_meter::{ReadCount, ReadMeter};
use super::request_body::RequestBody;
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::proxy::guard::Guard;
use crate::proxy::limits::windows;
use crate::proxy::metrics::UpstreamGauges;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use std::cell::{OnceCell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// Bounds the memory of one HTTP/1.1 connection, and with it the size of a response's head.
const MAX_BUFFER: usize = 64 * 1024;

/// A connection on which nothing has been sent yet.
pub(super) enum NewConnection {
    Http1(Http1Connection),
    /// `received` tells when the peer's settings have come, which are its first frame (RFC 9113
    /// §3.4).
    Http2 {
        connection: Http2Connection,
        received: Arc<ReadCount>,
    },
}

/// Opens a connection to the key's origin, and starts HTTP/1.1 or HTTP/2 on it.
pub(super) async fn connect(pool: &Pool, key: &PoolKey, guard: &Guard) -> Result<NewConnection, SendError> {
    let (begun, revision) = (Instant::now(), key.revision());
    // Subscribed before the TLS handshake, so that no change of trust is missed.
    let changes = key.tls.as_ref().and_then(|tls| tls.identity.as_ref()).map(Identity::changes);
    let stream = open(pool.resolver(), key.target(guard)).await?;
    let peer = stream.peer_addr().map_err(SendError::connect)?;
    let handshake = Handshake { gauges: pool.gauges(), established: Established { at: begun, revision, peer } };
    let Some(tls) = &key.tls else {
        return match key.protocol {
            Protocol::Http2 => handshake.http2(stream).await,
            Protocol::Http1 | Protocol::Negotiated => handshake.http1(stream).await,
        };
    };
    let config = if key.protocol == Protocol::Http1 { &tls.http1 } else { &tls.any };
    let name = tls.server_name.clone().unwrap_or_else(|| server_name(&key.origin.host));
    let stream =
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(SendError::from_handshake)?;
    let (_, session) = stream.get_ref();
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    if key.protocol == Protocol::Http2 && !is_http2 {
        return Err(SendError::Tls("the upstream does not offer HTTP/2 (ALPN)".to_owned()));
    }
    let chain = session.peer_certificates().map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect());
    let aborted = changes.map(|changes| {
        let chain = chain.unwrap_or_default();
        let watch = TrustWatch { tls: Arc::clone(tls), chain, since: tls.clock.now(), changes };
        let (abort, aborted) = oneshot::channel();
        tokio::task::spawn_local(watch.run(abort));
        aborted
    });
    let stream = Abortable::new(stream, aborted);
    if is_http2 { handshake.http2(stream).await } else { handshake.http1(stream).await }
}

/// An HTTP connection that is about to begin on an open stream.
struct Handshake<'p> {
    gauges: &'p UpstreamGauges,
    established: Established,
}

impl Handshake<'_> {
    async fn http1<I>(self, stream: I) -> Result<NewConnection, SendError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { gauges, established } = self;
        let open = Counted::new(&gauges.open);
        let stream = ReadMeter::new(stream);
        let received = stream.count();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake::<_, RequestBody>(TokioIo::new(stream))
            .await
            .map_err(SendError::handshake)?;
        let driver = tokio::task::spawn_local(drive(connection.with_upgrades(), open)).abort_handle();
        Ok(NewConnection::Http1(Http1Connection { sender, established, driver, received }))
    }

    async fn http2<I>(self, stream: I) -> Result<NewConnection, SendError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { gauges, established } = self;
        let open = Counted::new(&gauges.open);
        let stream = ReadMeter::new(stream);
        let received = stream.count();
        let executor = LocalExecutor::default();
        let mut builder = http2::Builder::new(executor.clone());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .max_header_list_size(64 * 1024)
            .initial_stream_window_size(windows::STREAM)
            .initial_connection_window_size(windows::CONNECTION)
            .max_send_buf_size(windows::SEND_BUFFER as usize)
            // Until the peer has said how many streams it allows: any beyond that would wait for
            // others to end.
            .initial_max_send_streams(1);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(SendError::handshake)?;
        let connection = Rc::new(RefCell::new(Box::pin(connection)));
        // Read anew for each stream, because nothing notifies the pool when the peer's settings
        // change.
        let weak = Rc::downgrade(&connection);
        let max_streams = move || weak.upgrade().map_or(0, |connection| connection.borrow().current_max_send_streams());
        let connection = std::future::poll_fn(move |cx| connection.borrow_mut().as_mut().poll(cx));
        let dispatcher = tokio::task::spawn_local(drive(connection, open)).abort_handle();
        let driver = executor.first_task().unwrap_or(dispatcher);
        let streams = StreamCount::new(established, driver, Box::new(max_streams), gauges);
        Ok(NewConnection::Http2 { connection: Http2Connection { sender, streams }, received })
    }
}

impl NewConnection {
    pub(super) fn established(&self) -> Established {
        match self {
            Self::Http1(connection) => connection.established,
            Self::Http2 { connection, .. } => connection.streams.established(),
        }
    }
}

/// Spawns hyper's HTTP/2 tasks onto the current thread's runtime, and remembers the first one:
/// hyper spawns the task that owns the stream during the handshake, before any other.
#[derive(Clone, Debug, Default)]
struct LocalExecutor {
    first: Rc<OnceCell<AbortHandle>>,
}

impl LocalExecutor {
    fn first_task(&self) -> Option<AbortHandle> {
        self.first.get().cloned()
    }
}

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        let task = tokio::task::spawn_local(async move {
            future.await;
        });
        self.first.get_or_init(|| task.abort_handle());
    }
}

/// Drives a connection until it ends.
async fn drive(connection: impl Future<Output = hyper::Result<()>>, _open: Counted) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to an upstream ended");
    }
}

/// Watches over a connection whose trust may end before the connection does.
struct TrustWatch {
    tls: Arc<UpstreamTls>,
    chain: Vec<CertificateDer<'static>>,
    since: Timestamp,
    changes: watch::Receiver<u64>,
}

impl TrustWatch {
    /// Aborts the connection once the authority that vouched for the peer is no longer trusted.
    /// Ends with the connection.
    async fn run(self, mut abort: oneshot::Sender<()>) {
        let reason = tokio::select! {
            () = abort.closed() => return,
            reason = self.until_distrusted() => reason,
        };
        tracing::warn!(%reason, "a connection to an upstream is closed: its trust has ended");
        // An error means that the connection has just ended by itself.
        let _ = abort.send(());
    }

    async fn until_distrusted(mut self) -> String {
        let Some(identity) = self.tls.identity.clone() else { return std::future::pending().await };
        while self.changes.changed().await.is_ok() {
            let Ok(snapshot) = identity.current() else { continue };
            // Verified as of the handshake. A leaf that has expired since then only retires the
            // connection, because its owner holds the next one by now. The connection must end when
            // the authority above the leaf is gone.
            if let Err(refused) = crate::tls::recheck(&self.tls.trust, &self.chain, &snapshot, self.since) {
                return refused.to_string();
            }
        }
        std::future::pending().await
    }
}

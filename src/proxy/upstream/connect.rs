//! New connections: once TCP is open, TLS and HTTP begin.
use super::abortable::Abortable;
use super::config::{PoolKey, Protocol, UpstreamTls};
use super::dial::{DialTarget, server_name, tcp};
use super::error::SendError;
use super::pool::{Connection, Established, Http1Lease, Pool, StreamGuard};
use super::request_body::RequestBody;
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::proxy::guard::Guard;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// Bounds the memory of one HTTP/1.1 connection, and with it the size of a response's head.
const MAX_BUFFER: usize = 64 * 1024;

/// Opens a connection to the key's origin, and starts HTTP/1.1 or HTTP/2 on it.
pub(super) async fn connect(pool: &Rc<Pool>, key: &Arc<PoolKey>, guard: &Guard) -> Result<Connection, SendError> {
    let established = Established { at: Instant::now(), revision: key.revision() };
    // Subscribed before the TLS handshake, so that no change of trust is missed.
    let changes = key.tls.as_ref().and_then(|tls| tls.identity.as_ref()).map(Identity::changes);
    let to = DialTarget { origin: &key.origin, named_by: key.named_by, guard };
    let stream = tcp(pool.resolver(), to).await?;
    let handshake = Handshake { pool, key, established };
    let Some(tls) = &key.tls else {
        let io = TokioIo::new(stream);
        return match key.protocol {
            Protocol::Http2 => handshake.http2(io).await,
            Protocol::Http1 | Protocol::Negotiated => handshake.http1(io).await,
        };
    };
    let config = if key.protocol == Protocol::Http1 { &tls.http1 } else { &tls.any };
    let name = server_name(&key.origin.host);
    let stream = TlsConnector::from(Arc::clone(config))
        .connect(name, stream)
        .await
        .map_err(|error| SendError::from_handshake(&error))?;
    let (_, session) = stream.get_ref();
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let chain = session.peer_certificates().map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect());
    let aborted = changes.map(|changes| {
        let chain = chain.unwrap_or_default();
        let watch = TrustWatch { tls: Arc::clone(tls), chain, since: tls.clock.now(), changes };
        let (abort, aborted) = oneshot::channel();
        tokio::task::spawn_local(watch.run(abort));
        aborted
    });
    let io = TokioIo::new(Abortable::new(stream, aborted));
    if is_http2 { handshake.http2(io).await } else { handshake.http1(io).await }
}

/// An HTTP connection that is about to begin on an open stream.
struct Handshake<'p> {
    pool: &'p Rc<Pool>,
    key: &'p Arc<PoolKey>,
    established: Established,
}

impl Handshake<'_> {
    async fn http1<I>(self, io: TokioIo<I>) -> Result<Connection, SendError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let open = OpenConnection::new(self.pool);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake::<_, RequestBody>(io)
            .await
            .map_err(SendError::Handshake)?;
        tokio::task::spawn_local(drive(connection.with_upgrades(), open));
        let Self { pool, key, established } = self;
        Ok(Connection::Http1(Http1Lease { sender, established, key: Arc::clone(key), pool: Rc::clone(pool) }))
    }

    async fn http2<I>(self, io: TokioIo<I>) -> Result<Connection, SendError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let open = OpenConnection::new(self.pool);
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .max_header_list_size(64 * 1024)
            // Until the peer has said how many streams it allows: any beyond that would wait for
            // others to end.
            .initial_max_send_streams(1);
        let (sender, connection) = builder.handshake(io).await.map_err(SendError::Handshake)?;
        let connection = Rc::new(RefCell::new(Box::pin(connection)));
        // Read anew for each stream, because nothing notifies the pool when the peer's settings
        // arrive.
        let weak = Rc::downgrade(&connection);
        let max_streams = move || weak.upgrade().map_or(0, |connection| connection.borrow().current_max_send_streams());
        let streams = self.pool.add_http2(self.key, &sender, self.established, Box::new(max_streams));
        let stream = StreamGuard::new(&streams);
        let connection = std::future::poll_fn(move |cx| connection.borrow_mut().as_mut().poll(cx));
        tokio::task::spawn_local(drive(connection, open));
        Ok(Connection::Http2(sender, stream))
    }
}

/// Spawns hyper's HTTP/2 tasks onto the current thread's runtime.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Drives a connection until it ends.
async fn drive(connection: impl Future<Output = hyper::Result<()>>, _open: OpenConnection) {
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

/// Counts an open connection until it is dropped.
struct OpenConnection(Rc<Pool>);

impl OpenConnection {
    fn new(pool: &Rc<Pool>) -> Self {
        pool.gauges().open.inc();
        Self(Rc::clone(pool))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.gauges().open.dec();
    }
}

//! New connections: the name is resolved once, its addresses are checked and connected to, then TLS
//! and HTTP begin.
use super::abortable::Abortable;
use super::config::{PoolKey, Protocol, UpstreamTls};
use super::error::SendError;
use super::pool::{Connection, Established, Http1Lease, Pool, StreamGuard};
use super::request_body::RequestBody;
use super::resolver::Resolver;
use crate::clock::Timestamp;
use crate::host::without_brackets;
use crate::identity::Identity;
use crate::policy::Origin;
use crate::proxy::guard::{Guard, NamedBy};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use std::cell::RefCell;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// Bounds the memory of one HTTP/1.1 connection, and with it the size of a response's head.
const MAX_BUFFER: usize = 64 * 1024;
/// The recommended connection attempt delay (RFC 8305 §8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Where a connection goes, and which addresses it may use.
#[derive(Clone, Copy)]
pub(crate) struct DialTarget<'o> {
    pub(crate) origin: &'o Origin,
    pub(crate) named_by: NamedBy,
    pub(crate) guard: &'o Guard,
}

/// Opens a bare TCP connection, for a tunnel.
pub(crate) async fn dial(pool: &Pool, to: DialTarget<'_>, timeout: Duration) -> Result<TcpStream, SendError> {
    tokio::time::timeout(timeout, tcp(pool.resolver(), to)).await.map_err(|_| SendError::ConnectTimeout)?
}

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

/// Opens a TCP connection. If the name has several addresses, each gets a head start over the next
/// one (RFC 8305 §5), so that an address that does not answer costs a moment and not the whole
/// deadline.
async fn tcp(resolver: &Rc<Resolver>, to: DialTarget<'_>) -> Result<TcpStream, SendError> {
    let host = without_brackets(&to.origin.host);
    let mut addresses = resolve(resolver, host, to.origin.port).await?.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last_error = SendError::Resolve(Arc::new(std::io::Error::other("the name has no address")));
    loop {
        if let Some(address) = addresses.next() {
            to.guard.check_address(host, to.named_by, address)?;
            attempts.push(TcpStream::connect(address));
        } else if attempts.is_empty() {
            return Err(last_error);
        }
        let has_more = !addresses.as_slice().is_empty();
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => {
                    let stream = to.guard.admit(stream).map_err(|_| SendError::NoDescriptor)?;
                    tune(&stream);
                    return Ok(stream);
                }
                Err(error) if is_out_of_descriptors(&error) => return Err(SendError::NoDescriptor),
                Err(error) => last_error = SendError::Connect(error),
            },
            // The attempt has not ended yet; the next address is tried in parallel.
            () = tokio::time::sleep(ATTEMPT_DELAY), if has_more => {}
        }
    }
}

/// Resolves a host. `localhost` is loopback whatever a resolver says (RFC 6761 §6.3), because
/// cleartext HTTP is trusted there.
async fn resolve(resolver: &Rc<Resolver>, host: &str, port: u16) -> Result<Vec<SocketAddr>, SendError> {
    if host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost") {
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let addresses = resolver.look_up(host).await.map_err(SendError::Resolve)?;
    Ok(addresses.into_iter().map(|address| (address, port).into()).collect())
}

#[cfg(unix)]
fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    use nix::errno::Errno;
    error.raw_os_error().is_some_and(|code| code == Errno::EMFILE as i32 || code == Errno::ENFILE as i32)
}

#[cfg(not(unix))]
fn is_out_of_descriptors(_: &std::io::Error) -> bool {
    false
}

/// Disables Nagle's algorithm, because requests are small and written whole, and enables
/// keep-alive, because a peer that has vanished must be noticed.
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    if let Err(error) = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive)) {
        tracing::debug!(%error, "a socket option was refused");
    }
}

/// The name for SNI and verification. A SPIFFE peer is verified by its ID and not by this name
/// (SPIFFE X.509-SVID §5), so a host that is not a DNS name gets a placeholder.
fn server_name(host: &str) -> ServerName<'static> {
    let bare = without_brackets(host).to_owned();
    ServerName::try_from(bare).unwrap_or_else(|_| ServerName::try_from("invalid.invalid").expect("a DNS name"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_is_loopback_whatever_the_resolver_says() {
        for host in ["localhost", "LOCALHOST", "api.localhost"] {
            let addresses = resolve(&Resolver::system(), host, 80).await.expect("addresses");
            assert!(addresses.iter().all(|address| address.ip().is_loopback()), "{host}: {addresses:?}");
        }
    }
}

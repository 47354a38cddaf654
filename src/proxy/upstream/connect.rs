//! New connections: once TCP is open, TLS and HTTP begin.
use super::abortable::Abortable;
use super::config::{PoolKey, Protocol, UpstreamTls};
use super::dial::{DialTarget, server_name, tcp};
use super::error::SendError;
use super::pool::{Connection, Established, Http1Lease, Pool, StreamCount, StreamGuard};
use super::request_body::RequestBody;
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::proxy::guard::Guard;
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
/// The most fields of a response's head over HTTP/1.1. hyper's own limit is 100, which some APIs
/// exceed.
const MAX_RESPONSE_FIELDS: usize = 256;

/// Opens a connection to the key's origin, and starts HTTP/1.1 or HTTP/2 on it.
pub(super) async fn connect(pool: &Rc<Pool>, key: &Arc<PoolKey>, guard: &Guard) -> Result<Connection, SendError> {
    let (begun, revision) = (Instant::now(), key.revision());
    // Subscribed before the TLS handshake, so that no change of trust is missed.
    let changes = key.tls.as_ref().and_then(|tls| tls.identity.as_ref()).map(Identity::changes);
    let to = DialTarget { origin: &key.origin, rules: &key.rules, guard };
    let stream = tcp(pool.resolver(), to).await?;
    let peer = stream.peer_addr().map_err(SendError::Connect)?;
    let handshake = Handshake { pool, key, established: Established { at: begun, revision, peer } };
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
            .max_headers(MAX_RESPONSE_FIELDS)
            .handshake::<_, RequestBody>(io)
            .await
            .map_err(SendError::Handshake)?;
        let driver = tokio::task::spawn_local(drive(connection.with_upgrades(), open)).abort_handle();
        let Self { pool, key, established } = self;
        Ok(Connection::Http1(Http1Lease { sender, established, driver, key: Arc::clone(key), pool: Rc::clone(pool) }))
    }

    async fn http2<I>(self, io: TokioIo<I>) -> Result<Connection, SendError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let open = OpenConnection::new(self.pool);
        let executor = LocalExecutor::default();
        let mut builder = http2::Builder::new(executor.clone());
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
        let connection = std::future::poll_fn(move |cx| connection.borrow_mut().as_mut().poll(cx));
        let dispatcher = tokio::task::spawn_local(drive(connection, open)).abort_handle();
        let driver = executor.first_task().unwrap_or(dispatcher);
        let streams = StreamCount::new(self.established, driver, Box::new(max_streams), self.pool.gauges());
        self.pool.add_http2(self.key, &sender, &streams);
        let stream = StreamGuard::new(&streams);
        Ok(Connection::Http2(sender, stream))
    }
}

/// Spawns hyper's HTTP/2 tasks onto the current thread's runtime, and remembers the first one: hyper
/// spawns the task that owns the stream during the handshake, before any other.
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
    use crate::clock::Clock;
    use crate::policy::{CredentialRule, HostPattern, Match, Origin, Route, Scheme};
    use crate::proxy::metrics::UpstreamGauges;
    use crate::proxy::runtime::block_on;
    use crate::proxy::upstream::pool::Lease;
    use crate::proxy::upstream::{Resolver, UpstreamConfig, UpstreamParts};
    use bytes::Bytes;
    use http::{Request, Response, Version};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A pool, and a listener that it can connect to.
    struct Fixture {
        pool: Rc<Pool>,
        listener: TcpListener,
        key: Arc<PoolKey>,
    }

    impl Fixture {
        async fn new(protocol: Protocol) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let port = listener.local_addr().expect("an address").port();
            let origin = || Origin { scheme: Scheme::Http, host: "127.0.0.1".into(), port };
            let anything = Match::host(HostPattern::Exact("a.test".into()));
            let mut route = Route::new("a", anything, CredentialRule::None { keep_credentials: false }, None);
            route.upstream.origin = Some(origin());
            let parts = UpstreamParts { identity: None, clock: &Clock::system(), egress: &Arc::default() };
            let config = UpstreamConfig::new(&route, &parts).expect("no TLS");
            let key = config.key(protocol, origin).expect("a valid host");
            let gauges = UpstreamGauges::unregistered().expect("gauges");
            Self { pool: Pool::new(gauges, Resolver::system()), listener, key }
        }

        async fn connect(&self) -> Connection {
            connect(&self.pool, &self.key, &Guard::default()).await.expect("connected")
        }

        async fn until_closed(&self) {
            let closed = async {
                while self.pool.gauges().open.get() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), closed).await.expect("the connection is still open");
        }
    }

    /// A request that does not fit into the buffers between the proxy and an upstream that reads
    /// nothing of it.
    fn endless(uri: &str) -> Request<RequestBody> {
        let body = RequestBody::Buffered(Some(Bytes::from(vec![0; 64 << 20])));
        Request::post(uri).header("host", "a.test").body(body).expect("a request")
    }

    #[test]
    fn aborted_http1_lease_ends_a_connection_that_takes_no_more() {
        let ended = block_on(async {
            let fixture = Fixture::new(Protocol::Http1).await;
            let (connection, accepted) = tokio::join!(fixture.connect(), fixture.listener.accept());
            let Connection::Http1(mut lease) = connection else { panic!("HTTP/2") };
            let (mut upstream, _) = accepted.expect("accepted");
            upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("open");
            let response = lease.sender.send_request(endless("/")).await.expect("a response");
            drop(response);
            let lease = Lease::Http1(lease);
            assert_eq!(lease.peer(), fixture.listener.local_addr().expect("an address"));
            assert_eq!(lease.protocol(), Version::HTTP_11);
            lease.abort();
            fixture.until_closed().await;
            upstream.read_to_end(&mut Vec::new()).await.expect("the end");
        });
        ended.expect("a runtime");
    }

    #[test]
    fn http2_connection_ends_once_all_its_streams_are_abandoned() {
        let ended = block_on(async {
            let fixture = Fixture::new(Protocol::Http2).await;
            let (answer, answered) = oneshot::channel::<()>();
            let upstream = async {
                let (stream, _) = fixture.listener.accept().await.expect("accepted");
                let mut connection = h2::server::handshake(stream).await.expect("handshake");
                let (stuck, mut respond) = connection.accept().await.expect("open").expect("a request");
                respond.send_response(Response::new(()), true).expect("sent");
                let (_, mut respond) = connection.accept().await.expect("open").expect("a request");
                let answering = async {
                    answered.await.expect("a running test");
                    respond.send_response(Response::new(()), true).expect("sent");
                };
                tokio::join!(answering, async { while connection.accept().await.is_some() {} });
                drop(stuck);
            };
            let agent = async {
                let Connection::Http2(mut sender, stuck) = fixture.connect().await else { panic!("HTTP/1.1") };
                sender.send_request(endless("http://a.test/")).await.expect("a response");
                let taken = fixture.pool.take(&fixture.key);
                let Some(Connection::Http2(mut sender, waiting)) = taken else { panic!("a shared connection") };
                let sending = sender.send_request(Request::new(RequestBody::Buffered(None)));
                let stuck = Lease::Http2(stuck);
                assert_eq!(stuck.protocol(), Version::HTTP_2);
                assert_eq!(stuck.peer(), fixture.listener.local_addr().expect("an address"));
                stuck.abort();
                assert!(fixture.pool.take(&fixture.key).is_none(), "takes new requests");
                answer.send(()).expect("a running upstream");
                // The other request on the connection still gets its answer.
                sending.await.expect("a response");
                assert_eq!(fixture.pool.gauges().open.get(), 1);
                Lease::Http2(waiting).give_back();
                drop(sender);
                fixture.until_closed().await;
                assert_eq!(fixture.pool.gauges().idle.get(), 0);
            };
            tokio::join!(upstream, agent);
        });
        ended.expect("a runtime");
    }
}

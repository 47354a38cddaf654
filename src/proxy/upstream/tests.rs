//! Connections of the pool through sockets.
use super::acquire::Dialing;
use super::config::{PoolKey, Protocol, UpstreamConfig, UpstreamParts};
use super::dial::dial;
use super::error::SendError;
use super::origin::{Connection, Lease, Reuse};
use super::pool::Pool;
use super::queue::{Caller, OVERDUE};
use super::request_body::RequestBody;
use super::resolver::Resolver;
use crate::clock::Clock;
use crate::policy::{CredentialRule, HostPattern, Match, Origin, Route, Scheme};
use crate::proxy::guard::Guard;
use crate::proxy::metrics::UpstreamGauges;
use crate::proxy::runtime::block_on;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, Version};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::Instant;

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A pool, and a listener that it can connect to.
struct Fixture {
    pool: Rc<Pool>,
    listener: TcpListener,
    key: Arc<PoolKey>,
    config: UpstreamConfig,
}

impl Fixture {
    async fn new(protocol: Protocol) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let origin = || Origin { scheme: Scheme::Http, host: "127.0.0.1".into(), port };
        let anything = Match::host(HostPattern::Exact("a.test".into()));
        let mut route = Route::new("a", anything, CredentialRule::None { keep_credentials: false }, None);
        route.upstream.origin = Some(origin());
        let parts =
            UpstreamParts { identity: None, clock: &Clock::system(), egress: &Arc::default(), egress_proxy: None };
        let config = UpstreamConfig::new(&route, &parts).expect("no TLS");
        let key = config.key(protocol, origin).expect("a valid host");
        let gauges = UpstreamGauges::unregistered().expect("gauges");
        Self { pool: Pool::new(gauges, Resolver::system()), listener, key, config }
    }

    async fn connect(&self) -> Connection {
        let (pool, key, guard) = (&self.pool, &self.key, &Guard::default());
        let dialing = Dialing { pool, key, guard, timeout: TEST_TIMEOUT, is_retried: true };
        dialing.fresh(&pool.origin(key)).await.expect("connected")
    }

    async fn until_closed(&self) {
        let closed = async {
            while self.pool.gauges().open.get() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, closed).await.expect("the connection is still open");
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
        let response = lease.connection.sender.send_request(endless("/")).await.expect("a response");
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
            let take = || fixture.pool.origin(&fixture.key).take(Reuse::Any, 0, Instant::now());
            let taken = take();
            let Some(Connection::Http2(mut sender, waiting)) = taken else { panic!("a shared connection") };
            let sending = sender.send_request(Request::new(RequestBody::Buffered(None)));
            let stuck = Lease::Http2(stuck);
            assert_eq!(stuck.protocol(), Version::HTTP_2);
            assert_eq!(stuck.peer(), fixture.listener.local_addr().expect("an address"));
            stuck.abort();
            assert!(take().is_none(), "takes new requests");
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

#[test]
fn shortage_of_descriptors_ends_idle_http2_connections_and_no_others() {
    let ended = block_on(async {
        let fixture = Fixture::new(Protocol::Http2).await;
        let upstream = async {
            let (stream, _) = fixture.listener.accept().await.expect("accepted");
            let mut connection = h2::server::handshake(stream).await.expect("handshake");
            while connection.accept().await.is_some() {}
        };
        let agent = async {
            let Connection::Http2(sender, stream) = fixture.connect().await else { panic!("HTTP/1.1") };
            fixture.pool.evict_idle();
            let take = || fixture.pool.origin(&fixture.key).take(Reuse::Any, 0, Instant::now());
            drop(sender);
            Lease::Http2(stream).give_back();
            assert!(take().is_some(), "a connection in use was evicted");
            fixture.pool.evict_idle();
            assert!(take().is_none());
            fixture.until_closed().await;
        };
        tokio::join!(upstream, agent);
    });
    ended.expect("a runtime");
}

#[test]
fn connections_end_once_no_route_has_their_upstream() {
    let ended = block_on(async {
        let mut fixture = Fixture::new(Protocol::Http2).await;
        let upstream = async {
            let (stream, _) = fixture.listener.accept().await.expect("accepted");
            h2::server::handshake(stream).await.expect("handshake")
        };
        let (connection, mut upstream) = tokio::join!(fixture.connect(), upstream);
        let serving = tokio::task::spawn_local(async move { while upstream.accept().await.is_some() {} });
        drop(connection);
        fixture.pool.sweep();
        let take = |fixture: &Fixture| fixture.pool.origin(&fixture.key).take(Reuse::Any, 0, Instant::now());
        assert!(take(&fixture).is_some());
        // What a reload does: a new table has new settings.
        fixture.config = Fixture::new(Protocol::Http2).await.config;
        fixture.pool.sweep();
        fixture.until_closed().await;
        serving.await.expect("the end of the connection");
    });
    ended.expect("a runtime");
}

#[test]
fn new_connection_whose_caller_leaves_at_that_moment_is_pooled() {
    let ended = block_on(async {
        let fixture = Fixture::new(Protocol::Http1).await;
        let (connection, accepted) = tokio::join!(fixture.connect(), fixture.listener.accept());
        let Connection::Http1(lease) = connection else { panic!("HTTP/2") };
        let origin = fixture.pool.origin(&fixture.key);
        let waiting = origin.wait();
        origin.add_http1(lease.connection);
        drop(waiting);
        assert!(origin.take(Reuse::Any, 0, Instant::now()).is_some(), "the connection was closed");
        drop(accepted);
    });
    ended.expect("a runtime");
}

#[test]
fn tunnel_evicts_idle_connections_and_tries_again_if_no_descriptor_is_left() {
    let ended = block_on(async {
        let fixture = Fixture::new(Protocol::Http1).await;
        let (connection, accepted) = tokio::join!(fixture.connect(), fixture.listener.accept());
        let Connection::Http1(lease) = connection else { panic!("HTTP/2") };
        Lease::Http1(lease).give_back();
        assert_eq!(fixture.pool.gauges().idle.get(), 1);
        // Every descriptor is reserved, so that the second attempt fails, too.
        let guard = Guard::new(Vec::new(), Some(0));
        let dialled = dial(&fixture.pool, fixture.key.target(&guard), TEST_TIMEOUT).await;
        assert!(matches!(dialled, Err(SendError::NoDescriptor)), "{dialled:?}");
        fixture.until_closed().await;
        for _ in 0..2 {
            tokio::time::timeout(TEST_TIMEOUT, fixture.listener.accept()).await.expect("an attempt").expect("accepted");
        }
        drop(accepted);
    });
    ended.expect("a runtime");
}

#[test]
fn returned_connection_goes_to_the_caller_that_has_waited_longest() {
    let ended = block_on(async {
        let fixture = Fixture::new(Protocol::Http1).await;
        let (connection, accepted) = tokio::join!(fixture.connect(), fixture.listener.accept());
        let Connection::Http1(lease) = connection else { panic!("HTTP/2") };
        let origin = fixture.pool.origin(&fixture.key);
        let (mut first, mut second) = (origin.wait(), origin.wait());
        Lease::Http1(lease).give_back();
        assert!(origin.take(Reuse::Any, 0, Instant::now()).is_none(), "a newer request takes it");
        let got = tokio::time::timeout(TEST_TIMEOUT, first.result()).await.expect("served");
        let Some(Ok(Connection::Http1(lease))) = got else { panic!("no connection") };
        Lease::Http1(lease).give_back();
        let got = tokio::time::timeout(TEST_TIMEOUT, second.result()).await.expect("served");
        assert!(matches!(got, Some(Ok(Connection::Http1(_)))));
        drop(accepted);
    });
    ended.expect("a runtime");
}

#[test]
fn freed_stream_goes_to_the_caller_that_has_waited_longest() {
    let ended = block_on(async {
        let fixture = Fixture::new(Protocol::Http2).await;
        let upstream = async {
            let (stream, _) = fixture.listener.accept().await.expect("accepted");
            let mut connection = h2::server::handshake(stream).await.expect("handshake");
            while let Some(request) = connection.accept().await {
                request.expect("a request").1.send_response(Response::new(()), true).expect("sent");
            }
        };
        let agent = async {
            let Connection::Http2(mut sender, stream) = fixture.connect().await else { panic!("HTTP/1.1") };
            // The answer comes after the upstream's settings, which serve those who wait, too.
            let request = Request::get("http://a.test/").body(RequestBody::Buffered(None)).expect("a request");
            sender.send_request(request).await.expect("a response");
            let origin = fixture.pool.origin(&fixture.key);
            let mut waiting = origin.wait();
            Lease::Http2(stream).give_back();
            let got = tokio::time::timeout(TEST_TIMEOUT, waiting.result()).await.expect("served");
            assert!(matches!(got, Some(Ok(Connection::Http2(..)))));
            drop((sender, got));
            fixture.pool.evict_idle();
        };
        tokio::join!(upstream, agent);
    });
    ended.expect("a runtime");
}

#[test]
fn caller_that_looks_again_keeps_its_place() {
    let ended = block_on(async {
        let fixture = Fixture::new(Protocol::Http1).await;
        let (connection, accepted) = tokio::join!(fixture.connect(), fixture.listener.accept());
        let Connection::Http1(lease) = connection else { panic!("HTTP/2") };
        let origin = fixture.pool.origin(&fixture.key);
        // Two connections that never come about, so that nobody makes another one.
        let begin = || (origin.wait(), origin.begin_connecting(Caller::New).expect("another connection"));
        let (first, second) = (begin(), begin());
        let _connecting = (first.1, second.1);
        drop((first.0, second.0));
        let mut older = pin!(fixture.connect());
        assert!(older.as_mut().now_or_never().is_none());
        let mut newer = origin.wait();
        // The time is paused, so this takes none.
        tokio::time::pause();
        tokio::select! {
            _ = &mut older => panic!("nobody made a connection"),
            () = tokio::time::sleep(2 * OVERDUE) => {}
        }
        origin.add_http1(lease.connection);
        assert!(older.as_mut().now_or_never().is_some());
        assert!(newer.result().now_or_never().is_none());
        drop(accepted);
    });
    ended.expect("a runtime");
}

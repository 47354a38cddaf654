//! New connections to upstreams: how many are made for requests that come at once, and what happens
//! when they fail or nobody waits for them any more.
use super::agent::{Http1, Http2, full, request};
use super::frames::{Frames, HEADERS, INTERNAL_ERROR, reset_with};
use super::world::{Proxy, World, route, tls_route, until, within};
use futures_util::future::join_all;
use http::Method;
use idjag_proxy::dev::ca::WebCa;
use idjag_proxy::dev::http::ServerTls;
use idjag_proxy::dev::resource_server::ResourceServer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// An upstream that speaks HTTP/2 over TLS, and the relay in front of it.
struct Fixture {
    world: World,
    upstream: ResourceServer,
    front: Front,
    routes: String,
}

impl Fixture {
    async fn start() -> Self {
        let world = World::with_open_api().await;
        let ca = WebCa::new(&world.clock).expect("authority");
        world.write("ca.pem", &ca.certificate_pem());
        let tls = ServerTls::new(ca.server_certificate(&["127.0.0.1"]).expect("certificate"));
        let upstream = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
        let front = Front::start(upstream.address()).await;
        let url = format!("https://{}", front.address);
        let routes = format!("routes:\n{}", tls_route("api", "token: none", &url));
        Self { world, upstream, front, routes }
    }
}

/// A TCP relay that ends some connections during the TLS handshake, and may hold others up.
struct Front {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    /// How many of the next connections end after the client's first bytes.
    cut: Arc<AtomicUsize>,
    open: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Front {
    async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let (accepted, cut) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (open, opened) = watch::channel(true);
        let mut task = JoinSet::new();
        let (count, cuts) = (Arc::clone(&accepted), Arc::clone(&cut));
        task.spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (cuts, mut opened) = (Arc::clone(&cuts), opened.clone());
                relays.spawn(async move {
                    if cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                        // The client may have left.
                        let _ = client.read(&mut [0; 1024]).await;
                        return;
                    }
                    opened.wait_for(|open| *open).await.expect("a running test");
                    let mut server = TcpStream::connect(upstream).await.expect("connected");
                    // Either side may end the connection.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { address, accepted, cut, open, _task: task }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cold_burst_shares_http2_connections() {
    let fixture = Fixture::start().await;
    let proxy = fixture.world.proxy_with(&fixture.routes).await;
    let mut agents = Vec::new();
    for _ in 0..4 {
        agents.push(Http2::connect(proxy.outbound).await);
    }
    fixture.front.open.send_replace(false);
    let calls = (0..400).map(|n| {
        let mut sender = agents[n % 4].sender.clone();
        let call = request(&Method::GET, "http://api.test/x", &[]).body(full("")).expect("request");
        async move { within(sender.send_request(call), "an answer").await.expect("an answer").status() }
    });
    let release = async {
        until(async || proxy.status().await["requests"] == 400, "all requests are at the proxy").await;
        fixture.front.open.send_replace(true);
    };
    let (statuses, ()) = tokio::join!(join_all(calls), release);
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!(fixture.front.accepted() <= 8, "{} connections", fixture.front.accepted());
}

#[tokio::test]
async fn connection_is_finished_and_pooled_although_the_caller_has_left() {
    let fixture = Fixture::start().await;
    // With one worker, the second agent uses the connection of the first.
    let text = format!("{}{}", fixture.world.preamble(), fixture.routes).replace("workers: 2", "workers: 1");
    let proxy = Proxy::start(&fixture.world.write("proxy.yaml", &text), &fixture.world.clock);
    proxy.until_ready().await;
    fixture.front.open.send_replace(false);
    let mut agent = Http1::connect(proxy.outbound).await;
    let call = request(&Method::GET, "http://api.test/x", &[]).body(full("")).expect("request");
    let sending = agent.sender.send_request(call);
    until(async || fixture.front.accepted() == 1, "a connection to the upstream").await;
    drop(sending);
    drop(agent);
    proxy.until_idle().await;
    fixture.front.open.send_replace(true);
    proxy.until_metric("upstream_connections{state=\"idle\"}", |count| count == 1.0).await;
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    assert_eq!(fixture.front.accepted(), 1);
}

#[tokio::test]
async fn broken_off_tls_handshake_is_tried_again() {
    let fixture = Fixture::start().await;
    let proxy = fixture.world.proxy_with(&fixture.routes).await;
    fixture.front.cut.store(1, Ordering::SeqCst);
    let mut agent = Http1::connect(proxy.outbound).await;
    let post = request(&Method::POST, "http://api.test/x", &[]).body(full("body")).expect("request");
    assert_eq!(agent.send(post).await.status, 200);
    assert_eq!((fixture.front.accepted(), fixture.upstream.requests().len()), (2, 1));
}

#[tokio::test]
async fn tls_handshakes_that_all_break_off_are_reported_as_such() {
    let fixture = Fixture::start().await;
    let proxy = fixture.world.proxy_with(&fixture.routes).await;
    fixture.front.cut.store(usize::MAX, Ordering::SeqCst);
    let reply = proxy.get("http://api.test/x").await;
    reply.assert_refusal(502, "upstream_broken");
    assert!(reply.text().contains("broke off during the TLS handshake"), "{}", reply.text());
    assert_eq!(fixture.front.accepted(), 5);
}

#[tokio::test]
async fn connection_is_not_tried_again_on_a_route_without_retries() {
    let fixture = Fixture::start().await;
    let routes = fixture.routes.replace("token: none", "token: none, retries: { attempts: 0 }");
    let proxy = fixture.world.proxy_with(&routes).await;
    fixture.front.cut.store(usize::MAX, Ordering::SeqCst);
    proxy.get("http://api.test/x").await.assert_refusal(502, "upstream_broken");
    assert_eq!(fixture.front.accepted(), 1);
}

/// Starts an upstream that resets every stream, and counts connections and requests.
async fn resetting_upstream() -> (String, Arc<[AtomicUsize; 2]>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (counts, mut task) = (Arc::<[AtomicUsize; 2]>::default(), JoinSet::new());
    let [connections, requests] = [0, 1].map(|_| Arc::clone(&counts));
    task.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections[0].fetch_add(1, Ordering::SeqCst);
            let requests = Arc::clone(&requests);
            open.spawn(async move {
                let mut connection = Frames::accept(stream).await.expect("a preface");
                while let Some(frame) = connection.next().await {
                    if frame.kind == HEADERS {
                        requests[1].fetch_add(1, Ordering::SeqCst);
                        connection.write(reset_with(INTERNAL_ERROR, frame.stream)).await;
                    }
                }
            });
        }
    });
    (url, counts, task)
}

#[tokio::test]
async fn requests_that_fail_over_http2_are_not_doubled_and_make_no_connections() {
    let world = World::with_open_api().await;
    let (url, counts, _task) = resetting_upstream().await;
    let proxy = world.proxy_with(&format!("routes:\n{}", route("api", "token: none", &url))).await;
    let mut agent = Http2::connect(proxy.outbound).await;
    for _ in 0..200 {
        let grpc = [("content-type", "application/grpc")];
        let get = request(&Method::GET, "http://api.test/x", &grpc).body(full("")).expect("request");
        agent.send(get).await.assert_grpc_refusal("14");
    }
    assert_eq!([0, 1].map(|of| counts[of].load(Ordering::SeqCst)), [1, 200]);
}

//! Reused connections to upstreams: connections that close during a request, and what failed
//! requests leave on a shared connection.
use super::agent::{self, Http1, Http2, full, request};
use super::world::{Proxy, World, route, tls_route, within};
use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use idjag_proxy::dev::ca::WebCa;
use idjag_proxy::dev::faults::Fault;
use idjag_proxy::dev::http::ServerTls;
use idjag_proxy::dev::resource_server::ResourceServer;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The number of requests for each path.
type Seen = Arc<Mutex<HashMap<String, usize>>>;

/// Starts an upstream that closes every connection after one response, without announcing it.
async fn closing_upstream() -> (String, Seen, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (seen, mut task) = (Seen::default(), JoinSet::new());
    let record = Arc::clone(&seen);
    task.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                if stream.read_buf(&mut head).await.map_or(true, |read| read == 0) {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&head).into_owned();
            if let Some(path) = text.split(' ').nth(1) {
                *record.lock().expect("no panic").entry(path.to_owned()).or_default() += 1;
            }
            // The client may have left.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    });
    (url, seen, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_on_a_closing_connection_is_repeated_unless_it_is_a_post() {
    let world = World::with_open_api().await;
    let (url, seen, _task) = closing_upstream().await;
    let proxy = world.proxy_with(&format!("routes:\n{}", route("closing", "token: itself", &url))).await;
    let call = async |n: usize| {
        let mut agent = Http1::connect(proxy.outbound).await;
        for m in 0..100 {
            let (method, body) = if m % 2 == 0 { (Method::GET, "") } else { (Method::POST, "body") };
            let url = format!("http://closing.test/{method}/{n}/{m}");
            let reply = agent.send(request(&method, &url, &[]).body(full(body)).expect("request")).await;
            if method == Method::GET {
                assert_eq!(reply.status, 200, "{}", reply.text());
            } else if reply.status != 200 {
                reply.assert_refusal(502, "upstream_broken");
            }
        }
    };
    join_all((0..4).map(call)).await;
    let seen = seen.lock().expect("no panic").clone();
    let twice: Vec<_> = seen.iter().filter(|(path, count)| path.starts_with("/POST") && **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert_eq!(seen.keys().filter(|path| path.starts_with("/GET")).count(), 200);
}

#[tokio::test]
async fn closed_connection_is_not_reused() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    for _ in 0..3 {
        assert_eq!(proxy.get("http://api.test/x").await.status, 200);
        world.api.stop().await;
        proxy.until_metric("upstream_connections{state=\"idle\"}", |count| count == 0.0).await;
        world.api.restart().await.expect("restarted");
        assert_eq!(agent::post(proxy.outbound, "http://api.test/x", &[], b"body").await.status, 200);
    }
}

/// Starts an upstream that speaks HTTP/2 over TLS, and a proxy in front of it.
async fn over_http2(world: &World) -> (ResourceServer, Proxy) {
    let ca = WebCa::new(&world.clock).expect("authority");
    world.write("ca.pem", &ca.certificate_pem());
    let tls = ServerTls::new(ca.server_certificate(&["127.0.0.1"]).expect("certificate"));
    let upstream = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let url = upstream.url();
    let routes = [
        tls_route("api", "token: itself", &url),
        tls_route("again", "token: itself, replay: { max_body: 128KiB }", &url),
        tls_route("small", "token: itself, limits: { request_body: 1KiB }", &url),
    ];
    let proxy = world.proxy_with(&format!("routes:\n{}", routes.concat())).await;
    (upstream, proxy)
}

/// More than any flow-control window of a connection.
const LARGE: usize = 20 * 1024 * 1024;
const PIECE: usize = 100 * 1024;

/// Sends a large body each way over this connection.
async fn large_bodies_pass(agent: &mut Http2<http_body_util::Full<Bytes>>) {
    let post = http::Request::post("http://api.test/large").body(full(vec![b'x'; LARGE])).expect("request");
    assert_eq!(agent.send(post).await.json()["body"]["length"], json!(LARGE));
    let get = http::Request::get(format!("http://api.test/bytes/{LARGE}")).body(full("")).expect("request");
    assert_eq!(agent.send(get).await.body.len(), LARGE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_bodies_release_the_window_of_a_shared_connection() {
    let world = World::with_open_api().await;
    let (upstream, proxy) = over_http2(&world).await;
    let mut agent = Http2::connect(proxy.outbound).await;
    let post = |host: &str, size: usize| {
        http::Request::post(format!("http://{host}.test/x")).body(full(vec![b'x'; size])).expect("request")
    };
    // Each route has its own connection.
    for host in ["api", "again", "small"] {
        assert_eq!(agent.send(post(host, 10)).await.status, 200);
    }
    let connections = upstream.connections();
    let assert_reused =
        |after: &str| assert_eq!(upstream.connections(), connections, "another connection after {after}");
    // The upstream refuses these without reading them: half because of the token, so that some are
    // sent again, and half for another reason.
    for host in ["api", "again"] {
        for n in 0..200 {
            upstream.faults().next(if n % 2 == 0 {
                Fault::invalid_token()
            } else {
                Fault::status(http::StatusCode::FORBIDDEN)
            });
            let status = agent.send(post(host, PIECE)).await.status.as_u16();
            assert!([200, 401, 403].contains(&status), "{status}");
            upstream.faults().clear();
        }
    }
    assert_reused("uploads that the upstream does not read");
    // The proxy discards the body of the first response and returns the response to its second
    // attempt.
    for _ in 0..100 {
        // A refused token may be replaced again after ten seconds.
        world.clock.shift(11);
        let challenge = http::HeaderValue::from_static("Bearer error=\"invalid_token\"");
        let unread = Fault::huge(PIECE).header(http::header::WWW_AUTHENTICATE, challenge);
        let Fault::Answer { headers, body, .. } = unread else { unreachable!("an answer") };
        upstream.faults().next(Fault::Answer { status: http::StatusCode::UNAUTHORIZED, headers, body });
        let get = http::Request::get("http://api.test/x").body(full("")).expect("request");
        let status = agent.send(get).await.status.as_u16();
        assert!([200, 401].contains(&status), "{status}");
        upstream.faults().clear();
    }
    assert_reused("answers that the proxy does not read");
    // The proxy refuses these without reading them.
    for host in ["nowhere", "small"] {
        for _ in 0..200 {
            let response = within(agent.sender.send_request(post(host, PIECE)), "an answer").await.expect("an answer");
            assert!([403, 413].contains(&response.status().as_u16()), "{}", response.status());
        }
    }
    // The agent abandons these in the middle of the response.
    for _ in 0..100 {
        let get = http::Request::get(format!("http://api.test/bytes/{LARGE}")).body(full("")).expect("request");
        let mut response = within(agent.sender.send_request(get), "a head").await.expect("a head");
        within(http_body_util::BodyExt::frame(response.body_mut()), "the first bytes")
            .await
            .expect("a frame")
            .expect("data");
    }
    assert_reused("answers that the agent does not read");
    large_bodies_pass(&mut agent).await;
    assert_reused("everything");
}

//! Uploads that are slow, stall or break: who is at fault, and that nothing is left behind.
use super::agent::{Http2, Raw};
use super::log;
use super::world::{Proxy, World, route, tls_route, until, within};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use idjag_proxy::dev::ca::WebCa;
use idjag_proxy::dev::http::ServerTls;
use idjag_proxy::dev::resource_server::ResourceServer;
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// Starts an upstream that counts bytes and answers at the end of a chunked body, unless the
/// request is for `/silent`.
async fn counting() -> (String, watch::Receiver<usize>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (count, counted) = watch::channel(0);
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut all = Vec::new();
            while stream.read_buf(&mut all).await.is_ok_and(|read| read > 0) {
                count.send_replace(all.len());
                if all.ends_with(b"\r\n0\r\n\r\n") && !all.starts_with(b"POST /silent ") {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await.expect("written");
                    break;
                }
            }
        }
    });
    (url, counted, task)
}

#[tokio::test]
async fn response_timeout_starts_at_the_end_of_the_upload() {
    const RESPONSE: Duration = Duration::from_secs(2);
    let world = World::with_open_api().await;
    let (url, mut counted, _task) = counting().await;
    let slow = route("slow", "token: none, timeouts: { response: 2s }", &url);
    let proxy = world.proxy_with(&format!("routes:\n{slow}")).await;
    for (path, status) in [("/answered", "200"), ("/silent", "504")] {
        let mut agent = Raw::connect(proxy.outbound).await;
        agent.write(format!("POST {path} HTTP/1.1\r\nhost: slow.test\r\ntransfer-encoding: chunked\r\n\r\n")).await;
        let began = Instant::now();
        while began.elapsed() < 2 * RESPONSE {
            counted.mark_unchanged();
            agent.write("1\r\nx\r\n").await;
            within(counted.changed(), "the next byte at the upstream").await.expect("a running upstream");
        }
        let ended = Instant::now();
        agent.write("0\r\n\r\n").await;
        let head = agent.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {head}");
        assert!(status == "200" || ended.elapsed() >= RESPONSE, "{:?}", ended.elapsed());
    }
}

/// Starts an API over HTTP/1.1 and one over HTTP/2, with two routes to each. The `kept` routes keep
/// a body for a replay. The names begin with `prefix`, by which a test finds its own log lines.
async fn both_apis(world: &World, prefix: &str, timeouts: &str) -> (ResourceServer, Proxy) {
    let ca = WebCa::new(&world.clock).expect("authority");
    world.write("ca.pem", &ca.certificate_pem());
    let tls = ServerTls::new(ca.server_certificate(&["127.0.0.1"]).expect("certificate"));
    let http2_api = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let keys = format!("token: itself{timeouts}");
    let kept = format!("{keys}, replay: {{ max_body: 64KiB }}");
    let routes = [
        route(&format!("{prefix}-h1"), &keys, &world.api.url()),
        route(&format!("{prefix}-h1-kept"), &kept, &world.api.url()),
        tls_route(&format!("{prefix}-h2"), &keys, &http2_api.url()),
        tls_route(&format!("{prefix}-h2-kept"), &kept, &http2_api.url()),
    ];
    let proxy = world.proxy_with(&format!("routes:\n{}", routes.concat())).await;
    (http2_api, proxy)
}

/// Reads a refusal from a connection and returns its body.
async fn refused(agent: &mut Raw) -> String {
    let head = agent.head().await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    let body = agent.until(b"}").await;
    assert!(body.contains("urn:idjag-proxy:problem:malformed_request"), "{body}");
    body
}

#[tokio::test]
async fn stalled_upload_is_refused_after_the_idle_timeout() {
    let world = World::with_open_api().await;
    let (http2_api, proxy) = both_apis(&world, "stalled", ", timeouts: { idle: 1s }").await;
    let outbound = proxy.outbound;
    let stalls = |host: &'static str| async move {
        let mut agent = Raw::connect(outbound).await;
        agent
            .write(format!("POST /stalls HTTP/1.1\r\nhost: stalled-{host}.test\r\ncontent-length: 9\r\n\r\nhalf"))
            .await;
        let body = refused(&mut agent).await;
        assert!(body.contains("idle timeout"), "{host}: {body}");
    };
    join_all((0..5).flat_map(|_| ["h1", "h1-kept", "h2", "h2-kept"]).map(stalls)).await;
    for reason in ["upstream_timeout", "upstream_broken"] {
        assert_eq!(proxy.metric(&format!("upstream_failures_total{{reason=\"{reason}\"}}")).await, 0.0, "{reason}");
    }
    within(
        async { tokio::join!(world.api.wait_for_arrivals(5), http2_api.wait_for_arrivals(5)) },
        "the requests at the upstreams",
    )
    .await;
    // A body that is kept for a replay is sent whole or not at all.
    assert_eq!((world.api.arrivals(), http2_api.arrivals()), (5, 5));
}

#[tokio::test]
async fn upstream_that_reads_no_body_times_out() {
    let world = World::with_open_api().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let unread = route("unread", "token: none, timeouts: { idle: 2s }", &url);
    let proxy = world.proxy_with(&format!("routes:\n{unread}")).await;
    let endless = stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024]))));
    let request = Request::post("http://unread.test/x").body(StreamBody::new(endless)).expect("request");
    let mut agent = Http2::connect(proxy.outbound).await;
    agent.send(request).await.assert_refusal(504, "upstream_timeout");
    drop(listener);
}

#[tokio::test]
async fn broken_upload_is_the_agents_fault_and_spares_the_upstream_connection() {
    let world = World::with_open_api().await;
    let (http2_api, proxy) = both_apis(&world, "broken", "").await;
    // Each worker needs its own connection, and the kernel chooses the worker.
    let warm = async || {
        for host in ["h2", "h2-kept"] {
            assert_eq!(proxy.get(&format!("http://broken-{host}.test/x")).await.status, 200);
        }
        http2_api.connections() == 4
    };
    until(warm, "both workers have a connection for each route").await;
    let breaks = ["4\r\nhalf\r\nzz\r\n", "4\r\nhalf", "4\r\nhalf\r\n"];
    for (host, upstream) in [("h1", &world.api), ("h2", &http2_api)] {
        for (n, part) in breaks.iter().enumerate() {
            let (arrivals, ended) = (upstream.arrivals(), upstream.requests().len());
            let mut agent = Raw::connect(proxy.outbound).await;
            let head =
                format!("POST /breaks HTTP/1.1\r\nhost: broken-{host}.test\r\ntransfer-encoding: chunked\r\n\r\n");
            agent.write(head).await;
            within(upstream.wait_for_arrivals(arrivals + 1), "the request at the upstream").await;
            agent.write(part).await;
            if n > 0 {
                agent.stream.shutdown().await.expect("shut down");
            }
            refused(&mut agent).await;
            until(async || upstream.requests().len() > ended, "the upstream sees the end").await;
            let mut leaver = Raw::connect(proxy.outbound).await;
            leaver
                .write(format!("POST /x HTTP/1.1\r\nhost: broken-{host}.test\r\ncontent-length: 9\r\n\r\nhalf"))
                .await;
            within(upstream.wait_for_arrivals(arrivals + 2), "the request at the upstream").await;
            drop(leaver);
            until(async || upstream.requests().len() > ended + 1, "the upstream sees the end").await;
        }
        let kept = format!("POST /x HTTP/1.1\r\nhost: broken-{host}-kept.test\r\ncontent-length: 9\r\n\r\nhalf");
        let mut agent = Raw::connect(proxy.outbound).await;
        agent.write(kept).await;
        agent.stream.shutdown().await.expect("shut down");
        refused(&mut agent).await;
    }
    proxy.until_idle().await;
    // Complete uploads pass, over the same connections if these are shared.
    for host in ["h1", "h1-kept", "h2", "h2-kept"] {
        let reply =
            super::agent::post(proxy.outbound, &format!("http://broken-{host}.test/x"), &[], b"a whole body").await;
        assert_eq!((reply.status.as_u16(), &reply.json()["body"]["length"]), (200, &serde_json::json!(12)), "{host}");
    }
    assert_eq!(http2_api.connections(), 4);
    assert_eq!(proxy.metric("refused_total{reason=\"malformed_request\"}").await, 14.0);
    assert_eq!(proxy.metric("upstream_failures_total{reason=\"upstream_broken\"}").await, 0.0);
    let lines = |words: &str| log::capture().count(|line| line.contains(words) && line.contains("route=broken-h1 "));
    assert_eq!(lines("a request was abandoned"), 6);
    assert_eq!(lines("did not get an answer"), 0);
}

#[tokio::test]
async fn broken_http2_upload_spares_the_upstream_connection() {
    let world = World::with_open_api().await;
    let (http2_api, proxy) = both_apis(&world, "spared", "").await;
    let mut agent = Http2::connect(proxy.outbound).await;
    // The body ends once the test drops or uses its sender.
    let post = |length: usize| {
        let (end, ended) = oneshot::channel::<()>();
        let rest = stream::once(ended).filter_map(|_| std::future::ready(None));
        let half = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"half")))]);
        let body = StreamBody::new(half.chain(rest));
        (Request::post("http://spared-h2.test/x").header("content-length", length).body(body).expect("request"), end)
    };
    let (whole, end) = post(4);
    drop(end);
    assert_eq!(agent.send(whole).await.status, 200);
    let (arrivals, connections) = (http2_api.arrivals(), http2_api.connections());
    // Half of them end before their length, and half are abandoned.
    for n in 1..=6 {
        let ended = http2_api.requests().len();
        let (longer, end) = post(9);
        let sending = agent.sender.send_request(longer);
        within(http2_api.wait_for_arrivals(arrivals + n), "the request at the upstream").await;
        if n % 2 == 0 {
            drop(sending);
        } else {
            drop(end);
            let answer = within(sending, "an end").await;
            assert!(answer.is_err(), "{answer:?}");
        }
        until(async || http2_api.requests().len() > ended, "the upstream sees the end").await;
    }
    let (whole, end) = post(4);
    drop(end);
    assert_eq!(agent.send(whole).await.status, 200);
    assert_eq!(http2_api.connections(), connections);
    assert_eq!(proxy.metric("upstream_failures_total{reason=\"upstream_broken\"}").await, 0.0);
}

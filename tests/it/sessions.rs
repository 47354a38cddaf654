//! A request from its head to the last byte of its answer: who ended it, what it holds until then,
//! and that nothing of it is left behind.
use super::agent::{self, Http1, Raw, full, request};
use super::world::{Proxy, World, route, tls_route, until, within};
use http::Method;
use http_body_util::BodyExt;
use idjag_proxy::dev::faults::Fault;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Starts an upstream that handles each connection by `serve`, once a head has arrived on it.
async fn upstream<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> (String, JoinSet<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_u8().await.map(|byte| head.push(byte)).is_ok() {}
            connections.spawn(serve(stream));
        }
    });
    (url, tasks)
}

async fn ended(proxy: &Proxy, by: &str) -> f64 {
    proxy.metric(&format!("ended_total{{by=\"{by}\"}}")).await
}

async fn until_ended(proxy: &Proxy, by: &str, count: f64) {
    proxy.until_metric(&format!("ended_total{{by=\"{by}\"}}"), |ended| ended == count).await;
}

#[tokio::test]
async fn answer_that_breaks_off_is_counted_for_the_upstream() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let mut agent = Http1::connect(proxy.outbound).await;
    let get = request(&Method::GET, "http://api.test/broken", &[]).body(full("")).expect("request");
    let response = agent.head(get).await;
    assert_eq!(response.status(), 200);
    assert!(within(response.into_body().collect(), "the end").await.is_err());
    until_ended(&proxy, "upstream", 1.0).await;
    assert_eq!(proxy.metric("upstream_failures_total{reason=\"upstream_broken\",route=\"api\"}").await, 1.0);
    assert_eq!(proxy.metric("requests_total{class=\"2xx\",route=\"api\"}").await, 1.0);
    assert_eq!(ended(&proxy, "whole").await, 0.0);
}

#[tokio::test]
async fn failure_of_an_upstream_is_not_a_refusal_and_injects_nothing_that_did_not_leave() {
    let world = World::with_open_api().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("an address");
    let api = route("api", "token: itself", &world.api.url());
    let down = route("down", "token: itself, timeouts: { connect: 200ms }", &format!("http://{closed}"));
    let proxy = world.proxy_with(&format!("routes:\n{api}{down}")).await;
    assert_eq!(agent::get(proxy.outbound, "http://api.test/x", &[]).await.status, 200);
    until_ended(&proxy, "whole", 1.0).await;
    assert_eq!(proxy.metric("injected_total{route=\"api\"}").await, 1.0);
    world.api.faults().next(Fault::HangUp);
    agent::post(proxy.outbound, "http://api.test/x", &[], b"sent").await.assert_refusal(502, "upstream_broken");
    until_ended(&proxy, "upstream", 1.0).await;
    assert_eq!(proxy.metric("injected_total{route=\"api\"}").await, 2.0, "it left, and the upstream broke off");

    agent::get(proxy.outbound, "http://down.test/x", &[]).await.assert_refusal(502, "upstream_unreachable");
    until_ended(&proxy, "upstream", 2.0).await;
    assert_eq!(proxy.metric("injected_total{route=\"down\"}").await, 0.0, "nothing left");
    assert_eq!(proxy.metric("refused_total{route=\"down\"}").await, 0.0);
    assert_eq!(proxy.metric("requests_total{class=\"5xx\",route=\"down\"}").await, 1.0);
    assert_eq!(proxy.metric("upstream_failures_total{reason=\"upstream_unreachable\",route=\"down\"}").await, 1.0);
}

#[tokio::test]
async fn limits_timeouts_and_refusals_say_who_ended_the_request() {
    let world = World::with_open_api().await;
    let api = world.api.url();
    let (silent, _silent) = upstream(|stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let small = route("small", "token: none, limits: { request_body: 1KiB }", &api);
    let slow = route("slow", "token: none, timeouts: { response: 200ms }", &silent);
    let proxy = world.proxy_with(&format!("routes:\n{small}{slow}")).await;
    agent::post(proxy.outbound, "http://small.test/x", &[], &[0; 2048]).await.assert_refusal(413, "body_too_large");
    agent::get(proxy.outbound, "http://slow.test/x", &[]).await.assert_refusal(504, "upstream_timeout");
    agent::get(proxy.outbound, "http://nowhere.test/x", &[]).await.assert_refusal(403, "no_route");
    for (by, count) in [("limit", 1.0), ("timeout", 1.0), ("whole", 1.0), ("agent", 0.0), ("upstream", 0.0)] {
        assert_eq!(ended(&proxy, by).await, count, "{by}");
    }
    assert_eq!(proxy.metric("refused_total{reason=\"body_too_large\",route=\"small\"}").await, 1.0);
    assert_eq!(proxy.metric("refused_total{reason=\"no_route\",route=\"none\"}").await, 1.0);
    assert_eq!(proxy.metric("upstream_failures_total{reason=\"upstream_timeout\",route=\"slow\"}").await, 1.0);
}

#[tokio::test]
async fn total_timeout_ends_an_answer_that_never_ends() {
    let world = World::with_open_api().await;
    let (endless, _task) = upstream(|mut stream| async move {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut open = stream.write_all(head).await.is_ok();
        while open {
            open = stream.write_all(b"1\r\nx\r\n").await.is_ok();
            // The answer keeps moving, so that only the total timeout can end it.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let keys = "token: none, timeouts: { response: 400ms, total: 500ms }";
    let proxy = world.proxy_with(&format!("routes:\n{}", route("endless", keys, &endless))).await;
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write("GET /x HTTP/1.1\r\nhost: endless.test\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    let body = raw.rest().await;
    assert!(!body.ends_with(b"0\r\n\r\n"), "the agent notices that the answer is not whole");
    until_ended(&proxy, "timeout", 1.0).await;
    proxy.until_idle().await;
    assert_eq!(proxy.metric("upstream_failures_total{route=\"endless\"}").await, 0.0, "the route limits its answers");
}

#[tokio::test]
async fn event_stream_that_is_quiet_ends_by_timeout_and_is_not_a_failure_of_its_upstream() {
    let world = World::with_open_api().await;
    let (quiet, _task) = upstream(|mut stream| async move {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).await.expect("open");
        std::future::pending::<()>().await;
    })
    .await;
    let routes = route("quiet", "token: none, timeouts: { idle: 200ms }", &quiet);
    let proxy = world.proxy_with(&format!("routes:\n{routes}")).await;
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write("GET /x HTTP/1.1\r\nhost: quiet.test\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    raw.rest().await;
    until_ended(&proxy, "timeout", 1.0).await;
    assert_eq!(proxy.metric("upstream_failures_total{route=\"quiet\"}").await, 0.0);
}

#[tokio::test]
async fn answer_that_moves_keeps_a_quiet_upload_open() {
    let world = World::with_open_api().await;
    let (stream, _task) = upstream(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n").await.expect("open");
        // Three times the idle timeout in all, each part well within it. The proxy runs on threads
        // of its own, whose time cannot be paused.
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            stream.write_all(b"x").await.expect("open");
        }
        std::future::pending::<()>().await;
    })
    .await;
    let keys = "token: none, timeouts: { idle: 1s }";
    let proxy = world.proxy_with(&format!("routes:\n{}", route("stream", keys, &stream))).await;
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write("POST /x HTTP/1.1\r\nhost: stream.test\r\ncontent-length: 10\r\n\r\nhalf").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(raw.exactly(12).await.expect("the whole answer"), [b'x'; 12]);
}

#[tokio::test]
async fn upload_that_nobody_reads_ends_soon_after_its_answer() {
    let world = World::with_open_api().await;
    let (deaf, _task) = upstream(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("open");
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = world.proxy_with(&format!("routes:\n{}", route("deaf", "token: none", &deaf))).await;
    proxy.until_ready().await;
    let before = proxy.descriptors().await;
    for stays in [true, false] {
        let stream = TcpStream::connect(proxy.outbound).await.expect("connected");
        let (mut read, mut write) = stream.into_split();
        let mut upload: JoinSet<std::io::Result<()>> = JoinSet::new();
        upload.spawn(async move {
            write.write_all(b"POST /x HTTP/1.1\r\nhost: deaf.test\r\ncontent-length: 1000000000\r\n\r\n").await?;
            loop {
                write.write_all(&[0; 64 * 1024]).await?;
            }
        });
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            within(read.read_buf(&mut answer), "the answer").await.expect("open");
        }
        if !stays {
            upload.abort_all();
            drop(read);
        }
        proxy.until_idle().await;
        until(async || proxy.descriptors().await <= before, "both connections are closed").await;
    }
    assert_eq!(ended(&proxy, "timeout").await + ended(&proxy, "whole").await, 2.0);
}

#[tokio::test]
async fn refused_upload_is_read_so_that_the_agent_can_read_the_refusal() {
    let world = World::with_open_api().await;
    let (closing, _task) = upstream(|mut stream| async move {
        let head = b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(head).await.expect("open");
        stream.shutdown().await.expect("open");
        while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let small = route("small", "token: none, limits: { request_body: 1KiB }", &world.api.url());
    let proxy = world.proxy_with(&format!("routes:\n{small}{}", route("closing", "token: none", &closing))).await;
    const LENGTH: usize = 5_000_000;
    let long = "x".repeat(10_000);
    for (host, path, status) in
        [("nowhere.test", "x", 403), ("small.test", "x", 413), ("closing.test", "x", 413), ("small.test", &*long, 414)]
    {
        for framing in [format!("content-length: {LENGTH}"), "transfer-encoding: chunked".to_owned()] {
            let mut stream = TcpStream::connect(proxy.outbound).await.expect("connected");
            let head = format!("POST /{path} HTTP/1.1\r\nhost: {host}\r\n{framing}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("written");
            // An agent that reads only after it has written everything.
            if framing.starts_with("content") {
                stream.write_all(&vec![0; LENGTH]).await.unwrap_or_else(|error| panic!("{host}: {error}"));
            } else {
                let chunk = [b"10000\r\n", &[0; 65536][..], b"\r\n"].concat();
                for _ in 0..LENGTH / 65536 {
                    stream.write_all(&chunk).await.unwrap_or_else(|error| panic!("{host}: {error}"));
                }
                stream.write_all(b"0\r\n\r\n").await.unwrap_or_else(|error| panic!("{host}: {error}"));
            }
            let head = Raw::over(stream).head().await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{host} {framing}: {head}");
        }
    }
    proxy.until_idle().await;
}

#[tokio::test]
async fn upgraded_connection_holds_its_place() {
    let world = World::with_open_api().await;
    let limits = "limits: { connections: 2 }\n";
    let proxy = world.proxy_with(&format!("{limits}routes:\n{}", route("api", "token: none", &world.api.url()))).await;
    let handshake = "GET /ws HTTP/1.1\r\nhost: api.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let open = async || {
        let mut raw = Raw::connect(proxy.outbound).await;
        raw.write(handshake).await;
        assert!(raw.head().await.starts_with("HTTP/1.1 101 "));
        raw
    };
    // One of them in a tunnel.
    let mut first = Raw::connect(proxy.outbound).await;
    first.write("CONNECT api.test:80 HTTP/1.1\r\nhost: api.test:80\r\n\r\n").await;
    assert!(first.head().await.starts_with("HTTP/1.1 200 "));
    first.write(handshake).await;
    assert!(first.head().await.starts_with("HTTP/1.1 101 "));
    let second = open().await;
    assert_eq!(proxy.metric("downstream_connections{state=\"active\"}").await, 2.0);
    let third = async {
        let mut raw = Raw::connect(proxy.outbound).await;
        raw.write("GET /x HTTP/1.1\r\nhost: api.test\r\n\r\n").await;
        raw.head().await
    };
    let mut third = Box::pin(third);
    // That it is not served cannot be waited for; when it is, it takes a few milliseconds.
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut third).await.is_err(), "beyond the limit");
    drop(first);
    assert!(third.await.starts_with("HTTP/1.1 200 "));
    drop(second);
    proxy.until_idle().await;
    assert_eq!(proxy.metric("requests_total{class=\"101\",route=\"api\"}").await, 2.0);
}

#[tokio::test]
async fn answer_in_flight_at_the_drain_deadline_is_cut_off_by_the_drain() {
    let world = World::with_open_api().await;
    let gate = idjag_proxy::dev::faults::Gate::default();
    world.api.faults().always(Fault::HoldBody(gate));
    let routes = route("api", "token: none", &world.api.url());
    let config = format!("{}drain: {{ idle: 20ms, deadline: 200ms }}\nroutes:\n{routes}", world.preamble());
    let config = world.write("process.yaml", &config);
    let mut process = super::binary::Process::start(&world, &config, "info");
    let addresses = process.ready(&world).await;
    let mut raw = Raw::connect(addresses.outbound).await;
    raw.write("GET http://api.test/x HTTP/1.1\r\nhost: api.test\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    process.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(process.code().await, Some(0));
    assert!(process.log().contains("\"ended\":\"drain\""), "{}", process.log());
}

/// Starts an upstream that reads a head, hands it over, and answers `says`. Unless that is a
/// final answer, it then reads a body and answers. At last it hands over what else it read.
async fn asking(says: &'static str) -> (String, mpsc::UnboundedReceiver<String>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (seen, heads) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut raw = Raw::over(stream);
            seen.send(raw.head().await).expect("a running test");
            raw.write(says).await;
            if says.is_empty() || says.starts_with("HTTP/1.1 100") {
                seen.send(raw.until(b"body").await).expect("a running test");
                raw.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
            let rest = raw.rest().await;
            seen.send(String::from_utf8(rest).expect("text")).expect("a running test");
        }
    });
    (url, heads, tasks)
}

const EXPECTING: &str = "POST /x HTTP/1.1\r\nhost: asks.test\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";

#[tokio::test]
async fn expectation_is_the_upstreams_to_meet() {
    for says in ["HTTP/1.1 100 Continue\r\n\r\n", ""] {
        let world = World::with_open_api().await;
        let (url, mut seen, _tasks) = asking(says).await;
        let proxy = world.proxy_with(&format!("routes:\n{}", route("asks", "token: none", &url))).await;
        let mut raw = Raw::connect(proxy.outbound).await;
        raw.write(EXPECTING).await;
        let head = within(seen.recv(), "the head at the upstream").await.expect("a head");
        assert!(head.contains("expect: 100-continue\r\n"), "{head}");
        assert!(raw.head().await.starts_with("HTTP/1.1 100 "), "also after an upstream that says nothing");
        raw.write("body").await;
        assert_eq!(within(seen.recv(), "the body").await.expect("a body"), "body");
        assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn body_that_the_upstream_refuses_is_never_asked_of_the_agent() {
    let world = World::with_open_api().await;
    let (url, mut seen, _tasks) = asking("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno").await;
    let proxy = world.proxy_with(&format!("routes:\n{}", route("asks", "token: none", &url))).await;
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(EXPECTING).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 401 "), "no 100 before it");
    assert_eq!(raw.rest().await, b"no", "the connection ends, because the body was not sent");
    within(seen.recv(), "the head").await.expect("a head");
    assert_eq!(within(seen.recv(), "the end").await.expect("an end"), "", "the upstream got no body");
    proxy.until_idle().await;
}

#[tokio::test]
async fn expectation_ends_at_an_upstream_over_http2() {
    let world = World::with_open_api().await;
    let (http2_api, _) = world.http2_api().await;
    let proxy = world.proxy_with(&format!("routes:\n{}", tls_route("asks", "token: itself", &http2_api.url()))).await;
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(EXPECTING).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 100 "));
    raw.write("body").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    assert!(!http2_api.last_request().expect("seen").headers.contains_key("expect"));
}

#[tokio::test]
async fn total_timeout_covers_the_wait_for_a_token_a_connection_and_an_answer() {
    let world = World::with_open_api().await;
    let gate = idjag_proxy::dev::faults::Gate::default();
    world.corp.faults().token.always(Fault::Hold(gate.clone()));
    world.api.faults().always(Fault::Hold(gate));
    // Its queue is full, so that a connection to it is neither made nor refused.
    let full = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let silent = format!("http://{}", full.local_addr().expect("an address"));
    let limits = "timeouts: { connect: 50ms, total: 200ms, response: 150ms }";
    let replayed = "replay: { max_body: 1KiB }, retries: { attempts: 0 }";
    let routes = [
        route("token", &format!("token: itself, {limits}"), &world.api.url()),
        route("answer", "token: none, timeouts: { connect: 50ms, total: 200ms }", &world.api.url()),
        route("upload", "token: none, timeouts: { connect: 50ms, total: 200ms }", &silent),
        route("kept", &format!("token: none, {replayed}, timeouts: {{ connect: 50ms, total: 200ms }}"), &silent),
    ];
    let proxy = world.proxy_with(&format!("routes:\n{}", routes.concat())).await;
    for host in ["token", "answer"] {
        agent::get(proxy.outbound, &format!("http://{host}.test/x"), &[]).await.assert_refusal(504, "total_timeout");
    }
    for host in ["upload", "kept"] {
        let mut raw = Raw::connect(proxy.outbound).await;
        raw.write(format!("POST /x HTTP/1.1\r\nhost: {host}.test\r\ncontent-length: 9\r\n\r\nhalf")).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 504 ") && head.contains("total_timeout"), "{host}: {head}");
    }
    assert_eq!(ended(&proxy, "timeout").await, 4.0);
    assert_eq!(proxy.metric("upstream_failures_total").await, 0.0, "not the upstream's fault");
}

#[tokio::test]
async fn stuck_upload_over_http2_ends_with_its_answer() {
    let world = World::with_open_api().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (ended_streams, mut ends) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let ended_streams = ended_streams.clone();
            connections.spawn(async move {
                let mut connection = h2::server::handshake(stream).await.expect("handshake");
                let mut held = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    // It neither reads the body nor gives the stream up.
                    if request.uri().path() == "/answered" {
                        held.push((request, respond.send_response(http::Response::new(()), false).ok(), respond));
                    } else {
                        held.push((request, None, respond));
                    }
                }
                ended_streams.send(held.len()).expect("a running test");
            });
        }
    });
    let keys = "token: none, timeouts: { idle: 300ms }";
    let proxy = world.proxy_with(&format!("routes:\n{}", route("calls", keys, &url))).await;
    for path in ["/answered", "/silent"] {
        let mut raw = Raw::connect(proxy.outbound).await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: calls.test\r\ncontent-type: application/grpc\r\n\
             content-length: 10000000\r\n\r\n"
        );
        raw.write(head).await;
        // More than the upstream's window.
        raw.write(vec![0; 200_000]).await;
        assert_eq!(within(ends.recv(), "the end of the connection").await, Some(1), "{path}");
    }
    proxy.until_metric("upstream_connections{state=\"active\"}", |open| open == 0.0).await;
}

#[tokio::test]
async fn answer_that_breaks_off_at_once_reaches_the_agent_with_its_head() {
    let world = World::with_open_api().await;
    let heads = [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome",
    ];
    let mut tasks = Vec::new();
    let mut routes = String::from("routes:\n");
    for (index, answer) in heads.into_iter().enumerate() {
        let (url, task) = upstream(move |mut stream| async move {
            stream.write_all(answer.as_bytes()).await.expect("open");
        })
        .await;
        tasks.push(task);
        routes += &route(&format!("broken{index}"), "token: none", &url);
    }
    let proxy = world.proxy_with(&routes).await;
    for (index, answer) in heads.into_iter().enumerate() {
        for _ in 0..10 {
            let mut raw = Raw::connect(proxy.outbound).await;
            raw.write(format!("POST /x HTTP/1.1\r\nhost: broken{index}.test\r\ncontent-length: 0\r\n\r\n")).await;
            let answered = String::from_utf8(raw.rest().await).expect("text");
            assert!(answered.starts_with("HTTP/1.1 200 "), "{answer:?}: {answered:?}");
            assert_eq!(answered.ends_with("some"), answer.ends_with("some"), "{answered}");
        }
    }
    until_ended(&proxy, "upstream", 40.0).await;
}

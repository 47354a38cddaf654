//! Streaming: bodies, trailers, events, WebSockets and gRPC calls are streamed, and the agent
//! notices when one breaks.
use super::agent::{self, Http1, Http2, Raw, full, request};
use super::binary::Process;
use super::frames::{CANCEL, Frames, HEADERS, RST_STREAM, WINDOW_UPDATE, frame, get};
use super::world::{World, route, until, within};
use aws_lc_rs::digest;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Frame};
use idjag_proxy::dev::faults::{Fault, Gate};
use serde_json::json;
use std::convert::Infallible;
use std::fmt::Debug;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

const LARGE: usize = 100 * 1024 * 1024;
const CHUNK: usize = 64 * 1024;

fn hex(digest: &digest::Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A body of [`LARGE`] bytes that is generated while it is sent.
fn large() -> impl Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static {
    let chunk = |n: usize| Bytes::from(vec![(n % 251) as u8; CHUNK]);
    StreamBody::new(stream::iter((0..LARGE / CHUNK).map(move |n| Ok(Frame::data(chunk(n))))))
}

async fn digest_of<B: Body<Data = Bytes, Error: Debug> + Unpin>(mut body: B) -> String {
    let mut digest = digest::Context::new(&digest::SHA256);
    while let Some(frame) = within(body.frame(), "more of the body").await {
        digest.update(&frame.expect("whole").into_data().unwrap_or_default());
    }
    hex(&digest.finish())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_both_ways_in_constant_memory() {
    let world = World::with_open_api().await;
    let config = world.write("process.yaml", &format!("{}{}", world.preamble(), world.routes()));
    let process = Process::start(&world, &config, "info");
    let outbound = process.ready(&world).await.outbound;
    assert_eq!(agent::get(outbound, "http://api.test/x", &[]).await.status, 200);
    let before = process.memory("VmHWM");
    let sent = digest_of(large()).await;
    let mut expected = digest::Context::new(&digest::SHA256);
    (0..LARGE / CHUNK).for_each(|_| expected.update(&[b'x'; CHUNK]));
    let expected = hex(&expected.finish());
    let download =
        || request(&Method::GET, &format!("http://api.test/bytes/{LARGE}"), &[]).body(full("")).expect("request");
    let upload = || http::Request::post("http://api.test/x").body(large()).expect("request");

    let reply =
        agent::send(outbound, request(&Method::POST, "http://api.test/x", &[]).body(large()).expect("request")).await;
    assert_eq!((&reply.json()["body"]["length"], &reply.json()["body"]["sha256"]), (&json!(LARGE), &json!(sent)));
    let mut connection = Http1::connect(outbound).await;
    assert_eq!(digest_of(connection.head(download()).await.into_body()).await, expected);

    let reply = Http2::connect(outbound).await.send(upload()).await;
    assert_eq!((&reply.json()["body"]["length"], &reply.json()["body"]["sha256"]), (&json!(LARGE), &json!(sent)));
    let mut connection = Http2::connect(outbound).await;
    let response = within(connection.sender.send_request(download()), "a head").await.expect("a head");
    assert_eq!(digest_of(response.into_body()).await, expected);

    let growth = process.memory("VmHWM") - before;
    assert!(growth < 16 * 1024, "four bodies of 100 MiB took {growth} KiB");
}

#[tokio::test]
async fn events_are_streamed_and_the_upstream_sees_the_agent_leave() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let mut connection = Http1::connect(proxy.outbound).await;
    let listen = request(&Method::GET, "http://api.test/sse", &[("accept", "text/event-stream")]);
    let mut body = connection.head(listen.body(full("")).expect("request")).await.into_body();
    for n in 0..5 {
        assert_eq!(world.api.send_event(&format!("event {n}")), 1);
        let frame = within(body.frame(), "the event before the next is sent").await.expect("open").expect("whole");
        assert_eq!(frame.into_data().expect("data"), format!("data: event {n}\n\n"));
    }
    drop((body, connection));
    until(async || world.api.open_connections() == 0, "the upstream's connection is closed").await;
    until(async || proxy.status().await["requests"] == 0, "nothing is in flight").await;
}

async fn echoes(stream: tokio::net::TcpStream) {
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    for message in [Message::text("one"), Message::binary(vec![7u8; 100_000]), Message::text("three")] {
        socket.send(message.clone()).await.expect("sent");
        assert_eq!(within(socket.next(), "the echo").await.expect("open").expect("whole"), message);
    }
}

const HANDSHAKE: &str = "connection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn web_socket_passes_in_absolute_form_and_through_connect() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    for tunnel in [false, true] {
        let mut raw = Raw::connect(proxy.outbound).await;
        if tunnel {
            raw.write("CONNECT api.test:80 HTTP/1.1\r\nhost: api.test:80\r\n\r\n").await;
            assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
            raw.write(format!("GET /ws HTTP/1.1\r\nhost: api.test\r\n{HANDSHAKE}")).await;
        } else {
            raw.write(format!("GET http://api.test/ws HTTP/1.1\r\nhost: api.test\r\n{HANDSHAKE}")).await;
        }
        let head = raw.head().await.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        assert!(world.api.last_request().expect("seen").claims.is_some(), "the handshake carries the token");
        echoes(raw.stream).await;
        until(async || proxy.status().await["requests"] == 0, "the socket's end is seen").await;
    }
}

#[tokio::test]
async fn upgrade_to_h2c_is_not_relayed() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let fields =
        [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQAAP__")];
    assert_eq!(agent::get(proxy.outbound, "http://open.test/x", &fields).await.status, 200);
    let seen = world.api.last_request().expect("seen").headers;
    assert!(["upgrade", "http2-settings"].iter().all(|name| !seen.contains_key(*name)), "{seen:?}");
}

#[tokio::test]
async fn grpc_passes_with_its_trailers() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let mut agent = Http2::connect(proxy.outbound).await;
    let call = |fail: &str| {
        http::Request::post("http://api.test/pkg.Service/Method")
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .header("x-grpc-fail", fail)
            .body(full("\0\0\0\0\x03abc"))
            .expect("request")
    };
    let mut working = call("");
    working.headers_mut().remove("x-grpc-fail");
    let reply = agent.send(working).await;
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "\0\0\0\0\x03abc"));
    assert_eq!(reply.trailers["grpc-status"], "0");
    let seen = world.api.last_request().expect("seen");
    assert_eq!(seen.headers["te"], "trailers");
    assert_eq!(seen.version, http::Version::HTTP_2);
    let reply = agent.send(call("5")).await;
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, "5"), "trailers only");
}

#[tokio::test]
async fn grpc_failures_have_grpc_codes() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let mut agent = Http2::connect(proxy.outbound).await;
    let mut call = async |url: &str| {
        let request =
            http::Request::post(url).header("content-type", "application/grpc").body(full("")).expect("request");
        let reply = agent.send(request).await;
        assert_eq!(reply.status, 200);
        reply.header("grpc-status").to_owned()
    };
    assert_eq!(call("http://nowhere.test/x").await, "7");
    world.api.stop().await;
    assert_eq!(call("http://open.test/x").await, "14");
}

#[tokio::test]
async fn trailers_pass_without_framing_and_credentials() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let forbidden = ["authorization", "txn-token", "content-length", "host", "set-cookie", "x-forwarded-for"];
    for http2 in [false, true] {
        if http2 {
            let names = ["x-sum"]
                .iter()
                .chain(&forbidden)
                .map(|name| (name.parse().expect("a name"), HeaderValue::from_static("7")));
            let trailers: HeaderMap = names.collect();
            let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
            let request =
                request(&Method::POST, "http://open.test/x", &[("trailer", "x-sum, txn-token"), ("te", "trailers")]);
            let request = request.body(StreamBody::new(stream::iter(frames))).expect("request");
            assert_eq!(Http2::connect(proxy.outbound).await.send(request).await.status, 200);
        } else {
            let fields: String = forbidden.iter().map(|name| format!("{name}: 7\r\n")).collect();
            let head = "POST /x HTTP/1.1\r\nhost: open.test\r\ntransfer-encoding: chunked\r\ntrailer: x-sum, txn-token\r\nconnection: close\r\n\r\n";
            let answer = agent::raw(proxy.outbound, format!("{head}4\r\nbody\r\n0\r\nx-sum: 7\r\n{fields}\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        let seen = world.api.last_request().expect("seen");
        assert_eq!(seen.trailers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"], "{http2}");
        let fields = [("te", "trailers")];
        let ask =
            super::agent::request(&Method::GET, "http://open.test/trailers", &fields).body(full("")).expect("request");
        let reply = match http2 {
            true => Http2::connect(proxy.outbound).await.send(ask).await,
            false => agent::send(proxy.outbound, ask).await,
        };
        assert_eq!(reply.trailers["x-checksum"], "42", "{http2}");
    }
}

#[tokio::test]
async fn expectation_of_100_is_met_or_refused_before_the_body() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let head =
        |host: &str| format!("POST /x HTTP/1.1\r\nhost: {host}\r\nexpect: 100-Continue\r\ncontent-length: 5\r\n\r\n");
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(head("api.test")).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 100 "));
    raw.write("hello").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(world.api.last_request().expect("seen").body.expect("a body").0, 5);
    for (host, status) in [("user.test", "401"), ("nowhere.test", "403")] {
        let mut raw = Raw::connect(proxy.outbound).await;
        raw.write(head(host)).await;
        let answer = raw.head().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn slow_upstream_is_answered_with_504_and_a_closed_port_with_502() {
    let world = World::with_open_api().await;
    // Routes that are not tested for slowness keep the usual timeout, because a busy machine is
    // slow.
    let slow = route("slow", "token: itself, timeouts: { response: 50ms }", &world.api.url());
    let proxy = world.proxy_with(&format!("{}{slow}", world.routes())).await;
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    let gate = Gate::default();
    world.api.faults().next_many(2, &Fault::Hold(gate.clone()));
    proxy.get("http://slow.test/x").await.assert_refusal(504, "upstream_timeout");
    let grpc = [("content-type", "application/grpc")];
    assert_eq!(agent::post(proxy.outbound, "http://slow.test/x", &grpc, b"").await.header("grpc-status"), "4");
    assert_eq!(world.api.arrivals(), 3, "a slow request is not sent again");
    gate.open();
    world.api.faults().clear();
    world.api.stop().await;
    proxy.get("http://api.test/x").await.assert_refusal(502, "upstream_unreachable");
    world.api.restart().await.expect("restarted");
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
}

#[tokio::test]
async fn request_on_a_stale_connection_is_repeated_unless_it_is_a_post() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    // One agent's connection stays on one worker, and so uses one pool.
    let mut agent = Http1::connect(proxy.outbound).await;
    let mut call = async |method: Method, body: &'static str| {
        let request = request(&method, "http://api.test/x", &[]).body(full(body)).expect("request");
        agent.send(request).await
    };
    for method in [Method::GET, Method::HEAD, Method::DELETE] {
        assert_eq!(call(Method::GET, "").await.status, 200);
        let before = world.api.arrivals();
        world.api.faults().next(Fault::HangUpIfReused);
        assert_eq!(call(method.clone(), "").await.status, 200, "{method}");
        assert_eq!(world.api.arrivals() - before, 2, "{method}: refused on the old connection, served on a new one");
    }
    for body in ["with a body", ""] {
        assert_eq!(call(Method::GET, "").await.status, 200);
        let before = world.api.arrivals();
        world.api.faults().next(Fault::HangUpIfReused);
        let reply = call(Method::POST, body).await;
        assert_eq!((reply.status.as_u16(), world.api.arrivals() - before), (502, 1), "{body:?}: {}", reply.text());
    }
}

#[tokio::test]
async fn truncated_response_is_truncated_for_the_agent() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let mut agent = Http1::connect(proxy.outbound).await;
    let get = request(&Method::GET, "http://api.test/broken", &[]).body(full("")).expect("request");
    let response = agent.head(get).await;
    assert_eq!(response.status(), 200);
    assert!(within(response.into_body().collect(), "the end").await.is_err(), "half a body counts as complete");
    world.api.faults().next(Fault::HangUp);
    assert_eq!(agent::post(proxy.outbound, "http://api.test/x", &[], b"body").await.status, 502);
}

#[tokio::test]
async fn unread_answer_is_abandoned_after_the_idle_timeout() {
    let world = World::with_open_api().await;
    let api = world.api.url();
    let short = route("short", "token: none, timeouts: { idle: 200ms }", &api);
    let open = route("open", "token: none", &api);
    let proxy = world.proxy_with(&format!("routes:\n{short}{open}")).await;
    let given_up = async |count: f64| proxy.until_metric("unread_answers_total", |value| value == count).await;
    let ask = format!("GET http://short.test/bytes/{LARGE} HTTP/1.1\r\nhost: short.test\r\n\r\n");
    for (count, tunnel) in [(1.0, false), (2.0, true)] {
        let mut raw = Raw::connect(proxy.outbound).await;
        if tunnel {
            raw.write("CONNECT short.test:80 HTTP/1.1\r\nhost: short.test:80\r\n\r\n").await;
            assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
        }
        raw.write(&ask).await;
        assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
        given_up(count).await;
        proxy.until_idle().await;
        assert!(raw.rest().await.len() < LARGE, "the connection is closed");
    }
    // Over HTTP/2 only that response is abandoned: the agent reads the others.
    let mut agent = Frames::connect(proxy.outbound, &[]).await;
    agent.write(get(1, "short.test", &format!("/bytes/{LARGE}"))).await;
    given_up(3.0).await;
    assert_eq!(agent.until(RST_STREAM, 1).await.payload, CANCEL.to_be_bytes());
    agent.write(frame(WINDOW_UPDATE, 0, 0, &65_535u32.to_be_bytes())).await;
    agent.write(get(3, "open.test", "/x")).await;
    agent.until(HEADERS, 3).await;
    until(async || proxy.status().await["requests"] == 0, "nothing is in flight").await;
    until(async || world.api.open_connections() <= 1, "what was half read is closed").await;
}

#[tokio::test]
async fn idle_web_socket_is_closed_and_not_counted_as_an_unread_answer() {
    let world = World::with_open_api().await;
    let short = route("short", "token: none, timeouts: { idle: 200ms }", &world.api.url());
    let proxy = world.proxy_with(&format!("routes:\n{short}")).await;
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(format!("GET http://short.test/ws HTTP/1.1\r\nhost: short.test\r\n{HANDSHAKE}")).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 101 "));
    until(async || proxy.status().await["requests"] == 0, "an idle socket is closed").await;
    assert_eq!(proxy.metric("unread_answers_total").await, 0.0, "a WebSocket is not an unread answer");
}

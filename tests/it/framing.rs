//! How messages are framed and addressed on both sides: what one side sends is what the other side
//! receives, or it is refused.
use super::agent::{self, Http2, Raw, Reply, full, raw, request};
use super::frames::{self, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM, frame, literal};
use super::world::{Proxy, World, route, until, within};
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Version};
use http_body_util::StreamBody;
use hyper::body::Frame;
use std::convert::Infallible;
use tokio::net::TcpListener;

/// An upstream that answers with bytes that no library would send.
struct Scripted {
    listener: TcpListener,
    proxy: Proxy,
}

impl Scripted {
    async fn start(world: &World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let proxy = world.proxy_with(&format!("routes:\n{}", route("odd", "token: none", &url))).await;
        Self { listener, proxy }
    }

    /// Accepts a connection, and answers the first request on it. Returns the request's head, and the
    /// connection.
    async fn answer(&self, bytes: &str) -> (String, Raw) {
        let (stream, _) = within(self.listener.accept(), "a connection").await.expect("accepted");
        let mut raw = Raw::over(stream);
        let head = raw.head().await;
        raw.write(bytes).await;
        (head, raw)
    }

    /// Sends a request, answers it with these bytes, and closes the connection.
    async fn exchange(&self, method: &Method, bytes: &str) -> Reply {
        let request = request(method, "http://odd.test/x", &[]).body(full("")).expect("request");
        let answer = async { drop(self.answer(bytes).await) };
        tokio::join!(agent::send(self.proxy.outbound, request), answer).0
    }
}

#[tokio::test]
async fn body_of_unknown_length_is_forwarded_with_every_method() {
    let world = World::with_open_api().await;
    let (modern, routes) = world.http2_api().await;
    let plain = route("plain", "token: none", &world.api.url());
    let proxy = world.proxy_with(&format!("{routes}{plain}")).await;
    for method in [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS, Method::POST] {
        let head = format!("{method} /_search HTTP/1.1\r\nhost: plain.test\r\n");
        let body = "transfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nquery\r\n0\r\n\r\n";
        let answer = raw(proxy.outbound, head + body).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{method}: {answer}");
        let seen = world.api.last_request().expect("seen");
        assert_eq!((seen.method.as_str(), seen.body.expect("a body").0), (method.as_str(), 5));

        let frames = [Frame::data(Bytes::from_static(b"query"))].map(Ok::<_, Infallible>);
        let request = http::Request::builder().method(&method).uri("http://plain.test/_search");
        let request = request.body(StreamBody::new(stream::iter(frames))).expect("request");
        assert_eq!(Http2::connect(proxy.outbound).await.send(request).await.status, 200, "{method}");
        let seen = world.api.last_request().expect("seen");
        assert_eq!((seen.version, seen.body.expect("a body").0), (Version::HTTP_11, 5), "{method}");
    }
    // A request without a body does not get one.
    assert_eq!(proxy.get("http://plain.test/x").await.status, 200);
    let seen = world.api.last_request().expect("seen").headers;
    assert!(["transfer-encoding", "content-length"].iter().all(|name| !seen.contains_key(*name)), "{seen:?}");
    assert_eq!(modern.arrivals(), 0);
}

#[tokio::test]
async fn equal_lengths_over_http2_leave_as_one() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let length = [&[0][..], &frames::string("content-length"), &frames::string("5")].concat();
    let block = [&frames::block("POST", "open.test", "/x")[..], &length, &length].concat();
    let mut frames = Frames::connect(proxy.outbound, &[]).await;
    frames.write(frame(HEADERS, END_HEADERS, 1, &block)).await;
    frames.write(frame(DATA, END_STREAM, 1, b"12345")).await;
    assert_eq!(frames.until(HEADERS, 1).await.payload.first(), Some(&0x88));
    let seen = world.api.last_request().expect("seen").headers;
    assert_eq!(seen.get_all("content-length").iter().collect::<Vec<_>>(), ["5"]);
}

#[tokio::test]
async fn http11_request_without_host_is_refused_in_every_form() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    for line in ["GET http://open.test/x", "GET /x", "CONNECT open.test:80", "OPTIONS *"] {
        let answer = raw(proxy.outbound, format!("{line} HTTP/1.1\r\nconnection: close\r\n\r\n")).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("problem:malformed_request"),
            "{line}: {answer}"
        );
    }
    assert_eq!(world.api.arrivals(), 0);
    let answer = raw(proxy.outbound, "GET http://open.test/x HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 "), "{answer}");
    let via = world.api.last_request().expect("seen").headers["via"].to_str().expect("text").to_owned();
    assert!(via.starts_with("1.0 "), "{via}");
}

#[tokio::test]
async fn options_without_a_path_asks_about_the_server() {
    let world = World::with_open_api().await;
    let (modern, routes) = world.http2_api().await;
    let plain = route("plain", "token: none", &world.api.url());
    let proxy = world.proxy_with(&format!("{routes}{plain}")).await;
    let ask = async |target: &str| {
        let head = format!("OPTIONS {target} HTTP/1.1\r\nhost: plain.test\r\nconnection: close\r\n\r\n");
        assert!(raw(proxy.outbound, head).await.starts_with("HTTP/1.1 "), "{target}");
    };
    for (target, seen) in [
        ("http://plain.test", "*"),
        ("http://plain.test/", "/"),
        ("http://plain.test?x", "/?x"),
        ("*", "*"),
        ("/", "/"),
    ] {
        ask(target).await;
        assert_eq!(world.api.last_request().expect("seen").target.to_string(), seen, "{target}");
    }
    // Over HTTP/2 to the upstream, which refuses it, because it asks for a token.
    for (target, seen) in [("http://open.test", "*"), ("http://open.test?x", "/?x")] {
        ask(target).await;
        assert_eq!(modern.last_request().expect("seen").target.path_and_query().expect("a path"), seen);
    }
    // Each request of a pipeline has its own target.
    let server = "OPTIONS http://plain.test HTTP/1.1\r\nhost: plain.test\r\n\r\n";
    let path = "OPTIONS http://plain.test/y HTTP/1.1\r\nhost: plain.test\r\n\r\n";
    let last = "OPTIONS http://plain.test HTTP/1.1\r\nhost: plain.test\r\nconnection: close\r\n\r\n";
    let before = world.api.requests().len();
    raw(proxy.outbound, format!("{server}{path}{path}{last}")).await;
    let targets: Vec<String> = world.api.requests()[before..].iter().map(|seen| seen.target.to_string()).collect();
    assert_eq!(targets, ["*", "/y", "/y", "*"]);
}

#[tokio::test]
async fn ipv6_hosts_are_compared_as_addresses() {
    let world = World::with_open_api().await;
    let six = format!(
        "  - {{ name: six, match: {{ host: \"[::1]\" }}, token: none, upstream: {{ url: {} }} }}\n",
        world.api.url()
    );
    let proxy = world.proxy_with(&format!("routes:\n{six}")).await;
    for host in ["[::1]", "[0:0:0:0:0:0:0:1]", "[::0001]", "[::0.0.0.1]", "[0:0::1]:80"] {
        for line in [format!("GET http://{host}/x"), "GET /x".to_owned()] {
            let head = format!("{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            let answer = raw(proxy.outbound, head).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{line} {host}: {answer}");
        }
        let mut tunnel = Raw::connect(proxy.outbound).await;
        let port = if host.ends_with(":80") { "" } else { ":80" };
        tunnel.write(format!("CONNECT {host}{port} HTTP/1.1\r\nhost: {host}{port}\r\n\r\n")).await;
        assert!(tunnel.head().await.starts_with("HTTP/1.1 200 "), "{host}");
        tunnel.write("GET /x HTTP/1.1\r\nhost: [::1]\r\n\r\n").await;
        assert!(tunnel.head().await.starts_with("HTTP/1.1 200 "), "{host}");
    }
    for host in ["[::2]", "[::1%25lo]", "[::1.2]"] {
        let answer =
            raw(proxy.outbound, format!("GET http://{host}/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"));
        assert!(!answer.await.starts_with("HTTP/1.1 200 "), "{host}");
    }
}

/// Fails unless a path over HTTP/2 is refused: with a 400, or by h2 itself, which resets the stream
/// where the `http` crate does not accept it.
async fn assert_refused(proxy: &Proxy, path: &str) {
    let mut frames = Frames::connect(proxy.outbound, &[]).await;
    frames.write(frames::get(1, "open.test", path)).await;
    let answer = loop {
        let frame = frames.next().await.expect("an answer");
        if frame.stream == 1 && [HEADERS, RST_STREAM].contains(&frame.kind) {
            break frame;
        }
    };
    // A `:status` of 400 is the entry 12 of the static table.
    assert!(answer.kind == RST_STREAM || answer.payload.first() == Some(&0x8c), "{path}: {:?}", answer.payload);
}

#[tokio::test]
async fn characters_that_no_uri_has_are_refused_in_path_and_query() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    for target in ["/a\"b", "/a<b", "/a>b", "/x?a\"b", "/x?a<b", "/x?a>b", "/x?q={\"a\":1}"] {
        let head = format!("GET {target} HTTP/1.1\r\nhost: open.test\r\nconnection: close\r\n\r\n");
        let answer = raw(proxy.outbound, head).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("percent-encoded"), "{target}: {answer}");
        assert_refused(&proxy, target).await;
    }
    assert_eq!(world.api.arrivals(), 0);
    assert_eq!(proxy.get("http://open.test/a%22b?q=%7B%22a%22:1%7D").await.status, 200);
    assert_eq!(world.api.last_request().expect("seen").target.to_string(), "/a%22b?q=%7B%22a%22:1%7D");
}

#[tokio::test]
async fn other_schemes_are_refused_over_http2() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    for (scheme, status) in [("http", 0x88), ("https", 0x88), ("ftp", 0x8c), ("ws", 0x8c)] {
        let mut frames = Frames::connect(proxy.outbound, &[]).await;
        let block = [&[0x82][..], &literal(6, scheme), &literal(1, "open.test"), &literal(4, "/x")].concat();
        frames.write(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
        assert_eq!(frames.until(HEADERS, 1).await.payload.first(), Some(&status), "{scheme}");
    }
    assert_eq!(world.api.arrivals(), 2);
}

#[tokio::test]
async fn path_without_a_slash_is_refused_over_http2() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    for path in ["x", "?x", "*", "evil.test/x", "http://evil.test/x"] {
        assert_refused(&proxy, path).await;
    }
    assert_eq!(world.api.arrivals(), 0);
}

#[tokio::test]
async fn pseudo_fields_of_trailers_do_not_reach_the_upstream() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let mut frames = Frames::connect(proxy.outbound, &[]).await;
    frames.write(frame(HEADERS, END_HEADERS, 1, &frames::block("POST", "open.test", "/x"))).await;
    frames.write(frame(DATA, 0, 1, b"body")).await;
    let trailers =
        [&literal(4, "/evil")[..], &literal(1, "evil.test"), &[0], &frames::string("x-sum"), &frames::string("1")];
    frames.write(frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers.concat())).await;
    until(async || proxy.status().await["requests"] == 0, "the request has ended").await;
    for seen in world.api.requests() {
        assert_eq!((seen.target.path(), seen.host()), ("/x", &*world.api.address().to_string()));
        assert!(!format!("{:?}{:?}", seen.headers, seen.trailers).contains("evil"), "{seen:?}");
    }
    assert_eq!(proxy.get("http://open.test/after").await.status, 200);
}

#[tokio::test]
async fn upgrade_is_asked_for_and_accepted_by_token() {
    let world = World::with_open_api().await;
    let scripted = Scripted::start(&world).await;
    for (asked, forwarded, answered, is_accepted) in [
        ("websocket, h2c", Some("websocket"), "websocket", true),
        ("h2c, WebSocket", Some("WebSocket"), "websocket", true),
        ("HTTP/2.0, tcp", Some("tcp"), "tcp", true),
        ("websocket, h2c", Some("websocket"), "h2c", false),
        ("websocket", Some("websocket"), "websocket, h2c", false),
        ("websocket", Some("websocket"), "tcp", false),
        ("h2c", None, "h2c", false),
        ("TLS/1.0", None, "TLS/1.0", false),
    ] {
        let mut agent = Raw::connect(scripted.proxy.outbound).await;
        agent
            .write(format!("GET /x HTTP/1.1\r\nhost: odd.test\r\nconnection: upgrade\r\nupgrade: {asked}\r\n\r\n"))
            .await;
        let switch = format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {answered}\r\n\r\n");
        let (head, mut upstream) = scripted.answer(&switch).await;
        let sent = head.lines().find_map(|line| line.strip_prefix("upgrade: "));
        assert_eq!(sent, forwarded, "{asked}");
        let answer = agent.head().await;
        if is_accepted {
            assert!(
                answer.starts_with("HTTP/1.1 101 ") && answer.contains(&format!("upgrade: {answered}\r\n")),
                "{answer}"
            );
            // Not a head of HTTP: the request guard has let go of the connection.
            agent.write("\n\n\0").await;
            assert_eq!(upstream.exactly(3).await.as_deref(), Some(&b"\n\n\0"[..]), "{asked}");
        } else {
            assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("upstream_broken"), "{asked}: {answer}");
            agent.until(b"urn:idjag-proxy:problem:upstream_broken").await;
        }
    }
    let mut agent = Raw::connect(scripted.proxy.outbound).await;
    agent.write("GET /x HTTP/1.1\r\nhost: odd.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    scripted.answer("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\n").await;
    assert!(agent.head().await.starts_with("HTTP/1.1 502 "), "a 101 must say what it switches to");
}

#[tokio::test]
async fn answer_with_both_lengths_is_made_clean_or_refused() {
    let world = World::with_open_api().await;
    let scripted = Scripted::start(&world).await;
    let chunked = "transfer-encoding: chunked\r\n";
    for (framing, body) in [
        (format!("{chunked}content-length: 3\r\n"), "5\r\nwhole\r\n0\r\n\r\n"),
        (format!("content-length: 300\r\n{chunked}"), "5\r\nwhole\r\n0\r\n\r\n"),
        ("content-length: 5\r\ncontent-length: 5\r\n".to_owned(), "whole"),
        ("content-length: 5, 5\r\n".to_owned(), "whole"),
    ] {
        let reply = scripted.exchange(&Method::GET, &format!("HTTP/1.1 200 OK\r\n{framing}\r\n{body}")).await;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "whole"), "{framing}");
        let lengths: Vec<_> = reply.headers.get_all("content-length").iter().collect();
        let expected = if framing.contains("chunked") { vec![] } else { vec!["5"] };
        assert_eq!(lengths, expected, "{framing}");
    }
    let reply =
        scripted.exchange(&Method::HEAD, &format!("HTTP/1.1 200 OK\r\n{chunked}content-length: 3\r\n\r\n")).await;
    assert_eq!((reply.status.as_u16(), reply.headers.get("content-length")), (200, None));
    for framing in [
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: gzip\r\n",
        "transfer-encoding: identity\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: five\r\n",
    ] {
        let reply = scripted.exchange(&Method::GET, &format!("HTTP/1.1 200 OK\r\n{framing}\r\nwhole")).await;
        reply.assert_refusal(502, "upstream_broken");
    }
    let reply = scripted.exchange(&Method::GET, "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").await;
    reply.assert_refusal(502, "upstream_broken");
    assert!(reply.text().contains("not valid HTTP"), "{}", reply.text());
}

#[tokio::test]
async fn refusal_of_an_answer_with_too_large_a_head_names_the_limit() {
    let world = World::with_open_api().await;
    let scripted = Scripted::start(&world).await;
    let answer = |count: usize| {
        let fields: String = (1..count).map(|n| format!("x-{n}: 1\r\n")).collect();
        format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{fields}\r\n")
    };
    let ask = raw(scripted.proxy.outbound, "GET /x HTTP/1.1\r\nhost: odd.test\r\nconnection: close\r\n\r\n");
    let largest = answer(100);
    let (received, _) = tokio::join!(ask, scripted.answer(&largest));
    assert!(received.starts_with("HTTP/1.1 200 ") && received.contains("\r\nx-99: 1\r\n"), "{received}");
    for bytes in [answer(101), format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(200_000))] {
        let reply = scripted.exchange(&Method::GET, &bytes).await;
        reply.assert_refusal(502, "upstream_broken");
        assert!(reply.text().contains("The upstream's answer has more than 100 header fields"), "{}", reply.text());
    }
}

//! A route's `upstream`: the protocol, the host and the name that connections and requests have.
use super::agent;
use super::world::{World, route, within};
use http::Version;
use idjag_proxy::dev::ca::WebCa;
use idjag_proxy::dev::http::ServerTls;
use idjag_proxy::dev::resource_server::ResourceServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A route for the host `NAME.test` whose `upstream` has these keys.
fn to(name: &str, upstream: &str) -> String {
    format!("  - {{ name: {name}, match: {{ host: {name}.test }}, token: none, upstream: {{ {upstream} }} }}\n")
}

#[tokio::test]
async fn route_chooses_the_protocol_of_its_upstream() {
    let world = World::with_open_api().await;
    let ca = WebCa::new(&world.clock).expect("authority");
    world.write("ca.pem", &ca.certificate_pem());
    let tls = ServerTls::new(ca.server_certificate(&["127.0.0.1"]).expect("certificate"));
    let both = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let old = ResourceServer::start(Some(&tls.http1_only()), &world.clock).await.expect("server");
    let (plain, trust) = (world.api.url(), "tls: { server: { ca_file: ca.pem } }");
    let routes = [
        to("plain2", &format!("url: \"{plain}\", protocol: http2")),
        to("plain1", &format!("url: \"{plain}\", protocol: http1")),
        to("tls2", &format!("url: \"{}\", protocol: http2, {trust}", both.url())),
        to("tls1", &format!("url: \"{}\", protocol: http1, {trust}", both.url())),
        to("old", &format!("url: \"{}\", protocol: http2, {trust}", old.url())),
    ];
    let proxy = world.proxy_with(&format!("routes:\n{}", routes.concat())).await;
    for (name, api, version) in [
        ("plain2", &world.api, Version::HTTP_2),
        ("plain1", &world.api, Version::HTTP_11),
        ("tls2", &both, Version::HTTP_2),
        ("tls1", &both, Version::HTTP_11),
    ] {
        let reply = proxy.get(&format!("http://{name}.test/x")).await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        assert_eq!(api.last_request().expect("seen").version, version, "{name}");
    }
    proxy.get("http://old.test/x").await.assert_refusal(502, "upstream_tls");
    assert_eq!(old.arrivals(), 0);
    // Over HTTP/2 the wish for an upgrade goes unheard (RFC 9113 §8.6).
    let fields = [("connection", "upgrade"), ("upgrade", "websocket")];
    assert_eq!(agent::get(proxy.outbound, "http://plain2.test/x", &fields).await.status, 200);
    let seen = world.api.last_request().expect("seen");
    assert!(seen.version == Version::HTTP_2 && !seen.headers.contains_key("upgrade"), "{seen:?}");
}

#[tokio::test]
async fn host_of_the_agent_is_preserved_where_the_route_says_so() {
    let world = World::with_open_api().await;
    let url = world.api.url();
    let pattern = format!(
        "  - {{ match: {{ host: \"*.many.test\" }}, token: none, upstream: {{ url: \"{url}\", host: preserve }} }}\n"
    );
    let routes = [
        to("kept", &format!("url: \"{url}\", host: preserve")),
        to("kept2", &format!("url: \"{url}\", host: preserve, protocol: http2")),
        route("own", "token: none", &url),
        pattern,
    ];
    let proxy = world.proxy_with(&format!("routes:\n{}", routes.concat())).await;
    for (host, expected) in [
        ("kept.test", "kept.test"),
        ("kept2.test", "kept2.test"),
        ("own.test", url.strip_prefix("http://").expect("plain HTTP")),
        ("a.many.test", "a.many.test"),
        ("b.many.test", "b.many.test"),
    ] {
        assert_eq!(proxy.get(&format!("http://{host}/x")).await.status, 200, "{host}");
        assert_eq!(world.api.last_request().expect("seen").host(), expected);
    }
}

#[tokio::test]
async fn certificate_must_be_for_the_configured_server_name() {
    let world = World::with_open_api().await;
    let ca = WebCa::new(&world.clock).expect("authority");
    world.write("ca.pem", &ca.certificate_pem());
    // The certificate is not for the address by which the upstream is reached.
    let tls = ServerTls::new(ca.server_certificate(&["api.internal"]).expect("certificate"));
    let api = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let upstream =
        |name: &str| format!("url: \"{}\", tls: {{ server: {{ ca_file: ca.pem }}, server_name: {name} }}", api.url());
    let routes = [to("right", &upstream("api.internal")), to("wrong", &upstream("other.internal"))];
    let proxy = world.proxy_with(&format!("routes:\n{}", routes.concat())).await;
    assert_eq!(proxy.get("http://right.test/x").await.status, 200);
    proxy.get("http://wrong.test/x").await.assert_refusal(502, "upstream_tls");
    assert_eq!(api.arrivals(), 1);
}

/// Reads a request without a body, and returns its first line.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut head).await.expect("read") > 0);
    }
    String::from_utf8(head).expect("text").lines().next().expect("a line").to_owned()
}

#[tokio::test]
async fn attempt_that_takes_too_long_is_repeated_once_where_that_is_safe() {
    let world = World::with_open_api().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let keys = "token: none, timeouts: { attempt: 300ms }";
    let proxy = world.proxy_with(&format!("routes:\n{}", route("slow", keys, &url))).await;
    let upstream = async {
        let (mut silent, _) = listener.accept().await.expect("a connection");
        assert_eq!(read_request(&mut silent).await, "GET /x HTTP/1.1");
        let (mut second, _) = listener.accept().await.expect("another connection");
        assert_eq!(read_request(&mut second).await, "GET /x HTTP/1.1");
        second.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.expect("written");
    };
    let (reply, ()) = tokio::join!(proxy.get("http://slow.test/x"), within(upstream, "the second attempt"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    // A POST may have been processed.
    let reply = agent::post(proxy.outbound, "http://slow.test/x", &[], b"").await;
    reply.assert_refusal(504, "upstream_timeout");
    let (mut silent, _) = within(listener.accept(), "a connection").await.expect("accepted");
    assert_eq!(read_request(&mut silent).await, "POST /x HTTP/1.1");
    // The second attempt is the last.
    proxy.get("http://slow.test/x").await.assert_refusal(504, "upstream_timeout");
}

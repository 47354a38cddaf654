//! CONNECT: the proxy decides before it sends the 200, serves plain HTTP inside a tunnel like any
//! other request, and relays TLS only if the route says `tunnel`.
use super::agent::{Http1, Raw, full};
use super::world::{World, within};
use idjag_proxy::dev::ca::WebCa;
use idjag_proxy::dev::http::ServerTls;
use idjag_proxy::dev::resource_server::ResourceServer;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio_rustls::TlsConnector;

pub(crate) fn connect(authority: &str) -> String {
    format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n")
}

/// The agent's own TLS inside a tunnel.
fn tls(roots: RootCertStore) -> TlsConnector {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// The agent's own TLS inside a tunnel, for servers with a certificate of this authority.
pub(crate) fn trusting(ca: &WebCa) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate()).expect("a root");
    tls(roots)
}

#[tokio::test]
async fn forbidden_tunnel_is_refused_before_the_200() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    for (authority, advice) in [
        ("nowhere.test:443", "No route matches nowhere.test"),
        ("api.test:8080", "No route matches api.test"),
        ("169.254.169.254:443", "No route matches"),
        ("api.test:443", "http://api.test"),
        ("legacy.test:443", "http://legacy.test"),
        ("user.test:443", "http://user.test"),
    ] {
        let mut raw = Raw::connect(proxy.outbound).await;
        raw.write(connect(authority)).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{authority}: {head}");
        let body = raw.until(b"}").await;
        assert!(body.contains(advice), "{authority}: {body}");
    }
    assert_eq!(world.api.connections(), 0);
}

/// Clients that tunnel `http://`, such as Node's, do not show the answer to a CONNECT.
#[tokio::test]
async fn refusal_of_an_unknown_host_is_answered_inside_a_tunnel_to_port_80() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    for host in ["nowhere.test", "169.254.169.254"] {
        let mut raw = Raw::connect(proxy.outbound).await;
        raw.write(connect(&format!("{host}:80"))).await;
        assert!(raw.head().await.starts_with("HTTP/1.1 200 "), "{host}");
        let mut agent = Http1::over(raw.stream).await;
        let request = http::Request::get("/x").header("host", host).body(full("")).expect("request");
        let reply = agent.send(request).await;
        reply.assert_refusal(403, "no_route");
        assert!(reply.text().contains(&format!("No route matches {host}")), "{}", reply.text());
    }
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(connect("nowhere.test:80")).await;
    raw.head().await;
    let name = ServerName::try_from("nowhere.test").expect("a name");
    let error = within(tls(RootCertStore::empty()).connect(name, raw.stream), "the alert").await.expect_err("refused");
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    assert_eq!(world.api.connections(), 0);
}

/// Node has `HTTP_PROXY` set and calls a base URL.
#[tokio::test]
async fn base_url_is_served_inside_a_tunnel_to_the_proxy_itself() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let own = proxy.outbound.to_string();
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(connect(&own)).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    let mut agent = Http1::over(raw.stream).await;
    for (path, status) in [("/api.test/v1/x", 200), ("/nowhere.test/x", 403)] {
        let request = http::Request::get(path).header("host", &own).body(full("")).expect("request");
        assert_eq!(agent.send(request).await.status, status, "{path}");
    }
    assert_eq!(world.api.last_request().expect("seen").target.to_string(), "/v1/x");
}

/// Python's http.client sent `CONNECT` with HTTP/1.0, and without `Host`, up to 3.11.
#[tokio::test]
async fn connect_over_http_1_0_is_served_like_1_1() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write("CONNECT api.test:80 HTTP/1.0\r\n\r\n").await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.0 200 ") || head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut agent = Http1::over(raw.stream).await;
    for _ in 0..2 {
        let request = http::Request::get("/x").header("host", "api.test").body(full("")).expect("request");
        assert_eq!(agent.send(request).await.status, 200);
    }
    for (authority, advice) in
        [("api.test:443", "Call it as http://api.test/"), ("nowhere.test:443", "No route matches nowhere.test")]
    {
        let answer = super::agent::raw(proxy.outbound, format!("CONNECT {authority} HTTP/1.0\r\n\r\n")).await;
        assert!(answer.contains(" 403 ") && answer.contains(advice), "{answer}");
    }
}

#[tokio::test]
async fn domain_tunnel_does_not_bypass_the_route_of_a_host() {
    let world = World::with_open_api().await;
    let url = world.api.url();
    let routes = format!(
        "routes:
  - {{ match: {{ host: \"*.test\", port: 443 }}, tunnel: true }}
  - {{ match: {{ host: api.test }}, token: itself, upstream: {{ url: {url} }} }}
  - {{ match: {{ host: port.test, port: 443 }}, token: itself, upstream: {{ url: {url} }} }}
  - {{ match: {{ host: open.test }}, token: none, upstream: {{ url: {url} }} }}
"
    );
    let proxy = world.proxy_with(&routes).await;
    for (authority, advice, credential) in [
        ("api.test:443", "http://api.test/", true),
        ("port.test:443", "http://port.test:443/", true),
        ("open.test:443", "http://open.test/", false),
    ] {
        let mut raw = Raw::connect(proxy.outbound).await;
        raw.write(connect(authority)).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{authority}: {head}");
        let body = raw.until(b"}").await;
        assert!(body.contains(&format!("Call it as {advice}:")), "{authority}: {body}");
        assert_eq!(body.contains("credential"), credential, "{authority}: {body}");
        assert_eq!(proxy.get(advice).await.status, 200, "{advice}");
    }
}

#[tokio::test]
async fn plain_http_inside_a_tunnel_is_served_for_the_tunnels_host() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(connect("api.test:80")).await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(!head.to_ascii_lowercase().contains("content-length") && !head.to_ascii_lowercase().contains("transfer-"));
    let mut agent = Http1::over(raw.stream).await;
    for path in ["/one", "/two"] {
        let request = http::Request::get(path).header("host", "api.test").body(full("")).expect("request");
        assert_eq!(agent.send(request).await.status, 200);
    }
    assert!(world.api.requests().iter().all(|seen| seen.claims.is_some()));
    let other = http::Request::get("/x").header("host", "open.test").body(full("")).expect("request");
    agent.send(other).await.assert_refusal(400, "malformed_request");
    assert_eq!(world.api.arrivals(), 2);
    for (target, answer) in [
        ("http://open.test/x", "HTTP/1.1 400 "),
        ("http://api.test:8080/x", "HTTP/1.1 400 "),
        ("https://api.test/x", "HTTP/1.1 400 "),
        ("http://api.test/x", "HTTP/1.1 200 "),
    ] {
        let mut raw = Raw::connect(proxy.outbound).await;
        raw.write(connect("api.test:80")).await;
        raw.head().await;
        raw.write(format!("GET {target} HTTP/1.1\r\nhost: api.test\r\n\r\n")).await;
        let head = raw.head().await;
        assert!(head.starts_with(answer), "{target}: {head}");
        assert_eq!(head.contains("problem+json"), answer.contains("400"), "{target}: {head}");
    }
    assert_eq!(world.api.arrivals(), 3);
    let nested = format!("{}{}", connect("api.test:80"), connect("open.test:80"));
    let answer = super::agent::raw(proxy.outbound, &nested).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn tls_inside_a_tunnel_of_an_injecting_route_gets_an_alert() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(connect("api.test:80")).await;
    raw.head().await;
    let name = ServerName::try_from("api.test").expect("a name");
    let handshake = tls(RootCertStore::empty()).connect(name, raw.stream);
    let error = within(handshake, "the alert").await.expect_err("refused");
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    proxy.until_metric("refused_total{reason=\"call_as_http\"}", |count| count == 1.0).await;
    assert_eq!(world.api.connections(), 0);
}

#[tokio::test]
async fn tunnel_route_relays_tls_end_to_end() {
    let world = World::with_open_api().await;
    let ca = WebCa::new(&world.clock).expect("authority");
    let tls = ServerTls::new(ca.server_certificate(&["127.0.0.1"]).expect("certificate")).http1_only();
    let upstream = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let port = upstream.address().port();
    let routes = format!("routes:\n  - {{ match: {{ host: 127.0.0.1, port: {port} }}, tunnel: true }}\n");
    let proxy = world.proxy_with(&routes).await;
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(connect(&upstream.address().to_string())).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let stream = trusting(&ca).connect(name, raw.stream).await.expect("the upstream's own TLS");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.expect("handshake");
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(connection);
    let request =
        http::Request::get("/x").header("host", "tunnel.test").header("authorization", "Bearer the-agents-own");
    let response =
        within(sender.send_request(request.body(full("")).expect("request")), "an answer").await.expect("one");
    assert_eq!(response.status(), 200);
    let seen = upstream.last_request().expect("seen");
    assert_eq!(seen.headers["authorization"], "Bearer the-agents-own", "the proxy cannot change what it cannot see");
    assert!(!seen.headers.contains_key("via"));
}

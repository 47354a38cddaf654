//! `unmatched: pass`: requests to any host pass, with no credential of ours and none that the agent
//! made up.
use super::agent::{self, Http1, Raw, full};
use super::connect::{connect, trusting};
use super::world::{Proxy, World, within};
use idjag_proxy::dev::ca::WebCa;
use idjag_proxy::dev::http::ServerTls;
use idjag_proxy::dev::resource_server::ResourceServer;
use rustls::pki_types::ServerName;

/// Fields that could claim an identity. Requests without a route lose them.
const SPOOFED: [&str; 9] = [
    "authorization",
    "proxy-authorization",
    "x-authorization",
    "txn-token",
    "dpop",
    "x-forwarded-for",
    "x-forwarded-client-cert",
    "forwarded",
    // The field from which a route of this configuration takes users' tokens.
    "x-user-token",
];

async fn passing_proxy(world: &World) -> Proxy {
    world.proxy_with(&format!("unmatched: pass\n{}", world.routes())).await
}

/// Fails unless the upstream received the agent's ordinary fields and none that claims an identity.
fn assert_no_credentials(upstream: &ResourceServer) {
    let seen = upstream.last_request().expect("seen").headers;
    assert_eq!(seen["accept"], "text/plain");
    for name in SPOOFED.iter().chain(&["x-api-key"]) {
        assert!(!seen.contains_key(*name), "{name}: {seen:?}");
    }
}

#[tokio::test]
async fn passing_request_carries_no_credential() {
    let world = World::with_open_api().await;
    let proxy = passing_proxy(&world).await;
    let mut fields: Vec<_> = SPOOFED.iter().map(|name| (*name, "made-up")).collect();
    fields.push(("accept", "text/plain"));
    let url = format!("{}/x", world.api.url());
    assert_eq!(agent::get(proxy.outbound, &url, &fields).await.status, 200);
    assert_no_credentials(&world.api);
    // The same holds for plain HTTP inside a tunnel.
    let address = world.api.address().to_string();
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(connect(&address)).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    fields.push(("host", &address));
    assert_eq!(Http1::over(raw.stream).await.get("/x", &fields).await.status, 200);
    assert_no_credentials(&world.api);
    assert_eq!(world.corp.arrivals(), 0, "no token was asked for");
    // A host that a route names is served by that route.
    assert_eq!(agent::get(proxy.outbound, "http://legacy.test/x", &fields[..8]).await.status, 200);
    assert!(world.api.last_request().expect("seen").headers.contains_key("x-api-key"));
}

#[tokio::test]
async fn metadata_addresses_are_refused_in_every_spelling() {
    let world = World::with_open_api().await;
    let proxy = passing_proxy(&world).await;
    // inet_aton(3) reads the last three as the first.
    let spellings = [
        "169.254.169.254",
        "169.254.169.254.",
        "169.254.1.1",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "2852039166",
        "0xa9fea9fe",
        "169.254.43518",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "[fd00:c1::a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "[::6464:64c8]",
    ];
    for host in spellings {
        for port in ["", ":8080"] {
            let reply = proxy.get(&format!("http://{host}{port}/latest/meta-data/")).await;
            reply.assert_refusal(502, "address_prohibited");
            assert!(reply.header("proxy-status").contains("error=destination_ip_prohibited"), "{reply:?}");
        }
        for port in [80, 443] {
            let mut raw = Raw::connect(proxy.outbound).await;
            raw.write(connect(&format!("{host}:{port}"))).await;
            let head = raw.head().await;
            assert!(head.starts_with("HTTP/1.1 502 ") && head.contains("destination_ip_prohibited"), "{host}: {head}");
        }
    }
}

#[tokio::test]
async fn tls_passes_through_connect_unchanged() {
    let world = World::with_open_api().await;
    let ca = WebCa::new(&world.clock).expect("authority");
    let tls = ServerTls::new(ca.server_certificate(&["127.0.0.1"]).expect("certificate")).http1_only();
    let upstream = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let proxy = passing_proxy(&world).await;
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(connect(&upstream.address().to_string())).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let handshake = trusting(&ca).connect(name, raw.stream);
    let stream = within(handshake, "a handshake with the upstream itself").await.expect("its certificate");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.expect("handshake");
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(connection);
    let request = http::Request::get("/x").header("host", "any").header("authorization", "Bearer the-agents-own");
    let answer = sender.send_request(request.body(full("")).expect("request"));
    assert_eq!(within(answer, "an answer").await.expect("one").status(), 200);
    let seen = upstream.last_request().expect("seen").headers;
    assert_eq!(seen["authorization"], "Bearer the-agents-own", "the proxy cannot change what it cannot see");
    assert!(!seen.contains_key("via"));
}

//! An egress proxy between this one and everything that it connects to.
use super::agent::Raw;
use super::connect::{connect, trusting};
use super::world::{Proxy, World, within};
use idjag_proxy::dev::ca::WebCa;
use idjag_proxy::dev::http::ServerTls;
use idjag_proxy::dev::resource_server::ResourceServer;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A server for CONNECT, which knows names that nobody else resolves.
struct EgressServer {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl EgressServer {
    /// Each name leads to an address. A name such as `status-407.test` gets this answer instead.
    async fn start(names: Vec<(&'static str, SocketAddr)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (record, mut tasks) = (Arc::clone(&heads), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, names.clone(), Arc::clone(&record)));
            }
        });
        Self { address, heads, _tasks: tasks }
    }

    /// The heads of the requests so far.
    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic").clone()
    }

    /// The authorities of the requests so far.
    fn authorities(&self) -> Vec<String> {
        self.heads().iter().map(|head| head.split(' ').nth(1).expect("a target").to_owned()).collect()
    }
}

async fn serve(mut agent: TcpStream, names: Vec<(&'static str, SocketAddr)>, record: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if agent.read_buf(&mut head).await.map_or(true, |read| read == 0) {
            return;
        }
    }
    let head = String::from_utf8(head).expect("text");
    let host = head.split([' ', ':']).nth(1).expect("a target").to_owned();
    record.lock().expect("no panic").push(head);
    let status = host.strip_prefix("status-").and_then(|rest| rest.strip_suffix(".test"));
    let target = names.iter().find(|(name, _)| *name == host).map(|(_, address)| *address);
    // Whoever connected may have left.
    match (status, target) {
        (None, Some(target)) => {
            let mut upstream = TcpStream::connect(target).await.expect("connected");
            let _ = agent.write_all(b"HTTP/1.1 200 Connection established\r\nvia: 1.1 corp\r\n\r\n").await;
            let _ = tokio::io::copy_bidirectional(&mut agent, &mut upstream).await;
        }
        (status, _) => {
            let answer = format!("HTTP/1.1 {} Refused\r\ncontent-length: 0\r\n\r\n", status.unwrap_or("502"));
            let _ = agent.write_all(answer.as_bytes()).await;
        }
    }
}

/// A route for `host` and a port, with these other keys.
fn route(host: &str, port: u16, keys: &str) -> String {
    format!("  - {{ name: {host}, match: {{ host: {host}, port: {port} }}, {keys} }}\n")
}

#[tokio::test]
async fn upstreams_tunnels_and_authorization_servers_are_reached_through_the_egress_proxy() {
    let world = World::with_open_api().await;
    let ca = WebCa::new(&world.clock).expect("authority");
    world.write("ca.pem", &ca.certificate_pem());
    let names = ["secure.internal", "tunnel.internal"];
    let tls = ServerTls::new(ca.server_certificate(&names).expect("certificate")).http1_only();
    let secure = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let egress = EgressServer::start(vec![
        ("plain.internal", world.api.address()),
        ("secure.internal", secure.address()),
        ("tunnel.internal", secure.address()),
        ("as.internal", world.corp.address()),
    ])
    .await;
    world.write("egress-credentials", "agent:canary-egress\n");
    let file = format!(
        "listen: {{ outbound: [\"127.0.0.1:0\"], metrics: [\"127.0.0.1:0\"] }}
egress_proxy: {{ url: \"http://{}\", except: [direct.internal], credentials_file: egress-credentials }}
allow_plain_http: [as.internal, plain.internal]
authorization_servers:
  far:
    issuer: http://as.internal
    client_id: by-secret
    client_auth: {{ client_secret_post: {{ secret_file: client-secret }} }}
    endpoints: {{ token: \"http://as.internal/token\" }}
routes:
  - {{ match: {{ host: plain.test }}, upstream: {{ url: \"http://plain.internal\" }},
      token: {{ flow: {{ client_credentials: {{ server: far }} }}, scopes: [read] }} }}
{}{}{}{}",
        egress.address,
        route("secure.internal", 80, "token: none, upstream: { tls: { server: { ca_file: ca.pem } } }"),
        route("tunnel.internal", 443, "tunnel: true"),
        route("direct.internal", 80, "token: none"),
        route("here.internal", 80, "token: none, egress_proxy: none"),
    );
    let path = world.write("proxy.yaml", &file);
    let proxy = Proxy::start(&path, &world.clock);
    let reply = proxy.get("http://plain.test/x").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(world.api.last_request().expect("seen").headers.contains_key("authorization"));
    let reply = proxy.get("http://secure.internal/x").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(!secure.last_request().expect("seen").headers.contains_key("proxy-authorization"));
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(connect("tunnel.internal:443")).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    let name = ServerName::try_from("tunnel.internal").expect("a name");
    within(trusting(&ca).connect(name, raw.stream), "a handshake").await.expect("the upstream's own TLS");
    // These two are looked up here, where nobody knows them.
    for host in ["direct.internal", "here.internal"] {
        proxy.get(&format!("http://{host}/x")).await.assert_refusal(502, "upstream_unreachable");
    }
    let asked = ["as.internal:80", "plain.internal:80", "secure.internal:443", "tunnel.internal:443"];
    assert_eq!(egress.authorities(), asked);
    for head in egress.heads() {
        assert!(head.contains("\r\nproxy-authorization: Basic YWdlbnQ6Y2FuYXJ5LWVncmVzcw==\r\n"), "{head}");
    }
}

#[tokio::test]
async fn refusal_of_the_egress_proxy_is_told_in_words() {
    let world = World::with_open_api().await;
    let egress = EgressServer::start(Vec::new()).await;
    let file = format!(
        "egress_proxy: {{ url: \"http://{}\" }}\nroutes:\n{}{}{}",
        egress.address,
        route("status-407.test", 80, "token: none"),
        route("status-403.test", 80, "token: none"),
        route("unknown.test", 443, "tunnel: true"),
    );
    let proxy = world.proxy_with(&file).await;
    for (host, words) in [
        ("status-407.test", "The egress proxy asks for credentials or does not accept them (407)."),
        ("status-403.test", "The egress proxy does not allow connections to this host (403)."),
    ] {
        let reply = proxy.get(&format!("http://{host}/x")).await;
        reply.assert_refusal(502, "upstream_unreachable");
        assert_eq!(reply.json()["detail"], words);
    }
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(connect("unknown.test:443")).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 502 "));
    assert!(raw.until(b"}").await.contains("could not connect to this host (502)"));
}

#[tokio::test]
async fn addresses_are_checked_before_the_egress_proxy_is_asked() {
    let world = World::with_open_api().await;
    let egress = EgressServer::start(Vec::new()).await;
    let file = format!(
        "unmatched: pass\negress: {{ refuse: [192.0.2.0/24] }}\negress_proxy: {{ url: \"http://{}\" }}\nroutes: []\n",
        egress.address
    );
    let proxy = world.proxy_with(&file).await;
    for host in
        ["169.254.169.254", "2852039166", "0xa9.0xfe.43518", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "192.0.2.7"]
    {
        proxy.get(&format!("http://{host}/x")).await.assert_refusal(502, "address_prohibited");
        let mut raw = Raw::connect(proxy.outbound).await;
        raw.write(connect(&format!("{host}:443"))).await;
        assert!(raw.head().await.contains("destination_ip_prohibited"), "{host}");
    }
    // Another spelling of this machine.
    proxy.get(&format!("http://127.1:{}/metrics", proxy.metrics.port())).await.assert_refusal(508, "loop");
    assert!(egress.heads().is_empty(), "{:?}", egress.heads());
}

/// The egress proxy is another process of this program, whose route is a tunnel.
#[tokio::test]
async fn this_program_serves_as_an_egress_proxy() {
    let world = World::with_open_api().await;
    let ca = WebCa::new(&world.clock).expect("authority");
    world.write("ca.pem", &ca.certificate_pem());
    let tls = ServerTls::new(ca.server_certificate(&["api.internal"]).expect("certificate"));
    let api = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    // A spelling of 127.0.0.1 that is not taken for this machine.
    let (host, port) = ("127.1", api.address().port());
    let listen = "listen: { outbound: [\"127.0.0.1:0\"], metrics: [\"127.0.0.1:0\"] }\n";
    let tunnel =
        format!("routes:\n  - {{ name: tunnel, match: {{ host: \"{host}\", port: {port} }}, tunnel: true }}\n");
    let egress = Proxy::start(&world.write("egress.yaml", &format!("{listen}{tunnel}")), &world.clock);
    let upstream = "upstream: { tls: { server: { ca_file: ca.pem }, server_name: api.internal } }";
    let file = format!(
        "egress_proxy: {{ url: \"http://{}\" }}\nroutes:\n  - {{ match: {{ host: \"{host}\", port: {port} }}, token: none, {upstream} }}\n",
        egress.outbound
    );
    let proxy = world.proxy_with(&file).await;
    let reply = proxy.get(&format!("http://{host}:{port}/x")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(egress.metric("request_duration_seconds_count{route=\"tunnel\"}").await, 1.0);
    assert_eq!(proxy.metric("upstream_connections{state=\"idle\"}").await, 1.0);
}

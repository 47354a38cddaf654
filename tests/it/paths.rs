//! Paths that can be read in two ways, and header fields that could stand for another request than
//! the one that a route was chosen for.
use super::agent::{self, Http2, Raw, full, raw, request};
use super::world::{Proxy, World, route};
use http::Method;
use idjag_proxy::dev::ca::SvidRequest;
use idjag_proxy::dev::http::{ClientCertificates, ServerTls};
use idjag_proxy::dev::resource_server::ResourceServer;

/// Paths that some upstream reads as another path than `/v1/…`.
const AMBIGUOUS: [&str; 12] = [
    "/v1/a/../b",
    "/v1/./b",
    "/v1/..",
    "/v1/a%2fb",
    "/v1/a%2Fb",
    "/v1//b",
    "/v1/a%5cb",
    "/v1/a\\b",
    "/v1/%2e%2e/b",
    "/v1/a%00b",
    "/v1/a%0ab",
    "/v1/..;/b",
];

/// A route whose requests go to the API.
fn to_api(world: &World, name: &str, matcher: &str, keys: &str) -> String {
    format!("  - {{ name: {name}, match: {{ {matcher} }}, {keys}, upstream: {{ url: {} }} }}\n", world.api.url())
}

/// Sends a `GET` with exactly this target, and returns the answer.
async fn get_exactly(proxy: &Proxy, host: &str, target: &str) -> String {
    raw(proxy.outbound, format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await
}

async fn assert_refused(proxy: &Proxy, host: &str, paths: &[&str]) {
    for path in paths {
        let answer = get_exactly(proxy, host, path).await;
        let is_refused = answer.starts_with("HTTP/1.1 400 ") && answer.contains("problem:ambiguous_path");
        assert!(is_refused, "{host}{path}: {answer}");
    }
}

async fn assert_sent_as_it_is(proxy: &Proxy, upstream: &ResourceServer, host: &str, paths: &[&str]) {
    for path in paths {
        let answer = get_exactly(proxy, host, path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}{path}: {answer}");
        assert_eq!(upstream.last_request().expect("seen").target.path(), *path, "{host}");
    }
}

/// An upstream that asks for the workload's SVID, and the `upstream` of a route to it.
async fn mutual_tls(world: &World) -> (ResourceServer, String) {
    let id = world.domain.workload("reports");
    let svid = world.domain.x509.issue(&SvidRequest::new(&id)).expect("issued").certified_key().expect("a key");
    let clients = ClientCertificates::Required(world.domain.x509.bundle());
    let tls = ServerTls::new(svid).clients(clients).http1_only();
    let upstream = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let url = upstream.url();
    (upstream, format!("{{ url: {url}, tls: {{ server: {{ spiffe_ids: [\"{id}\"] }}, client_certificate: svid }} }}"))
}

#[tokio::test]
async fn path_with_two_readings_is_refused_where_routes_divide_the_host() {
    let world = World::with_open_api().await;
    let (mutual, upstream) = mutual_tls(&world).await;
    let routes = [
        to_api(&world, "token", "host: token.test, path: /v1/**", "token: itself"),
        to_api(&world, "key", "host: key.test, path: /v1/**", "legacy_secret: { file: legacy-key, header: x-api-key }"),
        format!("  - {{ match: {{ host: svid.test, path: /v1/** }}, token: none, upstream: {upstream} }}\n"),
        // The host is divided by another route than the one that the path takes.
        to_api(&world, "all", "host: all.test", "token: itself"),
        to_api(&world, "admin", "host: all.test, path: /admin/**, methods: [POST]", "token: none"),
        to_api(&world, "open", "host: open.test, path: /v1/**", "token: none"),
    ];
    let proxy = world.proxy_with(&format!("routes:\n{}", routes.concat())).await;
    for host in ["token.test", "key.test", "svid.test", "all.test"] {
        assert_refused(&proxy, host, &AMBIGUOUS).await;
    }
    assert_eq!((world.api.arrivals(), mutual.arrivals()), (0, 0));
    assert_sent_as_it_is(&proxy, &world.api, "open.test", &AMBIGUOUS[..6]).await;
    assert_sent_as_it_is(&proxy, &mutual, "svid.test", &["/v1/a%20b"]).await;
    assert_eq!(mutual.last_request().expect("seen").client, Some(world.agent_id()));
    let reply = proxy.get("http://token.test/v1/%7Ec?x=%2f..//").await;
    assert_eq!(reply.status, 200, "queries are not paths");
    let grpc = http::Request::post("http://all.test/a%2fb").header("content-type", "application/grpc");
    let reply = Http2::connect(proxy.outbound).await.send(grpc.body(full("")).expect("request")).await;
    reply.assert_grpc_refusal("3");
}

/// GitLab, RabbitMQ and npm name projects, virtual hosts and packages with an encoded slash.
#[tokio::test]
async fn path_with_two_readings_passes_unchanged_where_no_route_divides_the_host() {
    let world = World::with_open_api().await;
    let (mutual, upstream) = mutual_tls(&world).await;
    let svid = format!("  - {{ match: {{ host: svid.test }}, token: none, upstream: {upstream} }}\n");
    let writes = to_api(&world, "writes", "host: api.test, methods: [POST]", "token: none");
    let proxy = world.proxy_with(&format!("{}{writes}{svid}", world.routes())).await;
    let paths = [&AMBIGUOUS[..], &["/api/v4/projects/group%2Fproject/issues", "/api/exchanges/%2F/q", "//x"]].concat();
    for host in ["api.test", "legacy.test"] {
        assert_sent_as_it_is(&proxy, &world.api, host, &paths).await;
    }
    assert_sent_as_it_is(&proxy, &mutual, "svid.test", &paths).await;
    // A base URL may end with a slash.
    let own = proxy.outbound.to_string();
    assert!(get_exactly(&proxy, &own, "/api.test//v4/a%2Fb").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(world.api.last_request().expect("seen").target.path(), "//v4/a%2Fb");
}

#[tokio::test]
async fn division_of_a_host_counts_wildcards_and_ports() {
    let world = World::with_open_api().await;
    let routes = [
        to_api(&world, "wild", "host: \"*.test\"", "token: itself"),
        to_api(&world, "one", "host: one.test, path: /v1/**", "token: itself"),
        to_api(&world, "two", "host: two.test", "token: itself"),
        to_api(&world, "below", "host: \"*.below.test\", path: /v1/**", "token: itself"),
        to_api(&world, "port", "host: port.test, port: 8443, path: /v1/**", "token: itself"),
        to_api(&world, "https", "host: https.test, port: 443, path: /v1/**", "token: itself"),
        to_api(&world, "deep", "host: \"*.deep.example\", path: /v1/**", "token: itself"),
        to_api(&world, "exact", "host: a.deep.example", "token: itself"),
    ];
    let proxy = world.proxy_with(&format!("routes:\n{}", routes.concat())).await;
    for host in ["other.test", "two.test", "port.test", "below.test", "https.test"] {
        assert_sent_as_it_is(&proxy, &world.api, host, &["/v1/a%2Fb", "/x/../v1/a"]).await;
    }
    for host in ["one.test", "x.below.test", "port.test:8443", "a.deep.example", "b.deep.example"] {
        assert_refused(&proxy, host, &["/v1/a%2Fb"]).await;
    }
    // The path is no longer one of `/v1/**`, and takes the wildcard's route.
    assert_refused(&proxy, "one.test", &["/v2/../v1/a"]).await;
    let absolute = get_exactly(&proxy, "https.test", "https://https.test/v1/a%2Fb").await;
    assert!(absolute.starts_with("HTTP/1.1 400 "), "{absolute}");
}

#[tokio::test]
async fn route_can_refuse_or_forward_every_ambiguous_path() {
    let world = World::with_open_api().await;
    let routes = [
        to_api(&world, "sent", "host: a.test, path: /v1/**", "token: itself, ambiguous_paths: as_sent"),
        to_api(&world, "rest", "host: a.test", "token: itself"),
        to_api(&world, "strict", "host: b.test", "token: itself, ambiguous_paths: refuse"),
        to_api(&world, "strict-open", "host: c.test", "token: none, ambiguous_paths: refuse"),
    ];
    let proxy = world.proxy_with(&format!("routes:\n{}", routes.concat())).await;
    assert_sent_as_it_is(&proxy, &world.api, "a.test", &AMBIGUOUS).await;
    assert_refused(&proxy, "a.test", &["/v2/a%2Fb"]).await;
    assert_refused(&proxy, "b.test", &AMBIGUOUS).await;
    assert_refused(&proxy, "c.test", &AMBIGUOUS).await;
}

#[tokio::test]
async fn header_condition_is_met_by_exactly_one_value_that_is_forwarded() {
    let world = World::with_open_api().await;
    let routes = [
        to_api(&world, "acme", "host: a.test, headers: { x-tenant: acme }", "token: itself"),
        to_api(&world, "socket", "host: b.test, headers: { upgrade: websocket }", "token: none"),
    ];
    let proxy = world.proxy_with(&format!("routes:\n{}", routes.concat())).await;
    let ask = async |fields: &str| {
        let head = format!("GET /x HTTP/1.1\r\nhost: a.test\r\n{fields}\r\nconnection: close\r\n\r\n");
        raw(proxy.outbound, head).await.lines().next().unwrap_or_default().to_owned()
    };
    for refused in [
        "x-tenant: evil\r\nx-tenant: acme",
        "x-tenant: acme\r\nx-tenant: evil",
        "x-tenant: acme\r\nx-tenant: acme",
        "x-tenant: acme, evil",
        "x-tenant: acme\r\nx_tenant: evil",
        "x_tenant: acme",
        "x-tenant: acme\r\nconnection: x-tenant",
        "x-tenant: acme\r\nconnection: keep-alive, X-Tenant",
        "x-other: acme",
    ] {
        assert_eq!(ask(refused).await, "HTTP/1.1 403 Forbidden", "{refused:?}");
    }
    assert_eq!(world.api.arrivals(), 0);
    assert_eq!(ask("x-tenant: acme\r\nconnection: x-other").await, "HTTP/1.1 200 OK");
    assert_eq!(world.api.last_request().expect("seen").headers["x-tenant"], "acme");
    // Every upgrade is nominated, and is asked of the upstream all the same.
    let handshake = "GET /ws HTTP/1.1\r\nhost: b.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut socket = Raw::connect(proxy.outbound).await;
    socket.write(handshake).await;
    assert!(socket.head().await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test]
async fn overrides_are_removed_where_routes_divide_the_host() {
    let world = World::with_open_api().await;
    let routes = [
        to_api(&world, "read", "host: method.test, methods: [GET]", "legacy_secret: { file: legacy-key, header: x-k }"),
        to_api(&world, "path", "host: path.test, path: /v1/**", "token: none"),
        to_api(&world, "wild", "host: \"*.wild.test\"", "token: itself"),
        to_api(&world, "one", "host: a.wild.test, methods: [POST]", "token: none"),
        route("whole", "token: itself", &world.api.url()),
    ];
    let proxy = world.proxy_with(&format!("routes:\n{}", routes.concat())).await;
    let overrides = [
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-original-url",
        "x-rewrite-url",
        "x_http_method_override",
        "x-original_url",
    ];
    let fields: Vec<(&str, &str)> = overrides.iter().map(|name| (*name, "/admin")).collect();
    for (host, is_removed) in [
        ("method.test", true),
        ("path.test", true),
        ("a.wild.test", true),
        ("b.wild.test", true),
        ("whole.test", false),
    ] {
        let reply = agent::get(proxy.outbound, &format!("http://{host}/v1/x"), &fields).await;
        assert_eq!(reply.status, 200, "{host}: {}", reply.text());
        let seen = world.api.last_request().expect("seen").headers;
        let left: Vec<_> = overrides.iter().filter(|name| seen.contains_key(**name)).collect();
        assert_eq!(left.is_empty(), is_removed, "{host}: {left:?}");
    }
    // No trailer may have them.
    let trailers = "POST /v1/x HTTP/1.1\r\nhost: whole.test\r\ntransfer-encoding: chunked\r\ntrailer: x-original-url, x-sum\r\n\
                    connection: close\r\n\r\n0\r\nx-original-url: /admin\r\nx-sum: 1\r\n\r\n";
    assert!(raw(proxy.outbound, trailers).await.starts_with("HTTP/1.1 200 "));
    let seen = world.api.last_request().expect("seen").trailers;
    assert_eq!(seen.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"]);
}

#[tokio::test]
async fn lookalikes_of_framing_fields_are_not_forwarded() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let names = ["Content_Length", "Transfer_Encoding", "content_type", "Keep_Alive", "proxy_connection"];
    for host in ["api.test", "open.test", "legacy.test"] {
        let fields: Vec<(&str, &str)> = names.iter().map(|name| (*name, "5")).collect();
        let request = request(&Method::POST, &format!("http://{host}/x"), &fields).body(full("body")).expect("request");
        assert_eq!(agent::send(proxy.outbound, request).await.status, 200, "{host}");
        let seen = world.api.last_request().expect("seen");
        assert!(seen.headers.keys().all(|name| !name.as_str().contains('_')), "{host}: {:?}", seen.headers);
        assert_eq!(seen.headers["content-length"], "4");
    }
}

//! The ways to address a route, which route wins, and which requests have none.
use super::agent::{self, Http2, Raw, full, request};
use super::connect::connect;
use super::world::{Proxy, World, route, tls_route, until, within};
use http::{Method, Version};
use idjag_proxy::dev::ca::WebCa;
use idjag_proxy::dev::http::ServerTls;
use idjag_proxy::dev::resource_server::ResourceServer;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

#[tokio::test]
async fn every_form_of_address_reaches_the_same_route() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let own = proxy.outbound;
    let base_url_by_proxy = format!("http://{own}/api.test/v1/x?q=1");
    let alias_by_proxy = format!("http://localhost:{}/short/v1/x?q=1", own.port());
    for (url, host) in [
        (base_url_by_proxy.as_str(), own.to_string().as_str()),
        (&alias_by_proxy, &format!("localhost:{}", own.port())),
        ("http://api.test/v1/x?q=1", "api.test"),
        ("http://api.test/v1/x?q=1", "something.else"),
        ("http://API.test:80/v1/x?q=1", "api.test"),
        ("/v1/x?q=1", "api.test"),
        ("/v1/x?q=1", "API.TEST:80"),
        ("/api.test/v1/x?q=1", &own.to_string()),
        ("/short/v1/x?q=1", &own.to_string()),
        ("/short/v1/x?q=1", &format!("localhost:{}", own.port())),
    ] {
        let reply = agent::get(own, url, &[("host", host)]).await;
        assert_eq!(reply.status, 200, "{url} {host}: {}", reply.text());
        let seen = world.api.last_request().expect("seen");
        assert_eq!(seen.target.to_string(), "/v1/x?q=1", "{url} {host}");
        assert_eq!(seen.host(), world.api.address().to_string(), "the upstream's own name");
        assert!(seen.claims.is_some());
    }
}

#[tokio::test]
async fn cleartext_http2_serves_many_streams_on_one_connection() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let mut agent = Http2::connect(proxy.outbound).await;
    for url in ["http://api.test/h2", "http://api.test/again"] {
        let request = http::Request::builder().uri(url).version(Version::HTTP_2).body(full("")).expect("request");
        let reply = agent.send(request).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let url = format!("http://{}/short/base", proxy.outbound);
    let request = http::Request::builder().uri(url).body(full("")).expect("request");
    assert_eq!(agent.send(request).await.status, 200);
    assert_eq!(world.api.requests().len(), 3);
}

#[tokio::test]
async fn upstream_gets_http2_if_it_negotiates_it() {
    let world = World::start().await;
    let ca = WebCa::new(&world.clock).expect("authority");
    world.write("ca.pem", &ca.certificate_pem());
    let tls = ServerTls::new(ca.server_certificate(&["127.0.0.1"]).expect("certificate"));
    let http2_api = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let http1_api = ResourceServer::start(Some(&tls.clone().http1_only()), &world.clock).await.expect("server");
    let routes =
        [tls_route("http2", "token: itself", &http2_api.url()), tls_route("http1", "token: itself", &http1_api.url())];
    let proxy = world.proxy_with(&format!("routes:\n{}", routes.concat())).await;
    assert_eq!(proxy.get("http://http2.test/x").await.status, 200);
    assert_eq!(proxy.get("http://http1.test/x").await.status, 200);
    assert_eq!(http2_api.last_request().expect("seen").version, Version::HTTP_2);
    assert_eq!(http1_api.last_request().expect("seen").version, Version::HTTP_11);
    for seen in [http2_api.last_request().expect("seen"), http1_api.last_request().expect("seen")] {
        assert!(seen.headers["authorization"].to_str().expect("text").starts_with("Bearer "));
    }
}

#[tokio::test]
async fn untrusted_upstream_receives_no_request() {
    let world = World::start().await;
    let ca = WebCa::new(&world.clock).expect("authority");
    let other = WebCa::new(&world.clock).expect("authority");
    world.write("ca.pem", &other.certificate_pem());
    let tls = ServerTls::new(ca.server_certificate(&["127.0.0.1"]).expect("certificate"));
    let upstream = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let route = tls_route("api", "token: itself", &upstream.url());
    let proxy = world.proxy_with(&format!("routes:\n{route}")).await;
    proxy.get("http://api.test/x").await.assert_refusal(502, "upstream_tls");
    assert_eq!(upstream.arrivals(), 0);
}

#[tokio::test]
async fn request_without_a_route_is_refused_with_the_nearest_one_named() {
    let world = World::start().await;
    let routes = format!(
        "routes:\n  - {{ name: reader, match: {{ host: api.test, path: /v1/**, methods: [GET] }}, token: itself, \
         upstream: {{ url: {} }} }}\n",
        world.api.url()
    );
    let proxy = world.proxy_with(&routes).await;
    for url in
        ["http://api.test/v2/x", "http://api.test:8080/v1/x", "http://evil.test/v1/x", "http://api.test.evil/v1/x"]
    {
        let reply = proxy.get(url).await;
        reply.assert_refusal(403, "no_route");
        let host = url.parse::<http::Uri>().expect("url").host().expect("host").to_owned();
        assert!(reply.text().contains(&host), "{}", reply.text());
    }
    let reply = agent::post(proxy.outbound, "http://api.test/v1/x", &[], b"x").await;
    reply.assert_refusal(403, "no_route");
    assert!(reply.text().contains("`reader`, for GET api.test/v1/**."), "{}", reply.text());
    assert_eq!(world.api.arrivals(), 0);
    assert_eq!(world.corp.arrivals(), 0, "no token is fetched for a refused request");
}

#[tokio::test]
async fn more_specific_route_wins_in_any_order() {
    let world = World::with_open_api().await;
    let api = world.api.url();
    let open = |name: &str, r#match: &str| {
        format!("  - {{ name: {name}, match: {{ {match} }}, token: none, upstream: {{ url: {api} }} }}\n")
    };
    let routes = [
        open("suffix", "host: \"*.test\""),
        open("exact", "host: a.test"),
        open("port", "host: a.test, port: 80"),
        open("prefix", "host: a.test, port: 80, path: /v1/**"),
        open("longer", "host: a.test, port: 80, path: /v1/x/**"),
        open("method", "host: a.test, port: 80, path: /v1/x/**, methods: [PUT]"),
        open("header", "host: a.test, port: 80, path: /v1/x/**, methods: [PUT], headers: { x-tenant: acme }"),
        open("star", "host: a.test, port: 80, path: \"/v1/*/end\", methods: [DELETE]"),
    ]
    .concat();
    let proxy = world.proxy_with(&format!("routes:\n{routes}")).await;
    for (method, url, tenant, route) in [
        (Method::GET, "http://b.test/v1/x/y", "", "suffix"),
        (Method::GET, "http://a.test/", "", "port"),
        (Method::GET, "https://a.test/v1/x", "", "exact"),
        (Method::GET, "http://a.test/v1/y", "", "prefix"),
        (Method::GET, "http://a.test/v1/x/y", "", "longer"),
        (Method::PUT, "http://a.test/v1/x/y", "other", "method"),
        (Method::PUT, "http://a.test/v1/x/y", "acme", "header"),
        (Method::DELETE, "http://a.test/v1/y/end", "", "star"),
        (Method::DELETE, "http://a.test/v1/y/z/end", "", "prefix"),
    ] {
        let series = format!("requests_total{{class=\"2xx\",route=\"{route}\"}}");
        let before = proxy.metric(&series).await;
        let request = request(&method, url, &[("x-tenant", tenant)]).body(full("")).expect("request");
        assert_eq!(agent::send(proxy.outbound, request).await.status, 200, "{url}");
        proxy.until_metric(&series, |count| count > before).await;
    }
}

#[tokio::test]
async fn request_to_the_proxys_own_port_is_refused() {
    let world = World::with_open_api().await;
    let proxy = world.proxy_with("unmatched: pass\nroutes: []\n").await;
    // inet_aton(3) reads `0` and `127.1` as addresses.
    for host in ["127.0.0.1", "localhost", "0.0.0.0", "0", "127.1", "[::ffff:127.0.0.1]", "[::ffff:0:0]", "[::]"] {
        for listener in [proxy.outbound, proxy.metrics] {
            let authority = format!("{host}:{}", listener.port());
            // The outbound listener takes its own authority for a base URL.
            if listener == proxy.outbound && ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"].contains(&host) {
                continue;
            }
            let reply = proxy.get(&format!("http://{authority}/metrics")).await;
            reply.assert_refusal(508, "loop");
            let mut raw = Raw::connect(proxy.outbound).await;
            raw.write(connect(&authority)).await;
            let head = raw.head().await;
            assert!(head.starts_with("HTTP/1.1 508 "), "{authority}: {head}");
        }
    }
}

#[tokio::test]
async fn listener_on_every_address_is_recognized_at_any_address_of_the_machine() {
    let world = World::with_open_api().await;
    let preamble = world.preamble().replace("metrics: [\"127.0.0.1:0\"]", "metrics: [\"0.0.0.0:0\"]");
    let path = world.write("proxy.yaml", &format!("{preamble}unmatched: pass\nroutes: []\n"));
    let proxy = Proxy::start(&path, &world.clock);
    for host in ["127.0.0.1", "127.8.9.1", "[::ffff:127.8.9.1]", "0.0.0.0"] {
        let reply = proxy.get(&format!("http://{host}:{}/metrics", proxy.metrics.port())).await;
        reply.assert_refusal(508, "loop");
    }
}

#[tokio::test]
async fn ranges_that_the_configuration_refuses_are_open_to_routes_that_spell_the_address_out() {
    let world = World::with_open_api().await;
    let port = world.api.address().port();
    let routes = [
        route("literal", "token: none", &format!("http://127.0.0.1:{port}")),
        route("named", "token: none", &format!("http://localhost:{port}")),
    ]
    .concat();
    let rules = "egress: { refuse: [127.0.0.0/8, \"::1\"] }\n";
    let file = format!("unmatched: pass\nroutes:\n{routes}");
    let proxy = world.proxy_with(&format!("{rules}{file}")).await;
    assert_eq!(proxy.get("http://literal.test/x").await.status, 200);
    for url in ["http://named.test/x".to_owned(), format!("http://127.0.0.1:{port}/x")] {
        let refused = proxy.get(&url).await;
        refused.assert_refusal(502, "address_prohibited");
        assert!(refused.text().contains("the configuration refuses"), "{}", refused.text());
    }
    let mut raw = Raw::connect(proxy.outbound).await;
    raw.write(connect(&format!("127.0.0.1:{port}"))).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 502 "));
    // An exception is applied by a reload.
    let allow = "egress: { refuse: [127.0.0.0/8, \"::1\"], allow: [127.0.0.1] }\n";
    world.write("proxy.yaml", &format!("{}{allow}{file}", world.preamble()));
    until(async || proxy.get("http://named.test/x").await.status == 200, "the exception applies").await;
}

#[tokio::test]
async fn pattern_does_not_spell_an_address_out() {
    let world = World::with_open_api().await;
    let proxy = world.proxy_with("routes: [{ match: { host: \"*.169.254\" }, token: none }]\n").await;
    proxy.get("http://169.254.169.254/x").await.assert_refusal(502, "address_prohibited");
}

/// `localhost` has two addresses, of which the first does not work (RFC 8305 §5).
#[tokio::test]
async fn second_address_is_used_if_the_first_refuses_or_hangs() {
    for hangs in [false, true] {
        let world = World::with_open_api().await;
        let first = TcpSocket::new_v4().expect("a socket");
        first.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("bound");
        let address = first.local_addr().expect("an address");
        let second = TcpListener::bind((Ipv6Addr::LOCALHOST, address.port())).await.expect("the same port");
        // A socket that is bound but not listening refuses connections; one whose queue stays full
        // does not answer.
        let (_refuses, _full) = if hangs { (None, Some(full_queue(first).await)) } else { (Some(first), None) };
        let port = address.port();
        let route = route("six", "token: none", &format!("http://localhost:{port}"));
        let proxy = world.proxy_with(&format!("routes:\n{route}")).await;
        let answer = async {
            let (mut stream, _) = second.accept().await.expect("a connection");
            let mut head = [0; 1024];
            assert!(stream.read(&mut head).await.expect("read") > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("written");
        };
        let (reply, ()) =
            tokio::join!(proxy.get("http://six.test/x"), within(answer, "a connection to the second address"));
        assert_eq!(reply.status, 200, "{hangs}: {}", reply.text());
    }
}

/// A listener whose queue is full, and the connections that fill it.
async fn full_queue(socket: TcpSocket) -> (TcpListener, Vec<TcpStream>) {
    let listener = socket.listen(0).expect("listening");
    let address = listener.local_addr().expect("an address");
    let mut taken = Vec::new();
    // Far longer than a connection on loopback takes, and shorter than the system's second attempt.
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
        taken.push(stream.expect("connected"));
    }
    (listener, taken)
}

#[tokio::test]
async fn cross_site_requests_of_a_browser_are_refused() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let own = proxy.outbound.to_string();
    let own_origin = format!("http://{own}");
    let named = format!("localhost:{}", proxy.outbound.port());
    let call = async |url: &str, host: &str, fields: &[(&str, &str)]| {
        agent::get(proxy.outbound, url, &[&[("host", host)], fields].concat()).await
    };
    let cross_site: [&[(&str, &str)]; 7] = [
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "cross-site"), ("origin", &own_origin)],
        // Some browsers send only this for a WebSocket.
        &[("origin", "https://evil.test"), ("connection", "upgrade"), ("upgrade", "websocket")],
        &[("origin", "null")],
        &[("origin", "http://localhost:3000")],
    ];
    for (url, host) in [("/api.test/x", own.as_str()), ("/short/x", &named), ("/x", "api.test")] {
        for fields in cross_site {
            call(url, host, fields).await.assert_refusal(403, "cross_site");
        }
        for fields in [[("sec-fetch-site", "same-origin")], [("sec-fetch-site", "none")], [("x-other", "1")]] {
            assert_eq!(call(url, host, &fields).await.status, 200, "{url} {host} {fields:?}");
        }
        assert_eq!(
            call(url, host, &[("origin", &format!("http://{host}"))]).await.status,
            200,
            "a request of the same origin"
        );
    }
    let refused = proxy.metric("refused_total{reason=\"cross_site\"}").await;
    assert_eq!((refused, world.api.arrivals()), (21.0, 12));
    // A page cannot send the absolute form, but a server can that forwards a browser's fields.
    assert_eq!(call("http://api.test/x", "api.test", cross_site[0]).await.status, 200);
}

#[tokio::test]
async fn dns_rebinding_reaches_no_route() {
    for (unmatched, status, kind) in [("refuse", 403, "no_route"), ("pass", 508, "loop")] {
        let world = World::with_open_api().await;
        let proxy = world.proxy_with(&format!("unmatched: {unmatched}\n{}", world.routes())).await;
        // After DNS rebinding the browser regards the request as same-origin.
        let name = format!("rebound.localhost:{}", proxy.outbound.port());
        let fields = [("host", name.as_str()), ("sec-fetch-site", "same-origin")];
        agent::get(proxy.outbound, "/api.test/x", &fields).await.assert_refusal(status, kind);
        assert_eq!((world.api.arrivals(), world.corp.arrivals()), (0, 0), "{unmatched}");
    }
}

//! What a gRPC client gets if a request is refused: a gRPC code, and never an HTTP status that its
//! library would map to another code.
use super::agent::{self, Http2, full, request};
use super::world::{Proxy, World, route, tls_route, until};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Version};
use http_body_util::Full;
use idjag_proxy::dev::ca::WebCa;
use idjag_proxy::dev::faults::{Fault, Gate};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const GRPC: (&str, &str) = ("content-type", "application/grpc+proto");

/// A call over HTTP/2.
fn call(method: Method, url: &str, fields: &[(&str, &str)]) -> http::Request<Full<Bytes>> {
    let call = http::Request::builder().method(method).uri(url);
    let call = fields.iter().fold(call, |call, (name, value)| call.header(*name, *value));
    call.header(GRPC.0, GRPC.1).body(full(vec![b'x'; 2000])).expect("request")
}

fn post(url: &str, fields: &[(&str, &str)]) -> http::Request<Full<Bytes>> {
    call(Method::POST, url, fields)
}

/// Checks that a call is refused for this reason with this code.
async fn refused(proxy: &Proxy, call: http::Request<Full<Bytes>>, reason: &str, code: &str) {
    let url = call.uri().clone();
    let reply = Http2::connect(proxy.outbound).await.send(call).await;
    reply.assert_grpc_refusal(code);
    let details = format!("details=\"{reason}\"");
    assert!(reply.header("proxy-status").contains(&details), "{url}: {details} in {}", reply.header("proxy-status"));
}

#[tokio::test]
async fn refusal_has_the_grpc_code_of_its_reason() {
    let world = World::with_open_api().await;
    let (http2_api, _) = world.http2_api().await;
    let other = WebCa::new(&world.clock).expect("authority");
    world.write("ca.pem", &other.certificate_pem());
    let small = route("small", "token: itself, limits: { request_body: 1KiB }", &world.api.url());
    let untrusted = tls_route("strange", "token: none", &http2_api.url());
    let proxy = world.proxy_with(&format!("unmatched: pass\n{}{small}{untrusted}", world.routes())).await;
    let long = format!("http://open.test/{}", "x".repeat(10_000));
    let own = format!("http://127.0.0.1:{}/metrics", proxy.metrics.port());
    let large = "x".repeat(70_000);

    let trace = call(Method::TRACE, "http://api.test/x", &[]);
    refused(&proxy, trace, "trace_forbidden", "12").await;
    let twice = [("x-user-token", "one"), ("x-user-token", "two")];
    refused(&proxy, post("http://user.test/x", &twice), "malformed_request", "3").await;
    refused(&proxy, post("http://open.test/x", &[("expect", "a miracle")]), "expectation", "3").await;
    refused(&proxy, post("http://small.test/x", &[]), "body_too_large", "8").await;
    refused(&proxy, post(&long, &[]), "uri_too_long", "8").await;
    refused(&proxy, post("http://open.test/x", &[("x-large", &large)]), "head_too_large", "8").await;
    refused(&proxy, post(&own, &[]), "loop", "14").await;
    refused(&proxy, post("http://169.254.169.254/x", &[]), "address_prohibited", "14").await;
    refused(&proxy, post("http://strange.test/x", &[]), "upstream_tls", "14").await;
    assert_eq!(world.api.arrivals(), 0);
    world.api.faults().next(Fault::HangUp);
    refused(&proxy, post("http://open.test/x", &[]), "upstream_broken", "14").await;

    world.workload_api.withdraw();
    until(async || proxy.probe("/readyz").await.status == 503, "the withdrawal is known").await;
    for host in ["api", "user", "legacy"] {
        refused(&proxy, post(&format!("http://{host}.test/x"), &[]), "identity_missing", "14").await;
    }
}

#[tokio::test]
async fn grpc_codes_are_the_same_over_http1() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let trace = request(&Method::TRACE, "http://api.test/x", &[GRPC]).body(full("")).expect("request");
    agent::send(proxy.outbound, trace).await.assert_grpc_refusal("12");
    // A web page can only make requests in origin form.
    let fields = [GRPC, ("host", "api.test"), ("sec-fetch-site", "cross-site")];
    agent::post(proxy.outbound, "/x", &fields, b"").await.assert_grpc_refusal("7");
    let fields = [GRPC, ("max-forwards", "many")];
    let options = request(&Method::OPTIONS, "http://open.test/x", &fields).body(full("")).expect("request");
    agent::send(proxy.outbound, options).await.assert_grpc_refusal("3");
    assert_eq!((world.api.arrivals(), world.corp.arrivals()), (0, 0));
}

#[tokio::test]
async fn grpc_web_is_sent_as_it_came_and_refused_in_its_own_type() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    for (kind, web) in [
        ("application/grpc-web+proto", true),
        ("application/grpc-web-text", true),
        ("Application/gRPC-Web; charset=utf-8", true),
        ("application/grpc-like", false),
    ] {
        let fields = [("content-type", kind)];
        let reply = agent::post(proxy.outbound, "http://open.test/s/m", &fields, b"x").await;
        assert_eq!(reply.status, 200, "{kind}: {}", reply.text());
        let seen = world.api.last_request().expect("seen");
        assert_eq!((seen.version, &seen.headers["content-type"]), (Version::HTTP_11, &kind.parse().expect("a value")));
        let reply = agent::post(proxy.outbound, "http://nowhere.test/s/m", &fields, b"x").await;
        if web {
            reply.assert_grpc_web_refusal("7");
        } else {
            reply.assert_refusal(403, "no_route");
        }
    }
}

#[tokio::test]
async fn cleartext_grpc_without_a_route_is_sent_over_http2() {
    let world = World::with_open_api().await;
    let proxy = world.proxy_with("unmatched: pass\nroutes: []\n").await;
    let url = format!("{}/pkg.Service/Method", world.api.url());
    let reply = Http2::connect(proxy.outbound).await.send(post(&url, &[("te", "trailers")])).await;
    assert_eq!((reply.status.as_u16(), reply.trailers.get("grpc-status")), (200, Some(&"0".parse().expect("a value"))));
    assert_eq!(world.api.last_request().expect("seen").version, Version::HTTP_2);
    let reply = agent::post(proxy.outbound, &url, &[], b"x").await;
    assert_eq!((reply.status.as_u16(), world.api.last_request().expect("seen").version), (200, Version::HTTP_11));
}

/// Starts an upstream that answers every gRPC call with this status, in trailers after a message or
/// in the head, and sends what it saw of the calls' tokens.
async fn grpc_upstream(in_trailers: bool) -> (String, mpsc::UnboundedReceiver<String>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (seen, tokens) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            connections.spawn(async move {
                let mut connection = h2::server::handshake(stream).await.expect("handshake");
                while let Some(Ok((call, mut respond))) = connection.accept().await {
                    let token = call.headers()["authorization"].to_str().expect("text").to_owned();
                    seen.send(token).expect("a running test");
                    let head = http::Response::builder().header(GRPC.0, GRPC.1);
                    if in_trailers {
                        let mut body = respond.send_response(head.body(()).expect("head"), false).expect("sent");
                        body.send_data("12345".into(), false).expect("sent");
                        let trailers = http::HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("16"))]);
                        body.send_trailers(trailers).expect("sent");
                    } else {
                        let head = head.header(GRPC_STATUS, "16").body(()).expect("head");
                        respond.send_response(head, true).expect("sent");
                    }
                }
            });
        }
    });
    (url, tokens, tasks)
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

#[tokio::test]
async fn unauthenticated_call_discards_its_token_and_is_not_repeated() {
    for in_trailers in [true, false] {
        let world = World::with_open_api().await;
        let (url, mut tokens, _tasks) = grpc_upstream(in_trailers).await;
        let proxy = world.proxy_with(&format!("routes:\n{}", route("calls", "token: itself", &url))).await;
        let mut agent = Http2::connect(proxy.outbound).await;
        let reply = agent.send(post("http://calls.test/s/m", &[])).await;
        let status = if in_trailers { reply.trailers.get(GRPC_STATUS) } else { reply.headers.get(GRPC_STATUS) };
        assert_eq!(status.map(HeaderValue::as_bytes), Some(&b"16"[..]));
        let first = tokens.recv().await.expect("a call");
        let exchanges = "exchanges_total{outcome=\"success\"}";
        proxy.until_metric(exchanges, |count| count == 2.0).await;
        // The other token is refused as well, but tokens are replaced only once in an interval.
        for _ in 0..3 {
            agent.send(post("http://calls.test/s/m", &[])).await;
            assert_ne!(tokens.recv().await.expect("a call"), first, "in trailers: {in_trailers}");
        }
        assert!(tokens.try_recv().is_err(), "a call was repeated");
        assert_eq!(proxy.metric(exchanges).await, 2.0);
        assert_eq!(proxy.metric("token_replays_total{outcome=\"not_replayed\",route=\"calls\"}").await, 4.0);
    }
}

#[tokio::test]
async fn deadline_of_the_client_ends_the_call() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    world.api.faults().next(Fault::Hold(Gate::default()));
    let call = post("http://open.test/s/m", &[("grpc-timeout", "200m")]);
    Http2::connect(proxy.outbound).await.send(call).await.assert_grpc_refusal("4");
    assert_eq!(proxy.metric("ended_total{by=\"timeout\",route=\"open\"}").await, 1.0);
}

//! What a gRPC client gets if a request is refused: a gRPC code, and never an HTTP status that its
//! library would map to another code.
use super::agent::{self, Http2, full, request};
use super::world::{Proxy, World, route, tls_route, until};
use bytes::Bytes;
use http::{Method, Version};
use http_body_util::Full;
use idjag_proxy::dev::ca::WebCa;
use idjag_proxy::dev::faults::Fault;

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
    let world = World::open().await;
    let (http2_api, _) = world.http2_api().await;
    let other = WebCa::new(&world.clock).expect("authority");
    world.write("ca.pem", &other.certificate_pem());
    let small = route("small", "token: itself, limits: { request_body: 1KiB }", &world.api.url());
    let strange = tls_route("strange", "token: none", &http2_api.url());
    let proxy = world.proxy_with(&format!("unmatched: pass\n{}{small}{strange}", world.routes())).await;
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
    let world = World::open().await;
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
    let world = World::open().await;
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
    let world = World::open().await;
    let proxy = world.proxy_with("unmatched: pass\nroutes: []\n").await;
    let url = format!("{}/pkg.Service/Method", world.api.url());
    let reply = Http2::connect(proxy.outbound).await.send(post(&url, &[("te", "trailers")])).await;
    assert_eq!((reply.status.as_u16(), reply.trailers.get("grpc-status")), (200, Some(&"0".parse().expect("a value"))));
    assert_eq!(world.api.last_request().expect("seen").version, Version::HTTP_2);
    let reply = agent::post(proxy.outbound, &url, &[], b"x").await;
    assert_eq!((reply.status.as_u16(), world.api.last_request().expect("seen").version), (200, Version::HTTP_11));
}

//! Hostile requests: what is refused is never forwarded, and what is forwarded carries no claim
//! that the agent made up.
use super::agent::{self, Http2, Raw, full, raw, request};
use super::world::{LEGACY_KEY, World, route};
use http::{HeaderMap, Method};

#[tokio::test]
async fn request_smuggling_is_refused_and_ends_the_connection() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let h = "host: open.test\r\n";
    let smuggled = "GET http://open.test/smuggled HTTP/1.1\r\nhost: open.test\r\nconnection: close\r\n\r\n";
    let cases = [
        ("two lengths", format!("POST /x HTTP/1.1\r\n{h}content-length: 3\r\ncontent-length: 4\r\n\r\nabcd")),
        ("a list of lengths", format!("POST /x HTTP/1.1\r\n{h}content-length: 3, 3\r\n\r\nabc")),
        ("a signed length", format!("POST /x HTTP/1.1\r\n{h}content-length: +3\r\n\r\nabc")),
        ("a negative length", format!("POST /x HTTP/1.1\r\n{h}content-length: -3\r\n\r\nabc")),
        ("a length too large", format!("POST /x HTTP/1.1\r\n{h}content-length: 99999999999999999999\r\n\r\nabc")),
        ("a length that is not a number", format!("POST /x HTTP/1.1\r\n{h}content-length: 0x3\r\n\r\nabc")),
        ("a folded line", format!("GET /x HTTP/1.1\r\n{h}x-a: 1\r\n  2\r\n\r\n")),
        ("space before the colon", format!("POST /x HTTP/1.1\r\n{h}content-length : 3\r\n\r\nabc")),
        ("a bare carriage return", format!("GET /x HTTP/1.1\r\n{h}x-a: 1\rx-b: 2\r\n\r\n")),
        ("a NUL", format!("GET /x HTTP/1.1\r\n{h}x-a: 1\02\r\n\r\n")),
        ("a fragment", format!("GET /x#f HTTP/1.1\r\n{h}\r\n")),
        ("a fragment after the host", format!("GET http://api.test#f HTTP/1.1\r\n{h}\r\n")),
        ("no host", "GET /x HTTP/1.1\r\n\r\n".to_owned()),
        ("two hosts", format!("GET /x HTTP/1.1\r\n{h}host: api.test\r\n\r\n")),
        ("the same host twice", format!("GET /x HTTP/1.1\r\n{h}{h}\r\n")),
        ("two hosts and an absolute form", format!("GET http://open.test/x HTTP/1.1\r\n{h}host: api.test\r\n\r\n")),
        ("a host with a space", "GET /x HTTP/1.1\r\nhost: a b\r\n\r\n".to_owned()),
        ("user information", format!("GET http://u:p@open.test/x HTTP/1.1\r\n{h}\r\n")),
        ("an unknown coding", format!("POST /x HTTP/1.1\r\n{h}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n")),
        (
            "a coding before chunked",
            format!("POST /x HTTP/1.1\r\n{h}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "a coding after chunked",
            format!("POST /x HTTP/1.1\r\n{h}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ),
        ("chunked twice", format!("POST /x HTTP/1.1\r\n{h}transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n")),
        (
            "chunked in two fields",
            format!(
                "POST /x HTTP/1.1\r\n{h}transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n"
            ),
        ),
        ("chunked in HTTP/1.0", format!("POST /x HTTP/1.0\r\n{h}transfer-encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("an unknown version", format!("GET /x HTTP/1.2\r\n{h}\r\n")),
        ("no version", "GET /x\r\n\r\n".to_owned()),
        ("CONNECT without a port", "CONNECT open.test HTTP/1.1\r\nhost: open.test\r\n\r\n".to_owned()),
        ("CONNECT with a path", "CONNECT /x HTTP/1.1\r\nhost: open.test\r\n\r\n".to_owned()),
        ("CONNECT with a body", format!("CONNECT open.test:80 HTTP/1.1\r\n{h}content-length: 5\r\n\r\nhello")),
        (
            "CONNECT with chunks",
            format!("CONNECT open.test:80 HTTP/1.1\r\n{h}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        ("CONNECT with two ports", format!("CONNECT open.test:80:80 HTTP/1.1\r\n{h}\r\n")),
        ("CONNECT with a large port", format!("CONNECT open.test:99999 HTTP/1.1\r\n{h}\r\n")),
        ("CONNECT with user information", format!("CONNECT u@open.test:80 HTTP/1.1\r\n{h}\r\n")),
        ("CONNECT with half an address", format!("CONNECT [::1:80 HTTP/1.1\r\n{h}\r\n")),
        ("CONNECT in absolute form", format!("CONNECT http://open.test:80/ HTTP/1.1\r\n{h}\r\n")),
        ("authority form", format!("GET open.test HTTP/1.1\r\n{h}\r\n")),
        ("asterisk form", format!("GET * HTTP/1.1\r\n{h}\r\n")),
        ("another scheme", format!("GET ftp://open.test/x HTTP/1.1\r\n{h}\r\n")),
    ];
    let mut wrong = Vec::new();
    for (what, bytes) in cases {
        let before = world.api.arrivals();
        let answer = raw(proxy.outbound, format!("{bytes}{smuggled}")).await;
        let refused =
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("urn:idjag-proxy:problem:malformed_request");
        if !refused || answer.matches("HTTP/1.1 ").count() > 1 || world.api.arrivals() > before {
            wrong.push(format!("{what}: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n---\n"));
}

/// RFC 9112 §6.1 lets a transfer coding override a length, §6.3 lets equal lengths count as one,
/// and §2.2 lets a bare line feed end a line. Another recipient may choose otherwise, so the proxy
/// forwards none of these.
#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let (coding, length) = ("transfer-encoding: chunked\r\n", "content-length: 3\r\n");
    let (host, before) = ("host: open.test\r\n", "GET /before HTTP/1.1\r\nhost: open.test\r\n\r\n");
    let cases = [
        format!("POST /x HTTP/1.1\r\n{host}{length}{coding}\r\n0\r\n\r\n"),
        format!("POST /x HTTP/1.1\r\n{host}{coding}{length}\r\n0\r\n\r\n"),
        format!("POST /x HTTP/1.1\r\n{host}{coding}{length}{length}\r\n3\r\nabc\r\n0\r\n\r\n"),
        format!("POST /x HTTP/1.1\r\n{host}{length}{length}\r\nabc"),
        "GET /x HTTP/1.1\nhost: open.test\n\n".to_owned(),
        "GET /x HTTP/1.1\r\nhost: open.test\nx-a: 1\r\n\r\n".to_owned(),
        "GET /x HTTP/1.1\r\nhost: open.test\r\nx-a: 1\nauthorization: Bearer canary-spoof\r\n\r\n".to_owned(),
    ];
    for bad in &cases {
        let arrived = world.api.arrivals();
        let smuggled = "GET http://open.test/smuggled HTTP/1.1\r\nhost: open.test\r\n\r\n";
        let answer = raw(proxy.outbound, format!("{before}{bad}{smuggled}")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "the earlier request is answered first: {answer}");
        let refusal = answer.split_once("HTTP/1.1 400").unwrap_or_else(|| panic!("{bad:?}: {answer}")).1;
        assert!(refusal.contains("urn:idjag-proxy:problem:malformed_request"), "{bad:?}: {refusal}");
        assert!(!refusal.contains("HTTP/1.1"), "the connection stayed open: {answer}");
        assert_eq!(world.api.arrivals(), arrived + 1, "{bad:?}");
    }
    let refused = proxy.metric("refused_total{reason=\"malformed_request\"}").await;
    assert!((refused - cases.len() as f64).abs() < 0.5, "{refused}");
}

#[tokio::test]
async fn broken_chunk_ends_the_connection_and_nothing_after_it_is_forwarded() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    for chunk in ["zz\r\nabc\r\n", "fffffffffffffffff\r\nabc", "3\r\nabcd\r\n", "3;x=\n\r\nabc\r\n", "-1\r\n\r\n"] {
        let head = "POST /chunks HTTP/1.1\r\nhost: open.test\r\ntransfer-encoding: chunked\r\n\r\n";
        let answer = raw(proxy.outbound, format!("{head}{chunk}GET http://open.test/smuggled HTTP/1.1\r\n\r\n")).await;
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{chunk:?}: {answer}");
        assert!(!answer.starts_with("HTTP/1.1 2"), "{chunk:?}: {answer}");
    }
    assert!(world.api.requests().iter().all(|seen| seen.target.path() == "/chunks"));
    assert_eq!(proxy.get("http://open.test/after").await.status, 200);
}

#[tokio::test]
async fn absolute_target_replaces_host() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let fields = [("host", "evil.test"), ("x-forwarded-host", "evil.test")];
    assert_eq!(agent::get(proxy.outbound, "http://open.test/x", &fields).await.status, 200);
    assert!(!format!("{:?}", world.api.last_request().expect("seen").headers).contains("evil"));
    let mut h2 = Http2::connect(proxy.outbound).await;
    let contradictory = http::Request::builder().uri("http://open.test/x").header("host", "api.test");
    let reply = h2.send(contradictory.body(full("")).expect("request")).await;
    reply.assert_refusal(400, "malformed_request");
    assert_eq!(world.api.arrivals(), 1);
}

#[tokio::test]
async fn oversized_requests_are_refused_with_the_problem_type_of_the_limit() {
    let world = World::with_open_api().await;
    let small = route("small", "token: none, limits: { request_body: 1KiB }", &world.api.url());
    let proxy = world.proxy_with(&(world.routes() + &small)).await;
    let long = "x".repeat(9 * 1024);
    let reply = proxy.get(&format!("http://open.test/{long}")).await;
    reply.assert_refusal(414, "uri_too_long");
    let mut huge = String::from("GET /x HTTP/1.1\r\nhost: open.test\r\n");
    for n in 0..90 {
        huge.push_str(&format!("x-{n}: {}\r\n", "y".repeat(1000)));
    }
    let answer = raw(proxy.outbound, format!("{huge}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("problem:head_too_large"), "{answer}");
    let many: String = (0..500).map(|n| format!("x-{n}: 1\r\n")).collect();
    let answer = raw(proxy.outbound, format!("GET /x HTTP/1.1\r\nhost: open.test\r\n{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("problem:head_too_large"), "{answer}");
    assert_eq!(world.api.arrivals(), 0);
    let reply = agent::post(proxy.outbound, "http://small.test/x", &[], &[b'x'; 1025]).await;
    reply.assert_refusal(413, "body_too_large");
    let chunked = format!(
        "POST http://small.test/x HTTP/1.1\r\nhost: small.test\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n800\r\n{}\r\n0\r\n\r\n",
        "x".repeat(0x800)
    );
    let answer = raw(proxy.outbound, chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let reply = agent::post(proxy.outbound, "http://small.test/x", &[], &[b'x'; 1024]).await;
    assert_eq!(reply.status, 200);
    let grpc = [("content-type", "application/grpc")];
    let reply = agent::post(proxy.outbound, "http://small.test/x", &grpc, &[b'x'; 1025]).await;
    assert_eq!(reply.header("grpc-status"), "8");
}

#[tokio::test]
async fn oversized_http2_head_is_refused_and_its_connection_stays_open() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let mut agent = Http2::connect(proxy.outbound).await;
    let ask = |fields: usize, kind: &str| {
        let request = http::Request::builder().uri("http://open.test/x").header("content-type", kind);
        let request = (0..fields).fold(request, |request, n| request.header(format!("x-{n}"), "y".repeat(1000)));
        request.body(full("")).expect("request")
    };
    // 64 KiB is the limit, and 32 bytes are added for each field (RFC 9113 §6.5.2).
    for fields in [64, 90, 120] {
        agent.send(ask(fields, "text/plain")).await.assert_refusal(431, "head_too_large");
    }
    assert_eq!(agent.send(ask(90, "application/grpc")).await.header("grpc-status"), "8");
    assert_eq!(proxy.metric("refused_total{reason=\"head_too_large\"}").await, 4.0);
    assert_eq!(world.api.arrivals(), 0);
    assert_eq!(agent.send(ask(60, "text/plain")).await.status, 200);
}

#[tokio::test]
async fn trace_and_unknown_expectations_are_refused() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    for host in ["api.test", "open.test", "nowhere.test"] {
        let url = format!("http://{host}/x");
        let trace = request(&Method::TRACE, &url, &[]).body(full("")).expect("request");
        let reply = agent::send(proxy.outbound, trace).await;
        reply.assert_refusal(405, "trace_forbidden");
        assert!(!reply.header("allow").contains("TRACE") && !reply.header("allow").is_empty());
    }
    let reply = agent::get(proxy.outbound, "http://open.test/x", &[("expect", "200-maybe")]).await;
    reply.assert_refusal(417, "expectation");
    assert_eq!((world.api.arrivals(), world.corp.arrivals()), (0, 0));
}

#[tokio::test]
async fn options_is_forwarded_until_max_forwards_is_zero() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let ask = async |method: &Method, host: &str, value: &str| {
        let url = format!("http://{host}/x");
        let request = request(method, &url, &[("max-forwards", value)]).body(full("")).expect("request");
        agent::send(proxy.outbound, request).await
    };
    let reply = ask(&Method::OPTIONS, "api.test", "0").await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0));
    assert!(reply.header("allow").contains("OPTIONS") && !reply.header("allow").contains("TRACE"));
    ask(&Method::OPTIONS, "nowhere.test", "0").await.assert_refusal(403, "no_route");
    ask(&Method::OPTIONS, "api.test", "two").await.assert_refusal(400, "malformed_request");
    ask(&Method::TRACE, "api.test", "0").await.assert_refusal(405, "trace_forbidden");
    assert_eq!((world.api.arrivals(), world.corp.arrivals()), (0, 0));
    for (method, sent, seen) in [(Method::OPTIONS, "5", "4"), (Method::OPTIONS, "1", "0"), (Method::GET, "0", "0")] {
        assert_eq!(ask(&method, "api.test", sent).await.status, 200);
        assert_eq!(world.api.last_request().expect("seen").headers["max-forwards"], seen, "{method}");
    }
}

/// Fields that only a proxy may write, or that name an identity, also in the spellings that some
/// upstreams treat as the same field: another case, or `_` for `-`.
const SPOOFED: [&str; 26] = [
    "Authorization",
    "AUTHORIZATION",
    "Proxy-Authorization",
    "Txn-Token",
    "TXN-TOKEN",
    "Txn_Token",
    "txn_token",
    "Workload-Identity-Token",
    "Workload_Identity_Token",
    "Workload-Proof-Token",
    "DPoP",
    "Signature",
    "Signature-Input",
    "signature_input",
    "X-Forwarded-For",
    "X_Forwarded_For",
    "X-Forwarded_Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Client-Cert",
    "x_forwarded_client_cert",
    "Forwarded",
    "Client-Cert",
    "Client_Cert",
    "Client-Cert-Chain",
    "X-Real-IP",
    "OAuth-Client-Attestation",
];

fn fields_with_canary(headers: &HeaderMap) -> Vec<String> {
    let canary = |value: &http::HeaderValue| value.to_str().is_ok_and(|text| text.contains("canary-spoof"));
    headers.iter().filter(|(_, value)| canary(value)).map(|(name, _)| name.to_string()).collect()
}

#[tokio::test]
async fn reserved_headers_of_the_agent_are_removed_in_every_spelling() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    for host in ["api.test", "open.test", "legacy.test"] {
        for (name, connection) in
            SPOOFED.iter().flat_map(|name| [(name, "close".to_owned()), (name, format!("close, {name}"))])
        {
            let bytes = format!(
                "GET /x HTTP/1.1\r\nhost: {host}\r\n{name}: canary-spoof\r\nx-pass: canary-spoof\r\nconnection: {connection}\r\n\r\n"
            );
            let answer = raw(proxy.outbound, bytes).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
            let seen = world.api.last_request().expect("seen");
            // That `x-pass` arrives proves that the search would find the other fields.
            assert_eq!(fields_with_canary(&seen.headers), ["x-pass"], "{host} {name} {connection}");
            assert!(
                host != "api.test" || seen.headers["authorization"].to_str().expect("text").starts_with("Bearer ey")
            );
            assert!(host != "legacy.test" || seen.headers["x-api-key"] == LEGACY_KEY);
        }
    }
}

#[tokio::test]
async fn connection_header_cannot_remove_headers_that_the_proxy_sets() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let fields = [
        ("connection", "x-mine, Authorization, X-Api-Key, host, via"),
        ("Connection", "close, keep-alive"),
        ("x-mine", "canary-spoof"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip"),
        ("x-api-key", "canary-spoof"),
    ];
    for host in ["api.test", "legacy.test"] {
        let reply = agent::get(proxy.outbound, &format!("http://{host}/x"), &fields).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen = world.api.last_request().expect("seen").headers;
        assert_eq!(fields_with_canary(&seen), Vec::<String>::new(), "{host}");
        for name in ["keep-alive", "proxy-connection", "te"] {
            assert!(!seen.contains_key(name), "{name}");
        }
        assert!(seen.contains_key("host") && seen.contains_key("via"));
        let ours = if host == "api.test" { "authorization" } else { "x-api-key" };
        assert_eq!(seen.get_all(ours).iter().count(), 1, "{host}");
    }
}

#[tokio::test]
async fn agents_credentials_pass_only_on_a_route_that_keeps_them() {
    let world = World::with_open_api().await;
    let url = world.api.url();
    let kept = route("kept", "token: none, keep_credentials: true", &url);
    let open = route("open", "token: none", &url);
    let proxy = world.proxy_with(&format!("routes:\n{kept}{open}")).await;
    for (host, passes) in [("kept.test", true), ("open.test", false)] {
        let fields = [("authorization", "Bearer the-agents-own"), ("proxy-authorization", "Basic eDp5")];
        assert_eq!(agent::get(proxy.outbound, &format!("http://{host}/x"), &fields).await.status, 200);
        let seen = world.api.last_request().expect("seen").headers;
        assert_eq!(seen.contains_key("authorization"), passes, "{host}");
        assert!(!seen.contains_key("proxy-authorization"));
    }
}

#[tokio::test]
async fn silent_and_garbage_connections_do_not_block_other_agents() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let mut silent = Vec::new();
    for n in 0..40 {
        let mut connection = Raw::connect(proxy.outbound).await;
        if n % 2 == 0 {
            connection.write("GET /x HTT").await;
        }
        silent.push(connection);
    }
    for n in 0..20u8 {
        // The response does not matter, only that the connection ends.
        let garbage: Vec<u8> = (0..2000u16).map(|at| (at as u8).wrapping_mul(31).wrapping_add(n)).collect();
        let mut connection = Raw::connect(proxy.outbound).await;
        connection.write([&garbage[..], b"\r\n\r\n"].concat()).await;
        connection.rest().await;
    }
    for _ in 0..20 {
        assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    }
    drop(silent);
    proxy.until_metric("downstream_connections{state=\"active\"}", |open| open == 0.0).await;
    assert_eq!(world.api.arrivals(), 20);
}

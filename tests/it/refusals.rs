//! Refusals without a token say who is at fault and never quote the authorization server.
use super::agent::{self, Raw, Reply};
use super::world::{Proxy, World, within};
use http::{HeaderValue, StatusCode, header};
use idjag_proxy::dev::ca::{JwtAlgorithm, JwtAuthority};
use idjag_proxy::dev::faults::Fault;
use serde_json::json;
use std::time::Duration;
use tokio::net::TcpListener;

#[tokio::test]
async fn missing_or_bad_user_token_is_refused_with_401() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let stranger = JwtAuthority::new(JwtAlgorithm::Es256, &world.clock).expect("keys");
    let hour = Duration::from_secs(3600);
    let claims = json!({ "iss": world.corp.issuer(), "sub": "user:alice", "aud": world.agent_id() });
    let good = world.id_token("alice");
    let (head, rest) = good.split_once('.').expect("a JWT");
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", rest.split('.').next().expect("claims"));
    let bad = [
        "not-a-token".to_owned(),
        "a.b.c".to_owned(),
        format!("{head}.{}.AAAA", rest.split('.').next().expect("claims")),
        unsigned,
        "x".repeat(20_000),
        world.user_token(&json!({ "sub": "user:alice", "aud": "someone-else" }), hour),
        world.user_token(&json!({ "sub": "user:alice", "iss": "https://evil.test" }), hour),
        world.user_token(&json!({ "sub": "user:alice", "exp": 1 }), hour),
        stranger.mint("JWT", hour, claims.clone()).expect("minted"),
        world.corp.keys().mint("oauth-id-jag+jwt", hour, claims).expect("minted"),
    ];
    for token in bad {
        let reply = proxy.get_for(&token, "http://user.test/x").await;
        reply.assert_refusal(401, "user_token");
        assert_ne!(reply.header("www-authenticate"), "");
        assert!(!reply.text().contains(&token) || token.len() < 6, "{}", reply.text());
    }
    proxy.get("http://user.test/x").await.assert_refusal(401, "user_token");
    let twice = [("x-user-token", good.as_str()), ("x-user-token", good.as_str())];
    let reply = agent::get(proxy.outbound, "http://user.test/x", &twice).await;
    reply.assert_refusal(400, "malformed_request");
    let grpc = [("content-type", "application/grpc"), ("x-user-token", "nonsense")];
    agent::post(proxy.outbound, "http://user.test/x", &grpc, b"").await.assert_grpc_refusal("16");
    assert_eq!((world.corp.arrivals(), world.api.arrivals()), (0, 0));
}

/// Makes a call on behalf of alice with a token that was not used before, so that no earlier
/// failure applies to it.
async fn fresh_call(world: &World, proxy: &Proxy, fields: &[(&str, &str)]) -> Reply {
    let claims = json!({ "sub": "user:alice", "nonce": format!("{:x}", fastrand::u64(..)) });
    let token = world.user_token(&claims, Duration::from_secs(600));
    let fields = [&[("x-user-token", token.as_str())], fields].concat();
    agent::get(proxy.outbound, "http://user.test/x", &fields).await
}

#[tokio::test]
async fn authorization_errors_map_to_their_status() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let oauth = |status: u16, code: &str| Fault::oauth_error(StatusCode::from_u16(status).expect("status"), code);
    let cases = [
        (oauth(400, "access_denied"), 403, "authorization_denied", "7"),
        (oauth(400, "invalid_grant"), 403, "authorization_denied", "7"),
        (oauth(401, "invalid_client"), 502, "authorization_misconfigured", "14"),
        (oauth(400, "unauthorized_client"), 502, "authorization_misconfigured", "14"),
        (oauth(400, "unsupported_grant_type"), 502, "authorization_misconfigured", "14"),
        // RFC 8693 §2.2.2: a subject token that is not accepted.
        (oauth(400, "invalid_request"), 403, "authorization_denied", "7"),
        (oauth(503, "temporarily_unavailable"), 503, "token_unavailable", "14"),
        (Fault::status(StatusCode::INTERNAL_SERVER_ERROR), 503, "token_unavailable", "14"),
        (Fault::status(StatusCode::TOO_MANY_REQUESTS), 503, "token_unavailable", "14"),
    ];
    for (fault, status, kind, code) in cases {
        world.corp.faults().token.always(fault.clone());
        let reply = fresh_call(&world, &proxy, &[]).await;
        reply.assert_refusal(status, kind);
        assert!(!reply.text().contains("scripted"), "the server's own text stays in the log: {}", reply.text());
        assert_eq!(status == 503, !reply.header("retry-after").is_empty(), "{reply:?}");
        if let (Fault::Answer { body, .. }, 403 | 502) = (&fault, status) {
            let sent: serde_json::Value = serde_json::from_slice(body).expect("JSON");
            assert_eq!(reply.json()["error"], sent["error"], "the OAuth error code");
        }
        fresh_call(&world, &proxy, &[("content-type", "application/grpc")]).await.assert_grpc_refusal(code);
        world.corp.faults().token.clear();
    }
    assert_eq!(world.api.arrivals(), 0);
}

#[tokio::test]
async fn unusable_token_responses_are_refused_and_not_forwarded() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let plain = |body: &'static str| Fault::Answer {
        status: StatusCode::OK,
        headers: vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        body: body.into(),
    };
    let evil = HeaderValue::from_static("http://evil.test/token");
    let cases = [
        Fault::Patch(json!({ "token_type": "N_A" })),
        Fault::Patch(json!({ "token_type": null })),
        Fault::Patch(json!({ "access_token": null })),
        Fault::Patch(json!({ "access_token": "" })),
        Fault::Patch(json!({ "access_token": "a b" })),
        Fault::Patch(json!({ "access_token": "a\r\nx-evil: 1" })),
        Fault::Patch(json!({ "access_token": ["a"] })),
        Fault::Patch(json!({ "expires_in": -1 })),
        plain("{"),
        plain("[]"),
        plain("\u{0}"),
        Fault::huge(11 * 1024 * 1024),
        Fault::redirect(StatusCode::TEMPORARY_REDIRECT, evil),
    ];
    for fault in cases {
        world.corp.faults().token.always(fault.clone());
        let reply = fresh_call(&world, &proxy, &[]).await;
        assert!(matches!(reply.status.as_u16(), 502 | 503), "{fault:.200?}: {} {}", reply.status, reply.text());
        world.corp.faults().token.clear();
    }
    assert_eq!(world.api.arrivals(), 0);
    assert_eq!(fresh_call(&world, &proxy, &[]).await.status, 200);
}

#[tokio::test]
async fn retry_after_of_the_authorization_server_is_bounded() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let wait = |text: &'static str| {
        let field = (header::RETRY_AFTER, HeaderValue::from_static(text));
        Fault::Answer { status: StatusCode::SERVICE_UNAVAILABLE, headers: vec![field], body: "".into() }
    };
    world.corp.faults().token.next_many(5, &wait("17"));
    let reply = proxy.get("http://api.test/x").await;
    reply.assert_refusal(503, "token_unavailable");
    assert_eq!(reply.header("retry-after"), "17");
    let asked = world.corp.arrivals();
    for _ in 0..5 {
        proxy.get("http://api.test/x").await.assert_refusal(503, "token_unavailable");
    }
    assert_eq!(world.corp.arrivals(), asked, "the proxy honours Retry-After itself");
    world.corp.faults().token.clear();
    world.corp.faults().token.next_many(5, &wait("99999999"));
    let reply = fresh_call(&world, &proxy, &[]).await;
    let seconds: u64 = reply.header("retry-after").parse().expect("seconds");
    assert!(seconds <= 3600, "{seconds}");
}

#[tokio::test]
async fn malformed_grpc_request_ends_its_connection() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let twice = "POST http://user.test/x HTTP/1.1\r\nhost: user.test\r\ncontent-type: application/grpc\r\n\
                 x-user-token: a\r\nx-user-token: b\r\ncontent-length: 0\r\n\r\n";
    let answer = agent::raw(proxy.outbound, twice).await.to_ascii_lowercase();
    assert!(answer.contains("grpc-status: 3\r\n") && answer.contains("connection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn unrequested_protocol_switch_is_counted_as_refused() {
    let world = World::with_open_api().await;
    let upstream = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", upstream.local_addr().expect("an address"));
    let routes =
        format!("routes:\n  - {{ name: odd, match: {{ host: odd.test }}, token: none, upstream: {{ url: {url} }} }}\n");
    let proxy = world.proxy_with(&routes).await;
    let switch = async {
        let (stream, _) = within(upstream.accept(), "a connection").await.expect("accepted");
        let mut raw = Raw::over(stream);
        raw.head().await;
        raw.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: odd\r\n\r\n").await;
        raw
    };
    let (reply, _open) = tokio::join!(proxy.get("http://odd.test/x"), switch);
    reply.assert_refusal(502, "upstream_broken");
    assert_eq!(proxy.metric("upstream_failures_total{reason=\"upstream_broken\"}").await, 1.0);
    assert_eq!(proxy.metric("requests_total{class=\"5xx\",route=\"odd\"}").await, 1.0);
}

//! Tokens as the agent and the authorization server see them: how many are fetched, whose they are, and what failures become.
use super::agent::{self, Http2, Raw, Reply, full, request};
use super::rig::{Proxy, World, until, within};
use futures_util::future::join_all;
use http::{HeaderValue, Method, StatusCode, header};
use idjag_proxy::dev::authorization_server::Leg;
use idjag_proxy::dev::ca::{JwtAlgorithm, JwtAuthority, WebCa};
use idjag_proxy::dev::faults::{Fault, Gate};
use idjag_proxy::dev::http::ServerTls;
use idjag_proxy::dev::resource_server::ResourceServer;
use serde_json::json;
use std::time::Duration;

/// The credential that the upstream saw last.
fn credential(world: &World) -> String {
    let seen = world.api.last_request().expect("seen");
    seen.headers[header::AUTHORIZATION].to_str().expect("text").to_owned()
}

#[tokio::test]
async fn a_thousand_cold_requests_are_one_exchange() {
    let world = World::open().await;
    // HTTP/2 on both sides, so that the test does not need thousands of file descriptors.
    let ca = WebCa::new(&world.clock).expect("authority");
    world.write("ca.pem", &ca.certificate_pem());
    let tls = ServerTls::new(ca.server_certificate(&["127.0.0.1"]).expect("certificate"));
    let upstream = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let proxy = world
        .proxy_with(&format!(
            "routes:\n  - {{ match: {{ host: api.test }}, token: itself, \
             upstream: {{ url: {}, tls: {{ server: {{ ca_file: ca.pem }} }} }} }}\n",
            upstream.url()
        ))
        .await;
    let gate = Gate::default();
    world.corp.faults().token.next(Fault::Hold(gate.clone()));
    let mut agents = join_all((0..10).map(|_| Http2::connect(proxy.outbound))).await;
    let requests = agents.iter_mut().flat_map(|agent| {
        (0..100).map(|_| {
            let request = http::Request::builder().uri("http://api.test/x").body(full("")).expect("request");
            agent.sender.send_request(request)
        })
    });
    let requests: Vec<_> = requests.collect();
    let answers = join_all(requests);
    tokio::pin!(answers);
    let all_wait = until(async || proxy.status().await["requests"] == 1000, "1,000 requests in flight");
    tokio::select! {
        () = all_wait => {}
        _ = &mut answers => panic!("answered without a token"),
    }
    gate.open();
    for answer in within(answers, "1,000 answers").await {
        assert_eq!(answer.expect("an answer").status(), 200);
    }
    assert_eq!(world.corp.arrivals(), 1);
    assert_eq!(upstream.arrivals(), 1000);
}

#[tokio::test]
async fn a_caller_that_hangs_up_cancels_nothing() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let gate = Gate::default();
    world.corp.faults().token.next(Fault::Hold(gate.clone()));
    let mut leader = Raw::connect(proxy.outbound).await;
    leader.write("GET http://api.test/x HTTP/1.1\r\nhost: api.test\r\n\r\n").await;
    within(gate.reached_by(1), "the exchange").await;
    drop(leader);
    proxy.until_metric("requests_total{class=\"aborted\",route=\"api\"}", |count| count == 1.0).await;
    let follower = proxy.get("http://api.test/x");
    let open = async {
        until(async || proxy.status().await["requests"] == 1, "the follower waits").await;
        gate.open();
    };
    let (reply, ()) = tokio::join!(follower, open);
    assert_eq!(reply.status, 200);
    assert_eq!(world.corp.arrivals(), 1);
    assert_eq!(world.api.arrivals(), 1, "nothing is sent for who has left");
}

#[tokio::test]
async fn a_valid_token_outlives_its_authorization_server() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    world.corp.stop().await;
    // Past every time at which it would have been refreshed; five minutes is its life.
    for _ in 0..5 {
        world.clock.shift(54);
        for _ in 0..10 {
            assert_eq!(proxy.get("http://api.test/x").await.status, 200);
        }
    }
    world.clock.shift(60);
    let reply = proxy.get("http://api.test/x").await;
    reply.is_refusal(503, "token_unavailable");
    world.corp.restart().await.expect("restarted");
    until(async || proxy.get("http://api.test/x").await.status == 200, "recovery by itself").await;
}

#[tokio::test]
async fn an_authorization_server_that_is_down_is_a_503_that_everyone_shares() {
    let world = World::start().await;
    world.corp.faults().token.always(Fault::HangUp);
    let proxy = world.proxy().await;
    let replies = join_all((0..50).map(|_| proxy.get("http://api.test/x"))).await;
    for reply in &replies {
        reply.is_refusal(503, "token_unavailable");
        let seconds: u64 = reply.header("retry-after").parse().expect("seconds");
        assert!((1..=60).contains(&seconds), "{seconds}");
    }
    let asked = world.corp.arrivals();
    assert!(asked <= 4, "{asked} requests for one failure");
    let grpc = agent::post(proxy.outbound, "http://api.test/x", &[("content-type", "application/grpc")], b"").await;
    is_grpc_refusal(&grpc, "14");
    world.corp.faults().token.clear();
    until(async || proxy.get("http://api.test/x").await.status == 200, "recovery by itself").await;
    assert_eq!(world.api.arrivals(), 1, "nothing went out unauthenticated");
}

#[tokio::test]
async fn a_silent_authorization_server_is_a_503_within_the_token_timeout_and_its_late_answer_counts() {
    let world = World::start().await;
    let gate = Gate::default();
    world.corp.faults().token.next(Fault::Hold(gate.clone()));
    let routes = format!("token_timeout: 100ms\n{}", world.routes());
    let proxy = world.proxy_with(&routes).await;
    let reply = proxy.get("http://api.test/x").await;
    reply.is_refusal(503, "token_unavailable");
    assert_ne!(reply.header("retry-after"), "");
    gate.open();
    until(async || proxy.get("http://api.test/x").await.status == 200, "the late token").await;
    assert_eq!(world.corp.arrivals(), 1);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_and_the_request_replayed_once() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    let first = credential(&world);
    world.api.faults().next(Fault::invalid_token());
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    assert_ne!(credential(&world), first);
    assert_eq!(world.corp.count(Leg::ClientCredentials), 2);
    assert_eq!(world.api.arrivals(), 3);
}

#[tokio::test]
async fn an_upstream_that_always_refuses_makes_no_loop() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    world.api.faults().always(Fault::invalid_token());
    for _ in 0..30 {
        let reply = proxy.get("http://api.test/x").await;
        assert_eq!(reply.status, 401, "the upstream's own answer");
        assert!(reply.header("www-authenticate").contains("realm=\"dev\""), "{reply:?}");
    }
    let replies = join_all((0..30).map(|_| proxy.get("http://api.test/x"))).await;
    assert!(replies.iter().all(|reply| reply.status == 401));
    assert!(world.corp.arrivals() <= 3, "{} exchanges", world.corp.arrivals());
    assert!(world.api.arrivals() <= 63, "{} requests", world.api.arrivals());
    world.api.faults().clear();
    until(async || proxy.get("http://api.test/x").await.status == 200, "recovery by itself").await;
}

#[tokio::test]
async fn other_refusals_of_the_upstream_are_the_agents_business() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let scope = HeaderValue::from_static("Bearer error=\"insufficient_scope\"");
    for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
        world.api.faults().next(Fault::status(status).header(header::WWW_AUTHENTICATE, scope.clone()));
        assert_eq!(proxy.get("http://api.test/x").await.status, status);
    }
    assert_eq!(world.corp.arrivals(), 1);
    assert_eq!(world.api.arrivals(), 2);
}

#[tokio::test]
async fn a_body_is_replayed_only_where_the_route_asks_for_it() {
    let world = World::start().await;
    let url = world.api.url();
    let proxy = world
        .proxy_with(&format!(
            "routes:
  - {{ name: once, match: {{ host: once.test }}, token: itself, upstream: {{ url: {url} }} }}
  - {{ name: again, match: {{ host: again.test }}, token: itself, upstream: {{ url: {url} }}, replay: {{ max_body: 1KiB }} }}
"
        ))
        .await;
    assert_eq!(proxy.get("http://once.test/x").await.status, 200);
    for (host, size, status, arrivals) in
        [("once.test", 5, 401, 1), ("again.test", 1024, 200, 2), ("again.test", 1025, 401, 1)]
    {
        // A token may be replaced once in a while only: a new one for each case.
        world.clock.shift(301);
        assert_eq!(proxy.get(&format!("http://{host}/x")).await.status, 200);
        world.api.faults().next(Fault::invalid_token());
        let before = world.api.arrivals();
        let body = vec![b'b'; size];
        let reply = agent::post(proxy.outbound, &format!("http://{host}/x"), &[], &body).await;
        assert_eq!((reply.status.as_u16(), world.api.arrivals() - before), (status, arrivals), "{host} {size}");
        if status == 200 {
            assert_eq!(reply.json()["body"]["length"], 1024, "the whole body once more");
        }
        world.api.faults().clear();
        assert_eq!(proxy.get(&format!("http://{host}/x")).await.status, 200, "the dead token is not used again");
    }
}

#[tokio::test]
async fn redirects_go_to_the_agent_and_no_token_follows() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    for status in [301, 302, 303, 307, 308] {
        let location = HeaderValue::from_str(&format!("http://open.test/{status}")).expect("value");
        let status = StatusCode::from_u16(status).expect("status");
        world.api.faults().next(Fault::redirect(status, location.clone()));
        let before = world.api.arrivals();
        let reply = proxy.get("http://api.test/x").await;
        assert_eq!((reply.status, &reply.headers[header::LOCATION]), (status, &location));
        assert_eq!(world.api.arrivals() - before, 1);
    }
}

#[tokio::test]
async fn users_never_share_a_token() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let users: Vec<(&str, String)> = ["alice", "bob"].map(|user| (user, world.id_token(user))).into();
    for _ in 0..3 {
        let calls = (0..20).map(|n| {
            let (user, token) = &users[n % 2];
            let proxy = &proxy;
            async move { (*user, proxy.get_for(token, "http://user.test/x").await) }
        });
        for (user, reply) in join_all(calls).await {
            assert_eq!(reply.json()["claims"]["sub"], format!("user:{user}"));
            assert_eq!(reply.json()["claims"]["act"]["sub"], world.agent_id(), "by this agent");
        }
    }
    assert_eq!(world.corp.count(Leg::SelfIssued), 2);
    // Another token of the same user may differ in anything that a server decides on.
    let other = world.user_token(&json!({ "sub": "user:alice", "acr": "low" }), Duration::from_secs(600));
    assert_eq!(proxy.get_for(&other, "http://user.test/x").await.status, 200);
    assert_eq!(world.corp.count(Leg::SelfIssued), 3);
    let seen = world.api.requests();
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("x-user-token")));
    let bearer = format!("Bearer {other}");
    assert_eq!(agent::get(proxy.outbound, "http://user.test/x", &[("x-user-token", &bearer)]).await.status, 200);
    assert_eq!(world.corp.count(Leg::SelfIssued), 3, "the scheme in front is no part of the token");
}

#[tokio::test]
async fn a_users_token_reaches_no_upstream_on_any_route() {
    let world = World::open().await;
    let proxy = world.proxy().await;
    let token = world.id_token("alice");
    for host in ["api.test", "user.test", "open.test", "legacy.test"] {
        assert_eq!(proxy.get_for(&token, &format!("http://{host}/x")).await.status, 200);
        let seen = format!("{:?}", world.api.last_request().expect("seen").headers);
        assert!(!seen.contains(&token), "{host}: {seen}");
    }
}

#[tokio::test]
async fn a_users_token_that_is_missing_or_bad_is_a_401_of_ours() {
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
        reply.is_refusal(401, "user_token");
        assert_ne!(reply.header("www-authenticate"), "");
        assert!(!reply.text().contains(&token) || token.len() < 6, "{}", reply.text());
    }
    proxy.get("http://user.test/x").await.is_refusal(401, "user_token");
    let twice = [("x-user-token", good.as_str()), ("x-user-token", good.as_str())];
    let reply = agent::get(proxy.outbound, "http://user.test/x", &twice).await;
    reply.is_refusal(400, "malformed_request");
    let grpc = [("content-type", "application/grpc"), ("x-user-token", "nonsense")];
    is_grpc_refusal(&agent::post(proxy.outbound, "http://user.test/x", &grpc, b"").await, "16");
    assert_eq!((world.corp.arrivals(), world.api.arrivals()), (0, 0));
}

#[tokio::test]
async fn a_delegated_token_ends_with_the_users() {
    let world = World::start().await;
    world.corp.policy(|policy| policy.access_token_ttl = Duration::from_secs(7200));
    let proxy = world.proxy().await;
    let token = world.user_token(&json!({ "sub": "user:alice" }), Duration::from_secs(600));
    assert_eq!(proxy.get_for(&token, "http://user.test/x").await.status, 200);
    world.clock.shift(700);
    world.workload_api.rotate().expect("rotated");
    proxy.get_for(&token, "http://user.test/x").await.is_refusal(401, "user_token");
    assert_eq!(world.api.arrivals(), 1);
}

/// A call in alice's name with a token that nobody has used, so that no earlier failure answers for it.
async fn fresh_call(world: &World, proxy: &Proxy, fields: &[(&str, &str)]) -> Reply {
    let claims = json!({ "sub": "user:alice", "nonce": format!("{:x}", fastrand::u64(..)) });
    let token = world.user_token(&claims, Duration::from_secs(600));
    let fields = [&[("x-user-token", token.as_str())], fields].concat();
    agent::get(proxy.outbound, "http://user.test/x", &fields).await
}

fn is_grpc_refusal(reply: &Reply, code: &str) {
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, code), "{reply:?}");
    assert_eq!(reply.header("content-type"), "application/grpc");
    assert_ne!(reply.header("grpc-message"), "");
    assert!(reply.body.is_empty() && reply.trailers.is_empty(), "trailers only");
}

#[tokio::test]
async fn what_the_authorization_server_says_becomes_the_right_status() {
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
        reply.is_refusal(status, kind);
        assert!(!reply.text().contains("scripted"), "the server's own text stays in the log: {}", reply.text());
        assert_eq!(status == 503, !reply.header("retry-after").is_empty(), "{reply:?}");
        if let (Fault::Answer { body, .. }, 403 | 502) = (&fault, status) {
            let sent: serde_json::Value = serde_json::from_slice(body).expect("JSON");
            assert_eq!(reply.json()["error"], sent["error"], "the OAuth error code");
        }
        is_grpc_refusal(&fresh_call(&world, &proxy, &[("content-type", "application/grpc")]).await, code);
        world.corp.faults().token.clear();
    }
    assert_eq!(world.api.arrivals(), 0);
}

#[tokio::test]
async fn answers_that_are_no_token_are_refused_and_never_sent_on() {
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
async fn retry_after_of_the_authorization_server_is_honoured_and_bounded() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let wait = |text: &'static str| {
        let field = (header::RETRY_AFTER, HeaderValue::from_static(text));
        Fault::Answer { status: StatusCode::SERVICE_UNAVAILABLE, headers: vec![field], body: "".into() }
    };
    world.corp.faults().token.next_many(5, &wait("17"));
    let reply = proxy.get("http://api.test/x").await;
    reply.is_refusal(503, "token_unavailable");
    assert_eq!(reply.header("retry-after"), "17");
    let asked = world.corp.arrivals();
    for _ in 0..5 {
        proxy.get("http://api.test/x").await.is_refusal(503, "token_unavailable");
    }
    assert_eq!(world.corp.arrivals(), asked, "and kept by ourselves");
    world.corp.faults().token.clear();
    world.corp.faults().token.next_many(5, &wait("99999999"));
    let reply = fresh_call(&world, &proxy, &[]).await;
    let seconds: u64 = reply.header("retry-after").parse().expect("seconds");
    assert!(seconds <= 3600, "{seconds}");
}

#[tokio::test]
async fn a_spoofed_credential_never_replaces_the_token() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let fields = [("authorization", "Bearer stolen"), ("connection", "authorization, close")];
    let spoofed = request(&Method::GET, "http://api.test/x", &fields).body(full("")).expect("request");
    assert_eq!(agent::send(proxy.outbound, spoofed).await.status, 200);
    let values: Vec<_> =
        world.api.last_request().expect("seen").headers.get_all("authorization").iter().cloned().collect();
    assert_eq!(values.len(), 1);
    assert!(!values[0].to_str().expect("text").contains("stolen"));
}

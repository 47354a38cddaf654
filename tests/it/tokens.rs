//! Tokens as the agent and the authorization server see them: how many are fetched, for whom, and
//! what failures lead to.
use super::agent::{self, Http2, Raw, full, request};
use super::world::{World, route, tls_route, until, within};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use http::{HeaderValue, Method, StatusCode, header};
use idjag_proxy::dev::authorization_server::Leg;
use idjag_proxy::dev::ca::WebCa;
use idjag_proxy::dev::faults::{Fault, Gate};
use idjag_proxy::dev::http::ServerTls;
use idjag_proxy::dev::resource_server::ResourceServer;
use serde_json::json;
use std::time::Duration;

/// The credential of the last request that reached the upstream.
fn credential(world: &World) -> String {
    let seen = world.api.last_request().expect("seen");
    seen.headers[header::AUTHORIZATION].to_str().expect("text").to_owned()
}

#[tokio::test]
async fn concurrent_cold_requests_cause_one_exchange() {
    let world = World::with_open_api().await;
    // HTTP/2 on both sides, so that the test does not need thousands of file descriptors.
    let ca = WebCa::new(&world.clock).expect("authority");
    world.write("ca.pem", &ca.certificate_pem());
    let tls = ServerTls::new(ca.server_certificate(&["127.0.0.1"]).expect("certificate"));
    let upstream = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let route = tls_route("api", "token: itself", &upstream.url());
    let proxy = world.proxy_with(&format!("routes:\n{route}")).await;
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
async fn caller_that_hangs_up_does_not_cancel_the_exchange() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let gate = Gate::default();
    world.corp.faults().token.next(Fault::Hold(gate.clone()));
    let mut leader = Raw::connect(proxy.outbound).await;
    leader.write("GET http://api.test/x HTTP/1.1\r\nhost: api.test\r\n\r\n").await;
    within(gate.wait_for_arrivals(1), "the exchange").await;
    drop(leader);
    proxy.until_metric("ended_total{by=\"agent\",route=\"api\"}", |count| count == 1.0).await;
    let follower = proxy.get("http://api.test/x");
    let open = async {
        until(async || proxy.status().await["requests"] == 1, "the follower waits").await;
        gate.open();
    };
    let (reply, ()) = tokio::join!(follower, open);
    assert_eq!(reply.status, 200);
    assert_eq!(world.corp.arrivals(), 1);
    assert_eq!(world.api.arrivals(), 1, "nothing is sent for a caller that has hung up");
}

#[tokio::test]
async fn unknown_key_does_not_delay_other_users_while_the_key_set_hangs() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let (alice, bob) = (world.id_token("alice"), world.id_token("bob"));
    assert_eq!(proxy.get_for(&alice, "http://user.test/x").await.status, 200);
    let gate = Gate::default();
    world.corp.faults().jwks.always(Fault::Hold(gate.clone()));
    let header = URL_SAFE_NO_PAD.encode(json!({ "alg": "ES256", "typ": "JWT", "kid": "unknown" }).to_string());
    let unknown = format!("{header}.{}", alice.split_once('.').expect("three parts").1);
    let stranger = proxy.get_for(&unknown, "http://user.test/x");
    let others = async {
        within(gate.wait_for_arrivals(1), "the request for newer keys").await;
        proxy.get_for(&bob, "http://user.test/x").await
    };
    tokio::select! {
        biased;
        _ = stranger => panic!("the key set is not there yet"),
        reply = others => assert_eq!(reply.status, 200),
    }
    gate.open();
}

#[tokio::test]
async fn valid_token_is_used_while_its_authorization_server_is_down() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    world.corp.stop().await;
    // Later than any time at which it would have been refreshed; its lifetime is five minutes.
    for _ in 0..5 {
        world.clock.shift(54);
        for _ in 0..10 {
            assert_eq!(proxy.get("http://api.test/x").await.status, 200);
        }
    }
    world.clock.shift(60);
    let reply = proxy.get("http://api.test/x").await;
    reply.assert_refusal(503, "token_unavailable");
    world.corp.restart().await.expect("restarted");
    until(async || proxy.get("http://api.test/x").await.status == 200, "recovery by itself").await;
}

#[tokio::test]
async fn concurrent_requests_share_one_503_while_the_authorization_server_is_down() {
    let world = World::start().await;
    world.corp.faults().token.always(Fault::HangUp);
    let proxy = world.proxy().await;
    let replies = join_all((0..50).map(|_| proxy.get("http://api.test/x"))).await;
    for reply in &replies {
        reply.assert_refusal(503, "token_unavailable");
        let seconds: u64 = reply.header("retry-after").parse().expect("seconds");
        assert!((1..=60).contains(&seconds), "{seconds}");
    }
    let asked = world.corp.arrivals();
    assert!(asked <= 4, "{asked} requests for one failure");
    let grpc = agent::post(proxy.outbound, "http://api.test/x", &[("content-type", "application/grpc")], b"").await;
    grpc.assert_grpc_refusal("14");
    world.corp.faults().token.clear();
    until(async || proxy.get("http://api.test/x").await.status == 200, "recovery by itself").await;
    assert_eq!(world.api.arrivals(), 1, "no request was sent without a token");
}

#[tokio::test]
async fn silent_authorization_server_is_answered_with_503_and_its_late_token_is_used() {
    let world = World::start().await;
    let gate = Gate::default();
    world.corp.faults().token.next(Fault::Hold(gate.clone()));
    let routes = format!("token_timeout: 100ms\n{}", world.routes());
    let proxy = world.proxy_with(&routes).await;
    let reply = proxy.get("http://api.test/x").await;
    reply.assert_refusal(503, "token_unavailable");
    assert_ne!(reply.header("retry-after"), "");
    gate.open();
    until(async || proxy.get("http://api.test/x").await.status == 200, "the late token").await;
    assert_eq!(world.corp.arrivals(), 1);
}

#[tokio::test]
async fn refused_token_is_replaced_and_the_request_replayed_once() {
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
async fn upstream_that_always_refuses_causes_few_exchanges() {
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
async fn other_refusals_of_the_upstream_reach_the_agent() {
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
async fn body_is_replayed_only_if_the_route_allows_it() {
    let world = World::start().await;
    let url = world.api.url();
    let proxy = world
        .proxy_with(&format!(
            "routes:\n{}{}",
            route("once", "token: itself", &url),
            route("again", "token: itself, replay: { max_body: 1KiB }", &url)
        ))
        .await;
    assert_eq!(proxy.get("http://once.test/x").await.status, 200);
    for (host, size, status, arrivals) in
        [("once.test", 5, 401, 1), ("again.test", 1024, 200, 2), ("again.test", 1025, 401, 1)]
    {
        // A token is replaced at most once per interval, so each case has a token of its own: the
        // one before it expires after 300 s.
        world.clock.shift(301);
        assert_eq!(proxy.get(&format!("http://{host}/x")).await.status, 200);
        world.api.faults().next(Fault::invalid_token());
        let before = world.api.arrivals();
        let body = vec![b'b'; size];
        let reply = agent::post(proxy.outbound, &format!("http://{host}/x"), &[], &body).await;
        assert_eq!((reply.status.as_u16(), world.api.arrivals() - before), (status, arrivals), "{host} {size}");
        if status == 200 {
            assert_eq!(reply.json()["body"]["length"], 1024, "the whole body is sent again");
        }
        world.api.faults().clear();
        assert_eq!(proxy.get(&format!("http://{host}/x")).await.status, 200, "the refused token is not used again");
    }
}

#[tokio::test]
async fn refusal_of_a_request_that_cannot_be_replayed_does_not_wait() {
    let world = World::start().await;
    let proxy = world.proxy_with(&format!("token_timeout: 10m\n{}", world.routes())).await;
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    let gate = Gate::default();
    world.corp.faults().token.next(Fault::Hold(gate.clone()));
    world.api.faults().next(Fault::invalid_token());
    let refused = agent::post(proxy.outbound, "http://api.test/x", &[], b"once").await;
    assert_eq!(refused.status, 401, "while the authorization server is silent");
    within(gate.wait_for_arrivals(1), "the other token is asked for").await;
    gate.open();
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    assert_eq!(world.corp.count(Leg::ClientCredentials), 2);
}

#[tokio::test]
async fn redirect_reaches_the_agent_and_is_not_followed() {
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
    // Two tokens of one user may differ in anything that a server decides on.
    let other = world.user_token(&json!({ "sub": "user:alice", "acr": "low" }), Duration::from_secs(600));
    assert_eq!(proxy.get_for(&other, "http://user.test/x").await.status, 200);
    assert_eq!(world.corp.count(Leg::SelfIssued), 3);
    let seen = world.api.requests();
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("x-user-token")));
    let bearer = format!("Bearer {other}");
    assert_eq!(agent::get(proxy.outbound, "http://user.test/x", &[("x-user-token", &bearer)]).await.status, 200);
    assert_eq!(world.corp.count(Leg::SelfIssued), 3, "the scheme is not part of the token");
}

#[tokio::test]
async fn user_token_reaches_no_upstream_on_any_route() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let token = world.id_token("alice");
    for host in ["api.test", "user.test", "open.test", "legacy.test"] {
        assert_eq!(proxy.get_for(&token, &format!("http://{host}/x")).await.status, 200);
        let seen = format!("{:?}", world.api.last_request().expect("seen").headers);
        assert!(!seen.contains(&token), "{host}: {seen}");
    }
}

#[tokio::test]
async fn delegated_token_expires_with_the_user_token() {
    let world = World::start().await;
    world.corp.policy(|policy| policy.access_token_ttl = Duration::from_secs(7200));
    let proxy = world.proxy().await;
    let token = world.user_token(&json!({ "sub": "user:alice" }), Duration::from_secs(600));
    assert_eq!(proxy.get_for(&token, "http://user.test/x").await.status, 200);
    world.clock.shift(700);
    world.workload_api.rotate().expect("rotated");
    proxy.get_for(&token, "http://user.test/x").await.assert_refusal(401, "user_token");
    assert_eq!(world.api.arrivals(), 1);
}

#[tokio::test]
async fn spoofed_credential_never_replaces_the_token() {
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

#[tokio::test]
async fn refused_delegated_token_is_not_used_again_by_any_worker() {
    let world = World::start().await;
    let (api, routes) = world.http2_api().await;
    let proxy = world.proxy_with(&routes).await;
    let [mut one, mut other] = proxy.each_worker(&api).await;
    let tokens = ["alice", "bob"].map(|user| world.id_token(user));
    let [alice, bob] = tokens.each_ref().map(|token| [("x-user-token", token.as_str())]);
    let sent = || {
        let seen = api.last_request().expect("seen");
        seen.headers[header::AUTHORIZATION].to_str().expect("text").to_owned()
    };
    let mut bobs = String::new();
    for agent in [&mut one, &mut other] {
        assert_eq!(agent.get("http://user.test/x", &alice).await.status, 200);
        assert_eq!(agent.get("http://user.test/x", &bob).await.status, 200);
        bobs = sent();
    }
    one.get("http://user.test/x", &alice).await;
    let first = sent();
    assert_eq!(world.corp.count(Leg::SelfIssued), 2);

    api.faults().next(Fault::invalid_token());
    let arrivals = api.arrivals();
    assert_eq!(one.get("http://user.test/x", &alice).await.status, 200);
    assert_eq!(api.arrivals() - arrivals, 2, "the request is sent once more");
    let second = sent();
    assert_ne!(second, first);
    for agent in [&mut other, &mut one] {
        assert_eq!(agent.get("http://user.test/x", &alice).await.status, 200);
        assert_eq!(sent(), second);
        assert_eq!(agent.get("http://user.test/x", &bob).await.status, 200);
        assert_eq!(sent(), bobs, "bob's token was not refused");
    }
    assert_eq!(world.corp.count(Leg::SelfIssued), 3);

    // A refused token may be replaced again after ten seconds, but another one cannot be obtained.
    // The refused one is not used in its place.
    world.clock.shift(11);
    world.corp.faults().token.always(Fault::HangUp);
    api.faults().next(Fault::invalid_token());
    assert_eq!(one.get("http://user.test/x", &alice).await.status, 401, "the upstream's own answer");
    let arrivals = api.arrivals();
    for agent in [&mut other, &mut one] {
        agent.get("http://user.test/x", &alice).await.assert_refusal(503, "token_unavailable");
    }
    assert_eq!(api.arrivals(), arrivals);
}

#[tokio::test]
async fn upstream_that_always_refuses_users_causes_few_exchanges() {
    let world = World::start().await;
    let (api, routes) = world.http2_api().await;
    let proxy = world.proxy_with(&routes).await;
    let mut agents = proxy.each_worker(&api).await;
    let alice = world.id_token("alice");
    let fields = [("x-user-token", alice.as_str())];
    api.faults().always(Fault::invalid_token());
    let before = api.arrivals();
    for _ in 0..30 {
        for agent in &mut agents {
            let reply = agent.get("http://user.test/x", &fields).await;
            assert_eq!(reply.status, 401, "the upstream's own answer");
            assert!(reply.header("www-authenticate").contains("realm=\"dev\""), "{reply:?}");
        }
    }
    let replies = join_all((0..60).map(|_| proxy.get_for(&alice, "http://user.test/x"))).await;
    assert!(replies.iter().all(|reply| reply.status == 401));
    // One token is minted for the first request, and at most one more in ten seconds.
    let minted = world.corp.arrivals();
    assert!(minted <= 9, "{minted} exchanges for 120 requests");
    let arrived = api.arrivals() - before;
    assert!(arrived <= 120 + 60 * minted, "{arrived} requests");
    api.faults().clear();
    until(async || proxy.get_for(&alice, "http://user.test/x").await.status == 200, "recovery by itself").await;
}

#[tokio::test]
async fn expired_token_is_dropped_and_not_counted() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    assert_eq!(proxy.get_for(&world.id_token("alice"), "http://user.test/x").await.status, 200);
    let (entries, bytes) = ("token_cache_entries{tier=\"access\"}", "token_cache_bytes{tier=\"access\"}");
    proxy.until_metric(entries, |count| count == 2.0).await;
    assert!(proxy.metric(bytes).await > 500.0);
    let expiry = "token_expiry_timestamp_seconds{route=\"api\",server=\"corp\"}";
    let ends = proxy.metric(expiry).await;
    // No other token can be obtained once this one has expired, after 300 s.
    world.corp.stop().await;
    world.clock.shift(400);
    proxy.until_metric(entries, |count| count == 0.0).await;
    assert_eq!(proxy.metric(bytes).await, 0.0);
    assert!(ends > 0.0 && proxy.metric(expiry).await == ends, "the expiry stays in the metrics for the alert");
    let status = proxy.status().await;
    let routes = status["routes"].as_array().expect("a list");
    assert!(routes.iter().all(|route| route["token"].is_null()), "{status}");
}

//! The proxy as its operators see it: probes, identity, reload, drain, metrics.
use super::agent::{self, Http1, Raw, full, request};
use super::frames::{Frames, GOAWAY, HEADERS, get};
use super::world::{Proxy, RESOURCE, World, until, within};
use http::Method;
use idjag_proxy::dev::authorization_server::{AuthorizationServer, Setup};
use idjag_proxy::dev::ca::SvidRequest;
use idjag_proxy::dev::faults::{Fault, Gate};
use idjag_proxy::dev::http::{ClientCertificates, ServerTls};
use idjag_proxy::dev::resource_server::ResourceServer;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[tokio::test]
async fn proxy_without_identity_is_live_but_not_ready_and_says_why() {
    let world = World::with_open_api().await;
    world.workload_api.withdraw();
    let proxy = world.start_proxy(&world.routes()).await;
    for probe in ["/readyz", "/startupz"] {
        let reply = proxy.probe(probe).await;
        assert_eq!(reply.status, 503, "{probe}");
        assert!(reply.text().to_lowercase().contains("identity"), "{probe}: {}", reply.text());
    }
    assert_eq!(proxy.probe("/livez").await.status, 200);
    assert_eq!(proxy.metric("ready").await, 0.0);
    for host in ["api.test", "legacy.test"] {
        let reply = proxy.get(&format!("http://{host}/x")).await;
        reply.assert_refusal(503, "identity_missing");
        assert_ne!(reply.header("retry-after"), "");
    }
    assert_eq!(proxy.get("http://open.test/x").await.status, 200, "routes that need no identity keep working");
    world.workload_api.restore();
    proxy.until_ready().await;
    assert_eq!(proxy.probe("/startupz").await.status, 200);
    assert_eq!(proxy.metric("ready").await, 1.0);
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
}

#[tokio::test]
async fn readiness_waits_for_eager_tokens_but_startup_does_not() {
    let world = World::with_open_api().await;
    let gate = Gate::default();
    world.corp.faults().token.next(Fault::Hold(gate.clone()));
    let routes = format!(
        "routes:\n  - {{ name: early, match: {{ host: api.test }}, upstream: {{ url: {} }}, \
         token: {{ flow: {{ client_credentials: {{ server: corp }} }}, scopes: [read], eager: true }} }}\n",
        world.api.url()
    );
    let proxy = world.start_proxy(&routes).await;
    within(gate.wait_for_arrivals(1), "the exchange").await;
    until(async || proxy.probe("/startupz").await.status == 200, "started").await;
    let reply = proxy.probe("/readyz").await;
    assert_eq!(reply.status, 503);
    assert!(reply.text().contains("early"), "the body names what it is waiting for: {}", reply.text());
    gate.open();
    proxy.until_ready().await;
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    assert_eq!(world.corp.arrivals(), 1);
}

#[tokio::test]
async fn expired_svid_stops_injecting_routes_until_the_next_svid() {
    let world = World::with_open_api().await;
    world.corp.policy(|policy| policy.access_token_ttl = Duration::from_secs(24 * 3600));
    let proxy = world.proxy().await;
    let token = world.user_token(&serde_json::json!({ "sub": "user:alice" }), Duration::from_secs(24 * 3600));
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    assert_eq!(proxy.get_for(&token, "http://user.test/x").await.status, 200);
    world.workload_api.hang();
    // The SVID is valid for an hour.
    world.clock.shift(3700);
    let before = (world.api.arrivals(), world.corp.arrivals());
    for host in ["api.test", "user.test", "legacy.test"] {
        let reply = proxy.get_for(&token, &format!("http://{host}/x")).await;
        reply.assert_refusal(503, "identity_missing");
        assert_ne!(reply.header("retry-after"), "");
    }
    assert_eq!(
        (world.api.arrivals(), world.corp.arrivals()),
        before,
        "no token is fetched or sent, not even a cached one"
    );
    assert_eq!(proxy.probe("/readyz").await.status, 503);
    assert_eq!(proxy.probe("/startupz").await.status, 200, "a started proxy stays started");
    assert_eq!(proxy.get("http://open.test/x").await.status, 200);
    world.workload_api.restore();
    world.workload_api.rotate().expect("rotated");
    proxy.until_ready().await;
    for host in ["api.test", "user.test", "legacy.test"] {
        assert_eq!(proxy.get_for(&token, &format!("http://{host}/x")).await.status, 200, "{host}");
    }
}

/// Starts an upstream that has an SVID of its own and requires the agent's.
async fn mutual(world: &World) -> ResourceServer {
    ResourceServer::start(Some(&mutual_tls(world)), &world.clock).await.expect("server")
}

fn mutual_tls(world: &World) -> ServerTls {
    let svid = world.domain.x509.issue(&SvidRequest::new(&world.domain.workload("reports"))).expect("issued");
    let clients = ClientCertificates::Required(world.domain.x509.bundle());
    ServerTls::new(svid.certified_key().expect("a key")).clients(clients)
}

fn pinned(name: &str, upstream: &ResourceServer, id: &str) -> String {
    format!(
        "  - {{ name: {name}, match: {{ host: {name}.test }}, token: itself, upstream: {{ url: {}, \
         tls: {{ server: {{ spiffe_ids: [\"{id}\"] }}, client_certificate: svid }} }} }}\n",
        upstream.url()
    )
}

#[tokio::test]
async fn only_the_pinned_peer_receives_requests() {
    let world = World::with_open_api().await;
    let upstream = mutual(&world).await;
    let right = pinned("right", &upstream, &world.domain.workload("reports"));
    let wrong = pinned("wrong", &upstream, &world.domain.workload("reports/v2"));
    let proxy = world.proxy_with(&format!("routes:\n{right}{wrong}")).await;
    let reply = proxy.get("http://wrong.test/x").await;
    reply.assert_refusal(502, "upstream_tls");
    assert_eq!(upstream.arrivals(), 0);
    assert_eq!(proxy.get("http://right.test/x").await.status, 200);
    assert_eq!(upstream.last_request().expect("seen").client, Some(world.agent_id()));
    proxy.get("http://wrong.test/x").await.assert_refusal(502, "upstream_tls");
    assert_eq!(upstream.arrivals(), 1, "the connection of the other route is not used");
}

/// With TLS 1.3 the refusal arrives only after the handshake, in place of the response.
#[tokio::test]
async fn refusal_of_our_certificate_is_reported_as_a_tls_error() {
    let world = World::with_open_api().await;
    for (name, tls) in [("one", mutual_tls(&world).http1_only()), ("two", mutual_tls(&world))] {
        let upstream = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
        let route = format!(
            "routes:\n  - {{ name: without-{name}, match: {{ host: {name}.test }}, token: itself, \
             upstream: {{ url: {}, tls: {{ server: {{ spiffe_ids: [\"{}\"] }} }} }} }}\n",
            upstream.url(),
            world.domain.workload("reports"),
        );
        let proxy = world.proxy_with(&route).await;
        // If the upstream's reset overtakes its alert, the reason is lost.
        let reported = async || {
            let reply = proxy.get(&format!("http://{name}.test/x")).await;
            assert_eq!(reply.status, 502, "{}", reply.text());
            reply.text().contains("upstream_tls")
        };
        until(reported, "the alert").await;
        let is_reported =
            |line: &str| line.contains(&format!("without-{name}")) && line.contains("CertificateRequired");
        assert!(super::log::capture().count(is_reported) > 0, "{name}");
        assert_eq!(upstream.arrivals(), 0);
    }
}

/// As `openssl req -x509` makes it: it signs itself and is marked as an authority's.
fn self_signed_authority(world: &World) -> ServerTls {
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("signed");
    world.write("self-signed.pem", &certificate.pem());
    let private = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified = rustls::sign::CertifiedKey::from_der(vec![certificate.der().clone()], private, &provider);
    ServerTls::new(std::sync::Arc::new(certified.expect("a key for it")))
}

#[tokio::test]
async fn certificate_of_an_authority_is_refused_in_words() {
    let world = World::with_open_api().await;
    let tls = self_signed_authority(&world);
    let upstream = ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let setup = Setup { tls: Some(tls), ..Setup::default() };
    let server = AuthorizationServer::start(&setup, &world.clock).await.expect("authorization server");
    let servers = format!(
        "authorization_servers:\n  marked: {{ issuer: \"{}\", client_auth: spiffe_jwt, tls: {{ ca_file: self-signed.pem }} }}\n",
        server.issuer()
    );
    let routes = format!(
        "routes:\n{}  - {{ name: marked-server, match: {{ host: server.test }}, upstream: {{ url: {} }}, \
         token: {{ flow: {{ client_credentials: {{ server: marked }} }}, scopes: [read] }} }}\n",
        super::world::tls_route("marked-upstream", "token: none", &upstream.url()).replace("ca.pem", "self-signed.pem"),
        world.api.url(),
    );
    let text = world.preamble().replace("authorization_servers:\n", &servers) + &routes;
    let proxy = Proxy::start(&world.write("proxy.yaml", &text), &world.clock);
    proxy.until_ready().await;
    proxy.get("http://marked-upstream.test/x").await.assert_refusal(502, "upstream_tls");
    assert_ne!(proxy.get("http://server.test/x").await.status, 200);
    for name in ["marked-upstream", "marked"] {
        let says = |line: &str| line.contains(name) && line.contains("basicConstraints CA:TRUE");
        assert!(super::log::capture().count(says) > 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_succeed_while_the_svid_is_rotated() {
    let world = World::with_open_api().await;
    let upstream = mutual(&world).await;
    let route = pinned("reports", &upstream, &world.domain.workload("reports"));
    let proxy = world.proxy_with(&format!("routes:\n{route}")).await;
    let done = AtomicBool::new(false);
    let load = async {
        let mut agent = Http1::connect(proxy.outbound).await;
        while !done.load(Ordering::Relaxed) {
            let get = request(&Method::GET, "http://reports.test/x", &[]).body(full("")).expect("request");
            let reply = agent.send(get).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
    };
    let rotate = async {
        for _ in 0..5 {
            let updates = proxy.metric("svid_updates_total{result=\"accepted\"}").await;
            let connections = upstream.connections();
            world.workload_api.rotate().expect("rotated");
            proxy.until_metric("svid_updates_total{result=\"accepted\"}", |count| count > updates).await;
            until(async || upstream.connections() > connections, "a handshake with the new one").await;
            within(upstream.wait_for_arrivals(upstream.arrivals() + 10), "more requests").await;
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(load, rotate);
    assert!(upstream.requests().iter().all(|seen| seen.status == Some(200)));
}

#[tokio::test]
async fn reload_follows_a_configmap_swap_and_refuses_a_broken_file() {
    let world = World::with_open_api().await;
    let root = world.directory.path().to_owned();
    let publish = |version: &str, routes: &str| {
        let directory = root.join(version);
        std::fs::create_dir(&directory).expect("made");
        std::fs::write(directory.join("proxy.yaml"), format!("{}{routes}", world.preamble())).expect("written");
        std::os::unix::fs::symlink(version, root.join("..data_tmp")).expect("linked");
        std::fs::rename(root.join("..data_tmp"), root.join("..data")).expect("swapped");
    };
    let route = |host: &str| format!("routes:\n{}", super::world::route(host, "token: itself", &world.api.url()));
    publish("..1", &route("one"));
    std::os::unix::fs::symlink("..data/proxy.yaml", root.join("mounted.yaml")).expect("linked");
    let proxy = Proxy::start(&root.join("mounted.yaml"), &world.clock);
    proxy.until_ready().await;
    assert_eq!(proxy.get("http://one.test/x").await.status, 200);
    let hash = proxy.status().await["config"]["hash"].clone();

    publish("..2", "routes:\n  - { match: { host: one.test }, tokn: itself }\n");
    proxy.until_metric("config_reloads_total{result=\"refused\"}", |count| count >= 1.0).await;
    let status = proxy.status().await;
    assert_eq!(status["config"]["hash"], hash, "the old configuration is in force");
    assert!(status["config"]["refused"].as_str().is_some_and(|why| why.contains("tokn")), "{status}");
    assert_eq!(proxy.get("http://one.test/x").await.status, 200);
    assert_eq!(proxy.probe("/readyz").await.status, 200);

    publish("..3", &route("two"));
    until(async || proxy.get("http://two.test/x").await.status == 200, "the new route").await;
    proxy.get("http://one.test/x").await.assert_refusal(403, "no_route");
    assert!(proxy.status().await["config"]["refused"].is_null());
    assert_eq!(world.corp.arrivals(), 1, "a grant that did not change keeps its token");
}

#[tokio::test]
async fn user_token_file_is_read_for_each_request() {
    let world = World::start().await;
    let directory = world.directory.path().join("users");
    std::fs::create_dir(&directory).expect("made");
    let routes = format!(
        "routes:\n  - {{ name: batch, match: {{ host: batch.test }}, upstream: {{ url: {} }}, token: {{ \
         flow: {{ self_issued: {{ server: corp, grant: token_exchange }} }}, resource: \"{RESOURCE}\", scopes: [read], \
         subject: {{ file: {{ path: users/token, server: corp, type: id_token }} }} }} }}\n",
        world.api.url()
    );
    let proxy = world.proxy_with(&routes).await;
    proxy.get("http://batch.test/x").await.assert_refusal(401, "user_token");
    for user in ["alice", "bob"] {
        world.write("users/next", &world.id_token(user));
        std::fs::rename(directory.join("next"), directory.join("token")).expect("renamed");
        let acts_for = async || {
            let reply = proxy.get("http://batch.test/x").await;
            let claims = world.api.last_request().and_then(|seen| seen.claims);
            reply.status == 200 && claims.is_some_and(|claims| claims["sub"] == format!("user:{user}"))
        };
        until(acts_for, user).await;
    }
    std::fs::remove_file(directory.join("token")).expect("removed");
    until(async || proxy.get("http://batch.test/x").await.status == 401, "the token is gone").await;
}

#[tokio::test]
async fn reload_that_removes_an_issuers_keys_drops_its_users_tokens() {
    let world = World::start().await;
    let (token, jwks) = (world.corp.token_endpoint(), world.corp.jwks_uri());
    let explicit = format!("client_auth: spiffe_jwt, endpoints: {{ token: \"{token}\", jwks: \"{jwks}\" }} }}");
    let text = (world.preamble() + &world.routes()).replace("client_auth: spiffe_jwt }", &explicit);
    let proxy = Proxy::start(&world.write("proxy.yaml", &text), &world.clock);
    proxy.until_ready().await;
    let alice = world.id_token("alice");
    assert_eq!(proxy.get_for(&alice, "http://user.test/x").await.status, 200);
    world.write("proxy.yaml", &text.replace(&jwks, "http://127.0.0.1:1/nothing"));
    proxy.until_metric("config_reloads_total{result=\"accepted\"}", |count| count >= 1.0).await;
    proxy.get_for(&alice, "http://user.test/x").await.assert_refusal(503, "token_unavailable");
}

#[tokio::test]
async fn drain_finishes_requests_and_accepts_until_the_agent_is_gone() {
    let world = World::with_open_api().await;
    let mut proxy = world.proxy().await;
    let gate = Gate::default();
    world.api.faults().next(Fault::Hold(gate.clone()));
    let mut agent = Http1::connect(proxy.outbound).await;
    let slow = async {
        let get = request(&Method::GET, "http://api.test/slow", &[]).body(full("")).expect("request");
        agent.send(get).await
    };
    let drain = async {
        within(gate.wait_for_arrivals(1), "the request in flight").await;
        proxy.drain();
        until(async || proxy.probe("/readyz").await.status == 503, "not ready").await;
        assert!(proxy.probe("/readyz").await.text().contains("the shutdown to finish"));
        assert_eq!(proxy.probe("/livez").await.status, 200);
        for _ in 0..3 {
            assert_eq!(proxy.get("http://api.test/new").await.status, 200, "a new connection from the agent");
        }
        gate.open();
    };
    let (reply, ()) = tokio::join!(slow, drain);
    assert_eq!(reply.status, 200);
    drop(agent);
    assert_eq!(proxy.ended().await.result, Ok(()));
}

#[tokio::test]
async fn drain_is_announced_on_the_connections_that_are_open() {
    let world = World::with_open_api().await;
    let mut proxy = world.proxy().await;
    let mut http1 = Raw::connect(proxy.outbound).await;
    let get_request = "GET http://open.test/status/204 HTTP/1.1\r\nhost: open.test\r\n\r\n";
    http1.write(get_request).await;
    assert!(!http1.head().await.contains("connection: close"));
    let mut used = Frames::connect(proxy.outbound, &[]).await;
    used.write(get(1, "open.test", "/x")).await;
    used.until(HEADERS, 1).await;
    let mut fresh = Frames::connect(proxy.outbound, &[]).await;

    proxy.drain();
    used.until(GOAWAY, 0).await;
    // A connection without a request may still make its first one, and is told then.
    fresh.write(get(1, "open.test", "/x")).await;
    fresh.until(HEADERS, 1).await;
    fresh.until(GOAWAY, 0).await;
    http1.write(get_request).await;
    let head = http1.head().await;
    assert!(head.contains("connection: close\r\n"), "{head}");
    drop((used, fresh, http1));
    assert_eq!(proxy.ended().await.result, Ok(()));
}

#[tokio::test]
async fn drain_ends_at_its_deadline_with_open_connections() {
    let world = World::with_open_api().await;
    let routes = world.routes().replace("deadline: 20s", "deadline: 200ms");
    let mut proxy = world.proxy_with(&routes).await;
    let mut agent = Http1::connect(proxy.outbound).await;
    let listen = request(&Method::GET, "http://api.test/sse", &[]).body(full("")).expect("request");
    let _stream = agent.head(listen).await;
    proxy.drain();
    assert_eq!(proxy.ended().await.result, Ok(()));
}

/// Returns the names and labels of all series, without their values.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()).collect()
}

#[tokio::test]
async fn all_series_exist_from_the_start_and_hostile_requests_add_none() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let before = proxy.scrape().await;
    for name in [
        "requests_total{class=\"refused\",route=\"none\"}",
        "requests_total{class=\"101\",route=\"api\"}",
        "ended_total{by=\"drain\",route=\"api\"}",
        "upstream_failures_total{reason=\"upstream_unreachable\",route=\"api\"}",
        "requests_total{class=\"2xx\",route=\"api\"}",
        "request_duration_seconds_count{route=\"legacy\"}",
        "refused_total{reason=\"no_route\",route=\"none\"}",
        "injected_total{kind=\"bearer\",route=\"api\"}",
        "injected_total{kind=\"legacy_secret\",route=\"legacy\"}",
        "token_cache_total{result=\"hit\",tier=\"access\"}",
        "token_cache_total{result=\"shared\",tier=\"access\"}",
        "token_cache_total{result=\"negative\",tier=\"access\"}",
        "token_cache_entries{tier=\"access\"}",
        "token_cache_bytes{tier=\"access\"}",
        "token_cache_total{result=\"miss\",tier=\"id_jag\"}",
        "token_cache_entries{tier=\"id_jag\"}",
        "token_cache_bytes{tier=\"id_jag\"}",
        "token_expiry_timestamp_seconds{route=\"api\",server=\"corp\"}",
        "svid_expiry_timestamp_seconds",
        "svid_updates_total{result=\"refused\"}",
        "workload_api_connected",
        "ready",
        "upstream_connections{state=\"idle\"}",
        "downstream_connections{state=\"active\"}",
        "config_reloads_total{result=\"accepted\"}",
        "config_reloads_total{result=\"refused\"}",
        "config_last_reload_timestamp_seconds",
    ] {
        let name = format!("idjag_proxy_{name} ");
        assert!(before.lines().any(|line| line.starts_with(&name)), "no {name} in\n{before}");
    }
    for family in [
        "exchanges_total{",
        "exchange_duration_seconds_count{",
        "token_refreshes_total{",
        "token_replays_total{",
        "build_info{",
    ] {
        assert!(before.contains(&format!("idjag_proxy_{family}")), "no {family}");
    }
    assert!(before.contains("process_open_fds "));
    let text = |path: &str| path.replace("N", &format!("{:x}", fastrand::u64(..)));
    for url in ["http://N.test/x", "http://api.test/N", "http://api.test/a%2fN", "http://api.test:81/N"] {
        proxy.get(&text(url)).await;
    }
    for method in ["BREW", "TRACE", "N"] {
        let method = Method::from_bytes(text(method).as_bytes()).expect("a method");
        let odd = request(&method, "http://api.test/x", &[]).body(full("")).expect("request");
        agent::send(proxy.outbound, odd).await;
    }
    proxy.get_for("nonsense", "http://user.test/x").await;
    world.corp.faults().token.next(Fault::oauth_error(http::StatusCode::BAD_REQUEST, "a_code_that_nobody_knows"));
    proxy.get_for(&world.id_token("alice"), "http://user.test/x").await;
    let after = proxy.scrape().await;
    let new: Vec<String> = series(&after).difference(&series(&before)).cloned().collect();
    assert!(new.is_empty(), "{new:?}");
}

#[tokio::test]
async fn identity_series_exist_without_a_configured_identity() {
    let world = World::with_open_api().await;
    let text = format!(
        "listen: {{ outbound: [\"127.0.0.1:0\"], metrics: [\"127.0.0.1:0\"] }}\n\
         routes: [{{ name: open, match: {{ host: open.test }}, token: none, upstream: {{ url: {} }} }}]\n",
        world.api.url()
    );
    let proxy = Proxy::start(&world.write("plain.yaml", &text), &world.clock);
    for series in [
        "svid_expiry_timestamp_seconds",
        "svid_updates_total{result=\"accepted\"}",
        "svid_updates_total{result=\"refused\"}",
        "workload_api_connected",
    ] {
        assert_eq!(proxy.metric(series).await, 0.0, "{series}");
    }
    assert_eq!(proxy.metric("identity_required").await, 0.0);
    assert_eq!(world.proxy().await.metric("identity_required").await, 1.0);
    assert_eq!(proxy.get("http://open.test/x").await.status, 200);
}

#[tokio::test]
async fn reload_adds_and_removes_series_of_routes_and_servers() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    // A series may have both names, so the new ones are replaced by the old ones before the
    // comparison.
    let series_of = |text: &str, label: &str, name: &str| -> BTreeSet<String> {
        let wanted = format!("{label}=\"{name}\"");
        series(text)
            .into_iter()
            .filter(|series| series.contains(&wanted))
            .map(|series| series.replace("\"twin\"", "\"corp\"").replace("\"other\"", "\"api\""))
            .collect()
    };
    let before = proxy.scrape().await;
    let old = world.preamble() + &world.routes();
    let new = old.replace("corp:", "twin:").replace("server: corp", "server: twin").replace("name: api", "name: other");
    world.write("proxy.yaml", &new);
    proxy.until_metric("config_reloads_total{result=\"accepted\"}", |count| count >= 1.0).await;
    let after = proxy.scrape().await;
    for (label, gone, come) in [("server", "corp", "twin"), ("route", "api", "other")] {
        let had = series_of(&before, label, gone);
        assert!(had.len() > 5, "{had:?}");
        assert_eq!(series_of(&after, label, come), had);
        assert_eq!(series_of(&after, label, gone), BTreeSet::new());
    }
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    assert_eq!(proxy.metric("exchanges_total{leg=\"access\",outcome=\"success\",server=\"twin\"}").await, 1.0);
}

#[tokio::test]
async fn token_expiry_series_follows_its_route_to_another_server() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let expiries = |text: &str| -> BTreeSet<String> {
        series(text)
            .into_iter()
            .filter(|series| series.contains("token_expiry_") && series.contains("\"api\""))
            .collect()
    };
    let series_of = |server: &str| {
        BTreeSet::from([format!("idjag_proxy_token_expiry_timestamp_seconds{{route=\"api\",server=\"{server}\"}}")])
    };
    assert_eq!(expiries(&proxy.scrape().await), series_of("corp"));
    let old = world.preamble() + &world.routes();
    world.write("proxy.yaml", &old.replace("corp:", "twin:").replace("server: corp", "server: twin"));
    proxy.until_metric("config_reloads_total{result=\"accepted\"}", |count| count >= 1.0).await;
    assert_eq!(expiries(&proxy.scrape().await), series_of("twin"));
}

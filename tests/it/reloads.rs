//! Which changes a reload applies, and which it refuses.
use super::agent;
use super::world::{Proxy, World, route, until};
use idjag_proxy::dev::faults::Fault;
use std::collections::BTreeSet;

async fn until_reloaded(proxy: &Proxy, result: &str, count: f64) {
    proxy.until_metric(&format!("config_reloads_total{{result=\"{result}\"}}"), |seen| seen == count).await;
}

#[tokio::test]
async fn identity_is_required_only_while_the_configuration_needs_it() {
    let world = World::with_open_api().await;
    let url = world.api.url();
    let legacy = format!(
        "routes:\n  - {{ name: legacy, match: {{ host: legacy.test }}, upstream: {{ url: {url} }}, \
         legacy_secret: {{ file: legacy-key, header: x-api-key }} }}\n"
    );
    let both = legacy.clone() + &route("api", "token: itself", &url);
    let write = |routes: &str| world.write("proxy.yaml", &format!("{}{routes}", world.preamble()));
    world.workload_api.withdraw();
    let proxy = world.proxy_with(&legacy).await;
    assert_eq!(proxy.metric("identity_required").await, 0.0);
    assert!(proxy.status().await["identity"].is_null());
    assert_eq!(proxy.get("http://legacy.test/x").await.status, 200, "no identity is needed");

    world.workload_api.restore();
    write(&both);
    until_reloaded(&proxy, "accepted", 1.0).await;
    for host in ["api.test", "legacy.test"] {
        assert_eq!(proxy.get(&format!("http://{host}/x")).await.status, 200, "immediately: {host}");
    }
    assert_eq!(proxy.probe("/readyz").await.status, 200);
    assert_eq!(proxy.metric("identity_required").await, 1.0);
    assert_eq!(proxy.status().await["identity"]["spiffe_id"], world.agent_id());

    world.workload_api.withdraw();
    until(async || proxy.get("http://legacy.test/x").await.status == 503, "the identity is gone").await;
    assert_eq!(proxy.probe("/readyz").await.status, 503);
    write(&legacy);
    until_reloaded(&proxy, "accepted", 2.0).await;
    assert_eq!(proxy.get("http://legacy.test/x").await.status, 200);
    assert_eq!(proxy.probe("/readyz").await.status, 200);
    assert_eq!(proxy.metric("identity_required").await, 0.0);
}

#[tokio::test]
async fn change_that_needs_a_restart_is_refused_by_name() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    let text = world.preamble() + &world.routes();
    let socket = format!("socket: \"{}\"", world.workload_api.endpoint());
    for (count, (old, new, setting)) in (1_u32..).zip([
        ("metrics: [\"127.0.0.1:0\"]", "metrics: [\"127.0.0.1:1\"]", "`listen`"),
        (&*socket, "socket: \"unix:///elsewhere.sock\"", "`identity`"),
        ("workers: 2", "workers: 1", "workers"),
        ("deadline: 20s", "deadline: 21s", "drain"),
    ]) {
        let changed = text.replace(old, new).replace("host: open.test", "host: other.test");
        assert_ne!(changed, text.replace("host: open.test", "host: other.test"), "{setting}");
        world.write("proxy.yaml", &changed);
        until_reloaded(&proxy, "refused", f64::from(count)).await;
        let refused = proxy.status().await["config"]["refused"].to_string();
        assert!(refused.contains(setting) && refused.contains("restart"), "{refused}");
        assert_eq!(proxy.get("http://open.test/x").await.status, 200);
        proxy.get("http://other.test/x").await.assert_refusal(403, "no_route");
    }
}

#[tokio::test]
async fn eager_token_shared_with_a_lazy_route_is_requested_again_until_it_is_issued() {
    for eager_first in [true, false] {
        let world = World::with_open_api().await;
        world.corp.faults().token.always(Fault::HangUp);
        let route = |name: &str, rest: &str| {
            format!(
                "  - {{ name: {name}, match: {{ host: {name}.test }}, upstream: {{ url: {} }}, \
                 token: {{ flow: {{ client_credentials: {{ server: corp }} }}, scopes: [read]{rest} }} }}\n",
                world.api.url()
            )
        };
        let mut routes = [route("eager", ", eager: true"), route("lazy", "")];
        if !eager_first {
            routes.reverse();
        }
        let proxy = world.start_proxy(&format!("routes:\n{}", routes.concat())).await;
        until(async || world.corp.arrivals() > 0, "the first attempt").await;
        assert!(proxy.probe("/readyz").await.text().contains("a first token for route `eager`"));
        world.corp.faults().token.clear();
        proxy.until_ready().await;
        assert_eq!(world.api.arrivals(), 0, "the token was fetched without a request");
    }
}

#[tokio::test]
async fn removed_key_is_published_until_its_last_assertion_expires() {
    let world = World::with_open_api().await;
    for name in ["first.pem", "second.pem"] {
        world.write(name, &rcgen::KeyPair::generate().expect("a key").serialize_pem());
    }
    let text = |key: &str| {
        let assertion =
            format!(" }}, assertion: {{ issuer: \"https://agents.test\", key_file: {key}.pem, kid: {key} }} }}\n");
        let preamble = world.preamble().replacen(" } }\n", &assertion, 1);
        preamble.replace("listen: { ", "listen: { jwks: [\"127.0.0.1:0\"], ") + &world.routes()
    };
    let proxy = Proxy::start(&world.write("proxy.yaml", &text("first")), &world.clock);
    let address = proxy.jwks.expect("a listener");
    let published = async || -> BTreeSet<String> {
        let reply = agent::get(address, &format!("http://{address}/jwks"), &[]).await;
        let keys = reply.json()["keys"].as_array().cloned().expect("keys");
        keys.iter().map(|key| key["kid"].as_str().expect("a kid").to_owned()).collect()
    };
    let both = BTreeSet::from(["first".to_owned(), "second".to_owned()]);
    assert_eq!(published().await, BTreeSet::from(["first".to_owned()]));
    world.write("proxy.yaml", &text("second"));
    until_reloaded(&proxy, "accepted", 1.0).await;
    assert_eq!(published().await, both);
    // Assertions are valid for 300 s, so the last one of the first key has 61 s left.
    world.clock.shift(239);
    assert_eq!(published().await, both, "an assertion of the first key may still be valid");
    world.clock.shift(61);
    until(async || published().await == BTreeSet::from(["second".to_owned()]), "the first key is no longer published")
        .await;
}

#[tokio::test]
async fn reload_retires_connections_that_no_route_can_use_any_more() {
    let world = World::with_open_api().await;
    let (api, routes) = world.http2_api().await;
    let proxy = world.proxy_with(&routes).await;
    for _ in 0..2 {
        proxy.get("http://open.test/x").await;
    }
    assert!(api.open_connections() > 0);
    let another = route("another", "token: none", &world.api.url());
    world.write("proxy.yaml", &format!("{}{routes}{another}", world.preamble()));
    until_reloaded(&proxy, "accepted", 1.0).await;
    until(async || api.open_connections() == 0, "the connections are retired").await;
}

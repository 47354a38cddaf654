//! Where an access token goes on a request, and what happens to the agent's own header of that
//! name.
use super::agent::{self, Raw};
use super::world::{Proxy, World, route};
use http::HeaderMap;
use idjag_proxy::dev::faults::Fault;

/// The same token on routes that differ in its placement, and routes without a token.
async fn proxy(world: &World) -> Proxy {
    let url = world.api.url();
    let route = |name: &str, keys: &str| route(name, keys, &url);
    let placed = |name: &str, placement: &str| {
        let flow = "flow: { client_credentials: { server: corp } }, scopes: [read]";
        route(name, &format!("token: {{ {flow}, placement: {{ {placement} }} }}"))
    };
    let user = |name: &str, header: &str| {
        let flow = "flow: { self_issued: { server: corp } }, scopes: [read], resource: 'https://api.test/'";
        let subject = format!("subject: {{ header: {{ name: {header}, server: corp, type: id_token }} }}");
        route(name, &format!("token: {{ {flow}, {subject}, placement: {{ header: {header} }} }}"))
    };
    let routes = [
        route("api", "token: itself"),
        placed("scheme", "header: X-Access-Token, prefix: Token"),
        placed("text", "header: X-Access-Token, prefix: 'token='"),
        placed("bare", "header: X-Access-Token, prefix: ''"),
        placed("other-scheme", "prefix: Token"),
        user("user", "x-user-access"),
        route("open", "token: none"),
        route("kept", "token: none, keep_credentials: true"),
    ];
    world.proxy_with(&format!("routes:\n{}", routes.concat())).await
}

/// The headers of the latest request that reached the API.
fn sent(world: &World) -> HeaderMap {
    world.api.last_request().expect("a request").headers
}

/// The values of a header.
fn values<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    headers.get_all(name).iter().map(|value| value.to_str().expect("text")).collect()
}

#[tokio::test]
async fn token_is_sent_where_its_placement_says() {
    let world = World::with_open_api().await;
    let proxy = proxy(&world).await;
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    let bearer = sent(&world)["authorization"].to_str().expect("text").to_owned();
    let token = bearer.strip_prefix("Bearer ").expect("the default placement");
    for (host, header, expected) in [
        ("scheme", "x-access-token", format!("Token {token}")),
        ("text", "x-access-token", format!("token={token}")),
        ("bare", "x-access-token", token.to_owned()),
        ("other-scheme", "authorization", format!("Token {token}")),
    ] {
        assert_eq!(proxy.get(&format!("http://{host}.test/x")).await.status, 200);
        let headers = sent(&world);
        assert_eq!(values(&headers, header), [expected], "{host}");
        assert_eq!(headers.contains_key("authorization"), header == "authorization", "{host}");
    }
    assert_eq!(world.corp.arrivals(), 1, "routes that differ in the placement alone share a token");
}

#[tokio::test]
async fn agents_own_header_of_a_placement_is_removed() {
    let world = World::with_open_api().await;
    let proxy = proxy(&world).await;
    let forged = [
        ("x-access-token", "forged"),
        ("X-Access-Token", "forged again"),
        ("x_access_token", "forged"),
        ("connection", "x-access-token"),
    ];
    for host in ["scheme", "bare"] {
        assert_eq!(agent::get(proxy.outbound, &format!("http://{host}.test/x"), &forged).await.status, 200);
        let headers = sent(&world);
        let [value] = values(&headers, "x-access-token")[..] else { panic!("one field: {headers:?}") };
        assert!(!value.contains("forged"), "{value}");
        assert!(!headers.contains_key("x_access_token"), "{headers:?}");
    }
    // Other routes remove it as well, unless they forward the agent's own credentials.
    for (host, kept) in [("api", 0), ("open", 0), ("kept", 1)] {
        let reply = agent::get(proxy.outbound, &format!("http://{host}.test/x"), &forged[..1]).await;
        assert_eq!(reply.status, 200);
        assert_eq!(values(&sent(&world), "x-access-token").len(), kept, "{host}");
    }
}

#[tokio::test]
async fn agents_own_trailer_of_a_placement_is_removed() {
    let world = World::with_open_api().await;
    let proxy = proxy(&world).await;
    let mut agent = Raw::connect(proxy.outbound).await;
    agent
        .write(
            "POST /x HTTP/1.1\r\nhost: scheme.test\r\ntrailer: x-access-token, x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
             1\r\na\r\n0\r\nx-access-token: forged\r\nx_access_token: forged\r\nx-sum: 1\r\n\r\n",
        )
        .await;
    assert!(agent.head().await.starts_with("HTTP/1.1 200"));
    let seen = world.api.last_request().expect("a request");
    let trailers: Vec<&str> = seen.trailers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(trailers, ["x-sum"]);
    assert!(values(&seen.headers, "x-access-token")[0].starts_with("Token "));
}

#[tokio::test]
async fn replay_after_401_carries_the_new_token_in_its_place() {
    let world = World::with_open_api().await;
    let proxy = proxy(&world).await;
    world.api.faults().next(Fault::invalid_token());
    assert_eq!(proxy.get("http://scheme.test/x").await.status, 200);
    let requests = world.api.requests();
    let sent: Vec<Vec<&str>> = requests.iter().map(|seen| values(&seen.headers, "x-access-token")).collect();
    let [refused, replayed] = &sent[..] else { panic!("two requests: {sent:?}") };
    assert_eq!((refused.len(), replayed.len()), (1, 1));
    assert!(replayed[0].starts_with("Token ") && replayed != refused, "{sent:?}");
    assert!(requests.iter().all(|seen| !seen.headers.contains_key("authorization")), "{requests:?}");
}

#[tokio::test]
async fn users_token_may_arrive_in_the_header_of_the_placement() {
    let world = World::with_open_api().await;
    let proxy = proxy(&world).await;
    let id_token = world.id_token("alice");
    let reply = agent::get(proxy.outbound, "http://user.test/x", &[("x-user-access", &id_token)]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let headers = sent(&world);
    let [value] = values(&headers, "x-user-access")[..] else { panic!("one field: {headers:?}") };
    assert!(value.starts_with("Bearer ") && !value.contains(&id_token), "{value}");
}

#[tokio::test]
async fn status_names_the_placement() {
    let world = World::with_open_api().await;
    let proxy = proxy(&world).await;
    let status = proxy.status().await;
    let credential = |name: &str| {
        let routes = status["routes"].as_array().expect("routes");
        let route = routes.iter().find(|route| route["name"] == name).expect(name);
        route["credential"].as_str().expect("text").to_owned()
    };
    assert_eq!(credential("api"), "token of `corp` for the agent itself");
    assert_eq!(credential("scheme"), "token of `corp` for the agent itself, sent as `x-access-token: Token …`");
}

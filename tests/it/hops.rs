//! Two proxies in a row, and requests that go from one to the other and back.
use super::agent::Http2;
use super::agent::full;
use super::world::{Addresses, Proxy, World, route};

/// Starts two proxies whose routes lead to each other: `one.test` from the first to the second, and
/// `two.test` back.
async fn ring(world: &World) -> (Proxy, Proxy) {
    let config = |name: &str, host: &str, upstream: &str| {
        let text = world.preamble().replace("admin.sock", &format!("{name}.sock"));
        let next = route(host, "token: none", upstream);
        let open = route("open", "token: none", &world.api.url());
        world.write(&format!("{name}.yaml"), &format!("{text}routes:\n{next}{open}"))
    };
    // The port of the second proxy is known once it listens, so the first one is reloaded.
    let first = Proxy::start(&config("first", "one", "http://127.0.0.1:1"), &world.clock);
    let second = Proxy::start(&config("second", "two", &format!("http://{}", first.outbound)), &world.clock);
    config("first", "one", &format!("http://{}", second.outbound));
    first.until_metric("config_reloads_total{result=\"accepted\"}", |count| count >= 1.0).await;
    for proxy in [&first, &second] {
        proxy.until_ready().await;
    }
    (first, second)
}

/// The number of requests that the proxy has received, whatever their outcome.
async fn requests(proxy: &Addresses) -> f64 {
    let text = proxy.scrape().await;
    let series = text.lines().filter(|line| line.starts_with("idjag_proxy_requests_total{"));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test]
async fn two_sidecars_in_a_row_are_not_a_loop() {
    let world = World::with_open_api().await;
    let (first, _second) = ring(&world).await;
    // The rest of the path is the URL for the second proxy.
    let reply = first.get("http://one.test/open.test/x").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = world.api.last_request().expect("seen");
    assert_eq!(seen.target.path(), "/x");
    let via: Vec<&str> = seen.headers.get_all("via").iter().map(|value| value.to_str().expect("text")).collect();
    let mut names: Vec<&str> = via.iter().filter_map(|hop| hop.split(' ').nth(1)).collect();
    names.dedup();
    assert_eq!((via.len(), names.len()), (2, 2), "{via:?}");
    assert!(
        names.iter().all(|name| name.starts_with("idjag-proxy-")),
        "a name reveals more than the product: {names:?}"
    );
}

#[tokio::test]
async fn request_that_returns_through_another_proxy_is_refused() {
    let world = World::with_open_api().await;
    let (first, second) = ring(&world).await;
    // A path that would go around a hundred times.
    let url = format!("http://one.test{}/open.test/x", "/two.test/one.test".repeat(100));
    let reply = first.get(&url).await;
    reply.assert_refusal(508, "loop");
    assert!(reply.header("proxy-status").contains("error=proxy_loop_detected"), "{reply:?}");
    assert_eq!(
        (requests(&first).await, requests(&second).await),
        (2.0, 1.0),
        "the request went there and came back once"
    );
    let get = http::Request::get(&url).body(full("")).expect("request");
    Http2::connect(first.outbound).await.send(get).await.assert_refusal(508, "loop");
    assert_eq!((requests(&first).await, requests(&second).await), (4.0, 2.0));
    assert_eq!(first.metric("refused_total{reason=\"loop\"}").await, 2.0);
    assert_eq!(second.metric("refused_total{reason=\"loop\"}").await, 0.0);
    // Another proxy's name in `Via` is not a loop.
    let fields = [("via", "1.1 idjag-proxy-00000000, 1.1 elsewhere")];
    assert_eq!(super::agent::get(first.outbound, "http://open.test/x", &fields).await.status, 200);
    assert_eq!(world.api.arrivals(), 1);
}

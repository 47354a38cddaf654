//! The limits of a route on its requests, which all workers share.
use super::agent::{self, Raw};
use super::connect::connect;
use super::world::{World, route, until, within};
use futures_util::future::join_all;
use idjag_proxy::dev::faults::{Fault, Gate};

const GET: &str = "GET http://few.test/x HTTP/1.1\r\nhost: few.test\r\n\r\n";

#[tokio::test]
async fn requests_beyond_those_at_one_time_are_refused_until_others_end() {
    let world = World::with_open_api().await;
    let api = world.api.url();
    let few = route("few", "token: none, limits: { requests: 4 }", &api);
    let proxy = world.proxy_with(&format!("routes:\n{few}{}", route("open", "token: none", &api))).await;
    for leave in [false, true] {
        let gate = Gate::default();
        world.api.faults().next_many(4, &Fault::Hold(gate.clone()));
        let mut held = join_all((0..4).map(|_| Raw::connect(proxy.outbound))).await;
        join_all(held.iter_mut().map(|agent| agent.write(GET))).await;
        within(gate.wait_for_arrivals(4), "the limit").await;
        for reply in join_all((0..20).map(|_| proxy.get("http://few.test/x"))).await {
            reply.assert_refusal(429, "rate_limited");
            assert_eq!(reply.header("retry-after"), "1");
            assert!(reply.text().contains("4 requests at one time"), "{}", reply.text());
        }
        assert_eq!(proxy.get("http://open.test/x").await.status, 200, "another route has its own limits");
        if leave {
            drop(held);
        } else {
            gate.open();
            for agent in &mut held {
                assert!(agent.head().await.starts_with("HTTP/1.1 200 "));
            }
            drop(held);
        }
        proxy.until_idle().await;
        gate.open();
        assert_eq!(proxy.get("http://few.test/x").await.status, 200);
    }
    assert_eq!(proxy.metric("refused_total{reason=\"rate_limited\",route=\"few\"}").await, 40.0);
}

#[tokio::test]
async fn requests_beyond_the_rate_are_refused_with_the_time_to_wait() {
    let world = World::with_open_api().await;
    let slow = |rate: &str, others: &str| {
        let settings = format!("token: none, limits: {{ rate: {rate} }}");
        format!("routes:\n{}{others}", route("slow", &settings, &world.api.url()))
    };
    let proxy = world.proxy_with(&slow("3/h", "")).await;
    for _ in 0..3 {
        assert_eq!(proxy.get("http://slow.test/x").await.status, 200);
    }
    let assert_refused = async || {
        let reply = proxy.get("http://slow.test/x").await;
        reply.assert_refusal(429, "rate_limited");
        let wait: u64 = reply.header("retry-after").parse().expect("seconds");
        assert!((1..=1200).contains(&wait), "{wait}");
    };
    assert_refused().await;
    let grpc = [("content-type", "application/grpc")];
    agent::post(proxy.outbound, "http://slow.test/x", &grpc, b"").await.assert_grpc_refusal("8");
    assert_eq!(world.api.arrivals(), 3);
    // A reload does not start anew.
    let other = slow("3/h", &route("other", "token: none", &world.api.url()));
    world.write("proxy.yaml", &format!("{}{other}", world.preamble()));
    proxy.until_metric("config_reloads_total{result=\"accepted\"}", |count| count >= 1.0).await;
    assert_refused().await;
    // One that raises the rate does not wait for what the former rate would have allowed.
    world.write("proxy.yaml", &format!("{}{}", world.preamble(), slow("1000/s", "")));
    proxy.until_metric("config_reloads_total{result=\"accepted\"}", |count| count >= 2.0).await;
    until(async || proxy.get("http://slow.test/x").await.status == 200, "the new rate").await;
}

#[tokio::test]
async fn tunnel_holds_its_place_while_it_is_open() {
    let world = World::with_open_api().await;
    let address = world.api.address();
    let tunnel = format!(
        "{{ match: {{ host: 127.0.0.1, port: {} }}, tunnel: true, limits: {{ requests: 1 }} }}",
        address.port()
    );
    let proxy = world.proxy_with(&format!("routes: [{tunnel}]\n")).await;
    let mut first = Raw::connect(proxy.outbound).await;
    first.write(connect(&address.to_string())).await;
    assert!(first.head().await.starts_with("HTTP/1.1 200 "));
    let mut second = Raw::connect(proxy.outbound).await;
    second.write(connect(&address.to_string())).await;
    assert!(second.head().await.starts_with("HTTP/1.1 429 "));
    drop((first, second));
    proxy.until_idle().await;
    let mut third = Raw::connect(proxy.outbound).await;
    third.write(connect(&address.to_string())).await;
    assert!(third.head().await.starts_with("HTTP/1.1 200 "));
}

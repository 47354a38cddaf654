//! Responses that stall: the route's idle timeout ends them, and the agent learns that its response
//! is incomplete.
use super::agent::{Http1, Http2, full, request};
use super::leaks::accepted;
use super::world::{Proxy, World, route, tls_route, until, within};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use idjag_proxy::dev::faults::{Fault, Gate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Fails unless reading the rest of the body is an error.
async fn assert_broken(body: Incoming, what: &str) {
    let rest = within(body.collect(), "the idle timeout").await;
    assert!(rest.is_err(), "{what}: a partial body counts as complete");
}

async fn assert_idle(proxy: &Proxy) {
    until(async || proxy.status().await["requests"] == 0, "nothing is in flight").await;
    assert_eq!(proxy.metric("unread_answers_total").await, 0.0, "the agent read everything that arrived");
}

#[tokio::test]
async fn silent_upstream_times_out_with_either_protocol_on_either_side() {
    let world = World::start().await;
    let (http2_api, routes) = world.http2_api().await;
    let keys = "token: itself, timeouts: { idle: 200ms }";
    let routes = [routes, route("silent1", keys, &world.api.url()), tls_route("silent2", keys, &http2_api.url())];
    let proxy = world.proxy_with(&routes.concat()).await;
    let gate = Gate::default();
    for (host, upstream) in [("silent1", &world.api), ("silent2", &http2_api)] {
        let ask =
            || request(&Method::GET, &format!("http://{host}.test/bytes/9"), &[]).body(full("")).expect("request");
        upstream.faults().next_many(2, &Fault::HoldBody(gate.clone()));
        let mut agent = Http1::connect(proxy.outbound).await;
        assert_broken(agent.head(ask()).await.into_body(), host).await;
        let mut agent = Http2::connect(proxy.outbound).await;
        let response = within(agent.sender.send_request(ask()), "a head").await.expect("a head");
        assert_broken(response.into_body(), host).await;
        // Only that response ends. The agent's connection stays open, and so does the upstream's if
        // it is shared.
        let connections = upstream.connections();
        assert_eq!(agent.send(ask()).await.body.len(), 9, "{host}");
        assert_eq!(upstream.connections() - connections, u64::from(host == "silent1"));
    }
    assert_idle(&proxy).await;
    until(async || world.api.open_connections() <= 1, "connections with an unfinished response are closed").await;
}

#[tokio::test]
async fn truncated_body_is_aborted_with_every_framing() {
    let world = World::with_open_api().await;
    let upstream = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = upstream.local_addr().expect("an address");
    let route = route("half", "token: none, timeouts: { idle: 200ms }", &format!("http://{address}"));
    let proxy = world.proxy_with(&format!("routes:\n{route}")).await;
    let framings = [
        "content-length: 1000\r\n\r\nhalf",
        "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        // This body ends with the connection (RFC 9112 §6.3), which stays open.
        "connection: close\r\n\r\nhalf",
    ];
    for framing in framings {
        for http2 in [false, true] {
            let answer = async {
                let mut stream = accepted(&upstream).await;
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes()).await.expect("written");
                stream
            };
            let (mut first, mut second) = (Http1::connect(proxy.outbound).await, Http2::connect(proxy.outbound).await);
            let get = request(&Method::GET, "http://half.test/x", &[]).body(full("")).expect("request");
            let ask = async {
                match http2 {
                    false => first.head(get).await,
                    true => within(second.sender.send_request(get), "a head").await.expect("a head"),
                }
            };
            let (mut stream, response) = tokio::join!(answer, ask);
            let mut body = response.into_body();
            let half = within(body.frame(), "the first half").await.expect("a frame").expect("data");
            assert_eq!(half.into_data().expect("data"), "half", "{framing:?}");
            assert_broken(body, framing).await;
            // The connection to the upstream ends, too.
            assert_eq!(within(stream.read(&mut [0; 1]), "the end").await.unwrap_or(0), 0, "{framing:?}");
        }
    }
    assert_idle(&proxy).await;
}

//! Withdrawn trust: when an authority is removed from the bundle, connections to the peers that it
//! vouched for are closed.
use super::agent::{Http1, Raw, full, request};
use super::world::{Proxy, World, until, within};
use http::Method;
use http_body_util::BodyExt;
use idjag_proxy::dev::ca::SvidRequest;
use idjag_proxy::dev::http::ServerTls;
use idjag_proxy::dev::resource_server::ResourceServer;

/// TLS with an SVID of the current authority.
fn tls(world: &World) -> ServerTls {
    let svid = world.domain.x509.issue(&SvidRequest::new(&world.domain.workload("reports"))).expect("issued");
    ServerTls::new(svid.certified_key().expect("a key"))
}

/// Starts a pinned upstream for each HTTP version, each behind the host of this name.
async fn pinned(world: &World) -> ([(&'static str, ResourceServer); 2], Proxy) {
    let upstream = async |tls: ServerTls| ResourceServer::start(Some(&tls), &world.clock).await.expect("server");
    let upstreams = [("pinned1", upstream(tls(world).http1_only()).await), ("pinned2", upstream(tls(world)).await)];
    let route = |(name, upstream): &(&str, ResourceServer)| {
        let (url, id) = (upstream.url(), world.domain.workload("reports"));
        format!(
            "  - {{ match: {{ host: {name}.test }}, token: none, \
             upstream: {{ url: {url}, tls: {{ server: {{ spiffe_ids: [\"{id}\"] }} }} }} }}\n"
        )
    };
    let proxy = world.proxy_with(&format!("routes:\n{}", upstreams.iter().map(route).collect::<String>())).await;
    (upstreams, proxy)
}

#[tokio::test]
async fn active_connections_end_when_the_peers_authority_is_removed() {
    let world = World::with_open_api().await;
    let (upstreams, proxy) = pinned(&world).await;
    let updated = async |change: &dyn Fn()| {
        let updates = proxy.metric("svid_updates_total{result=\"accepted\"}").await;
        change();
        proxy.until_metric("svid_updates_total{result=\"accepted\"}", |count| count > updates).await;
    };

    // An event stream over each protocol, and a WebSocket.
    let mut streams = Vec::new();
    for host in ["pinned1", "pinned2"] {
        let mut agent = Http1::connect(proxy.outbound).await;
        let listen = request(&Method::GET, &format!("http://{host}.test/sse"), &[]).body(full("")).expect("request");
        let body = agent.head(listen).await.into_body();
        streams.push((host, agent, body));
    }
    let mut socket = Raw::connect(proxy.outbound).await;
    socket
        .write(
            "GET http://pinned2.test/ws HTTP/1.1\r\nhost: pinned2.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    assert!(socket.head().await.starts_with("HTTP/1.1 101 "));

    // A second authority, and then a new SVID for the agent: neither closes a connection that is in
    // use.
    updated(&|| {
        world.domain.x509.prepare().expect("an authority");
        world.workload_api.push_bundles();
    })
    .await;
    world.domain.x509.activate();
    updated(&|| world.workload_api.rotate().expect("issued")).await;
    for (host, upstream) in &upstreams {
        assert_eq!(upstream.send_event("alive"), 1, "{host}");
    }
    for (host, _, body) in &mut streams {
        let frame = within(body.frame(), "the event").await.expect("open").expect("whole");
        assert_eq!(frame.into_data().expect("data"), "data: alive\n\n", "{host}");
    }
    // RFC 6455 §5.2: a masked ping without a payload, and the pong to it.
    socket.write([0x89, 0x80, 1, 2, 3, 4]).await;
    assert_eq!(socket.exactly(2).await, Some(vec![0x8a, 0x00]));

    world.domain.x509.revoke();
    updated(&|| world.workload_api.push_bundles()).await;
    for (host, _agent, body) in streams {
        assert!(within(body.collect(), host).await.is_err(), "{host}: a broken body counts as complete");
    }
    assert_eq!(socket.rest().await, b"");
    // The two streams and the socket.
    proxy.until_metric("ended_total{by=\"trust\"}", |count| count == 3.0).await;
    for (host, upstream) in &upstreams {
        until(async || upstream.open_connections() == 0, "no connection stays open").await;
        proxy.get(&format!("http://{host}.test/x")).await.assert_refusal(502, "upstream_tls");
        upstream.set_tls(&tls(&world)).expect("a certificate of the current authority");
        assert_eq!(proxy.get(&format!("http://{host}.test/x")).await.status, 200);
    }
}

#[tokio::test]
async fn idle_connections_end_when_the_peers_authority_is_removed() {
    let world = World::with_open_api().await;
    let (upstreams, proxy) = pinned(&world).await;
    for (host, upstream) in &upstreams {
        assert_eq!(proxy.get(&format!("http://{host}.test/x")).await.status, 200);
        assert_eq!(upstream.open_connections(), 1, "{host}");
    }
    world.domain.x509.replace().expect("an authority");
    world.workload_api.rotate().expect("issued");
    for (host, upstream) in &upstreams {
        until(async || upstream.open_connections() == 0, host).await;
        let arrivals = upstream.arrivals();
        proxy.get(&format!("http://{host}.test/x")).await.assert_refusal(502, "upstream_tls");
        assert_eq!(upstream.arrivals(), arrivals, "{host}");
    }
}

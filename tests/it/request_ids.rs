//! `x-request-id`: what finds a request again in the logs of the agent, the proxy and the upstream.
use super::agent::{self, Http2, Raw, full};
use super::world::{World, route, within};
use tokio::net::TcpListener;

#[tokio::test]
async fn request_id_is_forwarded_returned_and_logged_and_replaced_if_invalid() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let longest = "x".repeat(128);
    for (sent, is_kept) in [
        ("agent-id-4711", true),
        (longest.as_str(), true),
        (&format!("{longest}x"), false),
        ("two words", false),
        ("", false),
    ] {
        let reply = agent::get(proxy.outbound, "http://api.test/x", &[("x-request-id", sent)]).await;
        let seen = world.api.last_request().expect("seen");
        let id = reply.header("x-request-id");
        assert_eq!(seen.headers.get_all("x-request-id").iter().collect::<Vec<_>>(), [id], "{sent}");
        assert_eq!(id == sent, is_kept, "{sent}: {id}");
        let is_logged = |line: &str| line.contains(&format!("request_id=\"{id}\"")) && line.contains("api.test");
        assert_eq!(super::log::capture().count(is_logged), 1, "{id}");
    }
    // `Connection` cannot remove it.
    let fields = [("connection", "x-request-id"), ("x-request-id", "nominated")];
    let reply = agent::get(proxy.outbound, "http://api.test/x", &fields).await;
    assert_eq!(reply.header("x-request-id"), "nominated");
    assert_eq!(world.api.last_request().expect("seen").headers["x-request-id"], "nominated");
    let mut http2 = Http2::connect(proxy.outbound).await;
    let call = || http::Request::get("http://api.test/x").body(full("")).expect("request");
    let (first, second) = (http2.send(call()).await, http2.send(call()).await);
    assert_eq!(first.header("x-request-id").len(), 32);
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
}

#[tokio::test]
async fn refusal_names_the_request_id() {
    let world = World::with_open_api().await;
    let proxy = world.proxy().await;
    for (fields, expected) in [(&[][..], None), (&[("x-request-id", "agent-id-4712")][..], Some("agent-id-4712"))] {
        let reply = agent::get(proxy.outbound, "http://nowhere.test/x", fields).await;
        reply.assert_refusal(403, "no_route");
        let id = reply.header("x-request-id");
        assert_eq!(reply.json()["request_id"], id);
        assert!(expected.map_or(id.len() == 32, |expected| id == expected), "{id}");
    }
    let malformed = agent::raw(proxy.outbound, "GET /x HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await;
    assert!(malformed.contains("\r\nx-request-id: ") && malformed.contains("\"request_id\":"), "{malformed}");
}

/// The upstream's operators ask for the identifier that they assigned, so the agent has to see it.
#[tokio::test]
async fn request_id_of_the_upstream_is_returned_and_both_are_logged() {
    let world = World::with_open_api().await;
    let upstream = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", upstream.local_addr().expect("an address"));
    let proxy = world.proxy_with(&format!("routes:\n{}", route("odd", "token: none", &url))).await;
    let answer = async {
        let (stream, _) = within(upstream.accept(), "a connection").await.expect("accepted");
        let mut raw = Raw::over(stream);
        raw.head().await;
        raw.write("HTTP/1.1 200 OK\r\nx-request-id: req_theirs_4713\r\ncontent-length: 0\r\n\r\n").await;
        raw
    };
    let (reply, _open) =
        tokio::join!(agent::get(proxy.outbound, "http://odd.test/x", &[("x-request-id", "agent-id-4713")]), answer);
    assert_eq!(reply.header("x-request-id"), "req_theirs_4713");
    let names_both = |line: &str| {
        line.contains("request_id=\"agent-id-4713\"") && line.contains("upstream_request_id=\"req_theirs_4713\"")
    };
    assert_eq!(super::log::capture().count(names_both), 1);
}

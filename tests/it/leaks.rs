//! Leaks: the binary, watched from outside, holds nothing more after bursts of connections and
//! after connections that are reset.
use super::agent::{Http1, Http2, Raw, full};
use super::binary::many_descriptors;
use super::watched::Watched;
use super::world::{World, route, until, within};
use futures_util::future::join_all;
use http_body_util::BodyExt;
use socket2::SockRef;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Starts the binary with these routes in addition to [`World::routes`].
async fn watched(more: &str) -> Watched {
    let world = World::with_open_api().await;
    let config = format!("{}{}{more}", world.preamble(), world.routes());
    Watched::start(world, &config).await
}

#[tokio::test]
async fn burst_of_connections_leaves_nothing_behind() {
    // Each request takes one connection from the agent and one to the upstream, and this process
    // holds an end of both.
    let burst = usize::try_from(many_descriptors() / 4).expect("a number").min(2000);
    let mut watched = watched("").await;
    for _ in 0..3 {
        let mut held = Vec::new();
        for _ in 0..burst / 100 {
            held.extend(join_all((0..100).map(|_| Raw::connect(watched.proxy.outbound))).await);
        }
        let call = async |agent: &mut Raw| {
            agent.write("GET http://open.test/x HTTP/1.1\r\nhost: open.test\r\n\r\n").await;
            assert!(agent.head().await.starts_with("HTTP/1.1 200 "));
        };
        within(join_all(held.iter_mut().map(call)), "responses to all requests").await;
        assert_eq!(watched.proxy.status().await["connections"], held.len());
        drop(held);
        watched.assert_recovered(192 * 1024).await;
    }
}

/// Resets the connection instead of closing it.
fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set");
    drop(stream);
}

#[tokio::test]
async fn reset_by_the_agent_closes_the_upstream_connection() {
    let mut watched = watched("").await;
    for round in 0..40 {
        let mut agent = Raw::connect(watched.proxy.outbound).await;
        if round % 2 == 0 {
            agent.write("GET http://api.test/bytes/104857600 HTTP/1.1\r\nhost: api.test\r\n\r\n").await;
            agent.exactly(100_000).await.expect("the first bytes");
        } else {
            let head = "POST http://api.test/x HTTP/1.1\r\nhost: api.test\r\ncontent-length: 104857600\r\n\r\n";
            agent.write(head).await;
            agent.write(vec![b'x'; 100_000]).await;
        }
        reset(agent.stream);
    }
    until(async || watched.world.api.open_connections() == 0, "the upstream's connections are closed").await;
    watched.assert_recovered(16 * 1024).await;
}

/// Accepts a connection to this upstream and reads one head from it.
pub(crate) async fn accepted(upstream: &TcpListener) -> TcpStream {
    let (mut stream, _) = within(upstream.accept(), "a connection").await.expect("accepted");
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        assert!(within(stream.read_buf(&mut head), "a head").await.expect("read") > 0);
    }
    stream
}

#[tokio::test]
async fn reset_by_the_upstream_breaks_the_response_of_the_agent() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = upstream.local_addr().expect("an address");
    let route = route("cut", "token: itself", &format!("http://{address}"));
    let mut watched = watched(&route).await;
    let outbound = watched.proxy.outbound;
    let get = || {
        http::Request::builder().uri("http://cut.test/x").header("host", "cut.test").body(full("")).expect("request")
    };
    for round in 0..40 {
        let framing = if round % 2 == 0 {
            "content-length: 1000\r\n\r\nhalf"
        } else {
            "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"
        };
        let answer = async {
            let mut stream = accepted(&upstream).await;
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes()).await.expect("written");
            stream
        };
        let mut body;
        let (mut http1, mut http2) = (Http1::connect(outbound).await, Http2::connect(outbound).await);
        let ask = async {
            match round % 4 {
                0 | 1 => http1.head(get()).await,
                _ => within(http2.sender.send_request(get()), "a head").await.expect("a head"),
            }
        };
        let (stream, response) = tokio::join!(answer, ask);
        body = response.into_body();
        let half = within(body.frame(), "the first half").await.expect("a frame").expect("data");
        assert_eq!(half.into_data().expect("data"), "half");
        reset(stream);
        assert!(within(body.collect(), "the end").await.is_err(), "round {round}: half a body counts as complete");
    }
    for _ in 0..10 {
        let upload = async {
            let mut agent = Raw::connect(outbound).await;
            agent.write("POST http://cut.test/x HTTP/1.1\r\nhost: cut.test\r\ncontent-length: 100000000\r\n\r\n").await;
            // The proxy does not read the rest of an upload that it has refused, so writing it may
            // fail.
            let _ = within(agent.stream.write_all(&vec![b'x'; 10_000_000]), "the end of the upload").await;
            String::from_utf8_lossy(&agent.rest().await).into_owned()
        };
        let cut = async { reset(accepted(&upstream).await) };
        let (answer, ()) = tokio::join!(upload, cut);
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    }
    watched.assert_recovered(16 * 1024).await;
}

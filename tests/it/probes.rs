//! The small servers of the control plane: probes, metrics, published keys and the admin socket.
use super::agent::{self, Raw, full, request};
use super::world::{Proxy, World, until, within};
use futures_util::FutureExt;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// More connections than any of these servers has places for, even if all places became free twice.
const MANY: usize = 200;

/// Starts a proxy that also publishes keys.
async fn publishing(world: &World) -> Proxy {
    let preamble = world.preamble().replace("listen: {", "listen: { jwks: [\"127.0.0.1:0\"],");
    let proxy = Proxy::start(&world.write("proxy.yaml", &(preamble + &world.routes())), &world.clock);
    proxy.until_ready().await;
    proxy
}

/// Whether the other side has closed the connection.
fn is_closed(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    stream.read(&mut [0; 1024]).now_or_never().is_some_and(|read| !matches!(read, Ok(1..)))
}

#[tokio::test]
async fn silent_connections_do_not_keep_new_ones_out() {
    let world = World::with_open_api().await;
    let proxy = publishing(&world).await;
    let (jwks, admin) = (proxy.jwks.expect("a listener"), proxy.admin.clone().expect("a socket"));
    let (mut silent, mut silent_admin) = (Vec::new(), Vec::new());
    for _ in 0..MANY {
        for listener in [proxy.metrics, jwks] {
            silent.push(Raw::connect(listener).await);
        }
        silent_admin.push(UnixStream::connect(&admin).await.expect("connected"));
    }
    for path in ["/livez", "/readyz", "/startupz", "/metrics"] {
        assert_eq!(proxy.probe(path).await.status, 200, "{path}");
    }
    assert_eq!(agent::get(jwks, &format!("http://{jwks}/jwks"), &[]).await.status, 200);
    assert_eq!(proxy.status().await["ready"], true);
    // The latest connections still have their places.
    for agent in silent.iter_mut().rev().take(8) {
        assert!(!is_closed(&mut agent.stream));
    }
    let newest = silent_admin.last_mut().expect("connected");
    newest.write_all(b"GET /status HTTP/1.1\r\nhost: admin\r\n\r\n").await.expect("open");
    let mut status = [0; 12];
    within(newest.read_exact(&mut status), "an answer").await.expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 200");
}

#[tokio::test]
async fn servers_share_one_budget_of_connections() {
    let world = World::with_open_api().await;
    let proxy = publishing(&world).await;
    let jwks = proxy.jwks.expect("a listener");
    let mut silent = Vec::new();
    for _ in 0..MANY {
        for listener in [proxy.metrics, jwks] {
            silent.push(Raw::connect(listener).await);
        }
    }
    // Once these are answered, both servers have accepted all the others.
    assert_eq!(proxy.probe("/livez").await.status, 200);
    assert_eq!(agent::get(jwks, &format!("http://{jwks}/jwks"), &[]).await.status, 200);
    let mut open = 0;
    for agent in &mut silent {
        // The runtime limits how many connections a task reads without a pause.
        tokio::task::yield_now().await;
        open += usize::from(!is_closed(&mut agent.stream));
    }
    assert!(open <= 32, "{open} connections are open");
}

#[tokio::test]
async fn connections_that_have_asked_once_do_not_keep_new_ones_out() {
    let world = World::with_open_api().await;
    let proxy = publishing(&world).await;
    let mut asked = Vec::new();
    let asking = async {
        for _ in 0..MANY {
            let mut agent = Raw::connect(proxy.metrics).await;
            agent.write("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
            assert!(agent.head().await.starts_with("HTTP/1.1 200 "));
            asked.push(agent);
        }
    };
    within(asking, "answers that wait for nobody's timeout").await;
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(proxy.probe(path).await.status, 200, "{path}");
    }
    let closed = async || asked.iter().filter(|agent| agent.stream.readable().now_or_never().is_some()).count();
    until(async || closed().await > MANY / 2, "the older ones have given way").await;
}

#[tokio::test]
async fn refused_methods_are_answered_with_the_allowed_ones() {
    let world = World::with_open_api().await;
    let proxy = publishing(&world).await;
    let jwks = proxy.jwks.expect("a listener");
    for (listener, path) in
        [(proxy.metrics, "/metrics"), (proxy.metrics, "/livez"), (proxy.metrics, "/readyz"), (jwks, "/jwks")]
    {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let ask = request(&method, &format!("http://{listener}{path}"), &[]).body(full("")).expect("request");
            let reply = agent::send(listener, ask).await;
            assert_eq!((reply.status.as_u16(), reply.header("allow")), (405, "GET, HEAD"), "{method} {path}");
        }
        let ask = request(&Method::HEAD, &format!("http://{listener}{path}"), &[]).body(full("")).expect("request");
        assert_eq!(agent::send(listener, ask).await.status, 200, "{path}");
    }
    let admin = proxy.admin.as_ref().expect("a socket");
    for (line, allowed) in
        [("POST /status", "allow: GET, HEAD"), ("GET /log-level", "allow: PUT"), ("POST /log-level", "allow: PUT")]
    {
        let mut stream = UnixStream::connect(admin).await.expect("connected");
        let text = format!("{line} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.expect("written");
        let mut reply = String::new();
        within(stream.read_to_string(&mut reply), "an answer").await.expect("an answer");
        assert!(reply.starts_with("HTTP/1.1 405 ") && reply.contains(&format!("\r\n{allowed}\r\n")), "{reply}");
    }
}

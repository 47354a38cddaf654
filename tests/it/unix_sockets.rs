//! The agent over a Unix socket, where the kernel says who connects.
use super::agent::{Http1, full, request};
use super::binary::Process;
use super::world::{Proxy, World, until, within};
use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// A configuration that also listens as `listener` says, in which `SOCKET` is a path in the world's
/// directory.
fn listening(world: &World, listener: &str) -> (PathBuf, PathBuf) {
    let socket = world.directory.path().join("outbound.sock");
    let listener = listener.replace("SOCKET", &socket.display().to_string());
    let preamble = world.preamble().replace("outbound: [\"127.0.0.1:0\"]", &format!("outbound: [{listener}]"));
    (world.write("proxy.yaml", &(preamble + &world.routes())), socket)
}

async fn connect(socket: &Path) -> Http1<Full<Bytes>> {
    Http1::over(UnixStream::connect(socket).await.expect("connected")).await
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).expect("a file").permissions().mode() & 0o777
}

#[tokio::test]
async fn agent_reaches_every_route_over_a_unix_socket() {
    let world = World::start().await;
    let (config, socket) = listening(&world, "\"127.0.0.1:0\", \"unix://SOCKET\"");
    let mut proxy = Proxy::start(&config, &world.clock);
    proxy.until_ready().await;
    assert_eq!(mode(&socket), 0o600);
    let mut agent = connect(&socket).await;
    for (url, host) in [
        ("/api.test/v1/x", "localhost"),
        ("/short/v1/x", "127.0.0.1"),
        ("/v1/x", "api.test"),
        ("http://api.test/v1/x", "api.test"),
        ("http://localhost/short/v1/x", "localhost"),
    ] {
        let reply = agent.get(url, &[("host", host)]).await;
        assert_eq!(reply.status, 200, "{url} {host}: {}", reply.text());
        assert_eq!(world.api.last_request().expect("seen").target.to_string(), "/v1/x", "{url} {host}");
    }
    let page = [("host", "localhost"), ("sec-fetch-site", "cross-site")];
    agent.get("/api.test/v1/x", &page).await.assert_refusal(403, "cross_site");
    assert_eq!(proxy.status().await["connections"], 1);
    assert_eq!(proxy.metric("refused_peers_total").await, 0.0);
    proxy.drain();
    until(async || proxy.probe("/readyz").await.status == 503, "not ready").await;
    assert_eq!(
        connect(&socket).await.get("/short/x", &[("host", "localhost")]).await.status,
        200,
        "until the agent is gone"
    );
    drop(agent);
    assert_eq!(proxy.ended().await.result, Ok(()));
    assert!(!socket.exists(), "the file is removed");
}

#[tokio::test]
async fn process_of_another_user_is_refused() {
    let world = World::with_open_api().await;
    let own = nix::unistd::geteuid().as_raw();
    let (config, socket) = listening(&world, &format!("\"127.0.0.1:0\", {{ unix: SOCKET, uids: [{}] }}", own + 1));
    let proxy = Proxy::start(&config, &world.clock);
    proxy.until_ready().await;
    assert_eq!(mode(&socket), 0o666, "the other user may open it");
    for _ in 0..2 {
        let mut stream = UnixStream::connect(&socket).await.expect("connected");
        let mut nothing = [0; 1];
        // The proxy closes it without a byte.
        assert!(!matches!(within(stream.read(&mut nothing), "the end").await, Ok(1)));
    }
    proxy.until_metric("refused_peers_total", |count| count == 2.0).await;
    let names_us = |line: &str| line.contains("refused at the Unix socket") && line.contains(&format!("uid={own}"));
    assert!(super::log::capture().count(names_us) > 0);
    assert_eq!(proxy.get("http://open.test/x").await.status, 200);
}

#[tokio::test]
async fn unix_socket_may_be_the_only_listener_and_lists_the_uid() {
    let world = World::with_open_api().await;
    let own = nix::unistd::geteuid().as_raw();
    let (config, socket) = listening(&world, &format!("{{ unix: SOCKET, uids: [{own}] }}"));
    let source = idjag_proxy::config::Source {
        path: config,
        environment: std::sync::Arc::new(|_: &str| None),
        overrides: idjag_proxy::config::Overrides::default(),
    };
    let loaded = source.load().unwrap_or_else(|problems| panic!("{problems}"));
    let bound = idjag_proxy::app::bind(loaded, source, &world.clock, None).expect("bound");
    let (_stopper, stop) = idjag_proxy::tasks::Stop::pair();
    let mut tasks = idjag_proxy::tasks::Tasks::default();
    tasks.spawn("proxy", bound.run(stop));
    let get = request(&Method::GET, "http://open.test/x", &[]).body(full("")).expect("request");
    assert_eq!(connect(&socket).await.send(get).await.status, 200);
}

#[tokio::test]
async fn second_signal_leaves_no_socket_behind() {
    let world = World::with_open_api().await;
    let (config, socket) = listening(&world, "\"127.0.0.1:0\", \"unix://SOCKET\"");
    let mut process = Process::start(&world, &config, "info");
    let addresses = process.ready(&world).await;
    let admin = addresses.admin.clone().expect("a socket");
    let _held = connect(&socket).await;
    process.signal(Signal::SIGTERM);
    until(async || process.log().contains("draining"), "the first signal is logged").await;
    assert!(socket.exists() && admin.exists());
    process.signal(Signal::SIGTERM);
    assert_eq!(process.code().await, Some(1));
    assert!(!socket.exists() && !admin.exists());
}

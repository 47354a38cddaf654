//! Overload: what exceeds a limit is refused or waits, everything that was taken is released, and
//! the process keeps running.
use super::agent::{self, Http2, Raw, full};
use super::binary::Process;
use super::world::{Addresses, World, route, until, within};
use futures_util::future::join_all;
use idjag_proxy::dev::faults::{Fault, Gate};
use idjag_proxy::dev::resource_server::ResourceServer;
use nix::sys::signal::Signal;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const FULL_GET: &str = "GET http://open.test/x HTTP/1.1\r\nhost: open.test\r\n\r\n";

#[tokio::test]
async fn requests_above_the_limit_are_refused_until_others_end() {
    let world = World::with_open_api().await;
    let proxy = world.proxy_with(&format!("limits: {{ requests: 8 }}\n{}", world.routes())).await;
    for leave in [false, true, false] {
        let gate = Gate::default();
        world.api.faults().next_many(8, &Fault::Hold(gate.clone()));
        let mut held = join_all((0..8).map(|_| Raw::connect(proxy.outbound))).await;
        join_all(held.iter_mut().map(|agent| agent.write(FULL_GET))).await;
        within(gate.wait_for_arrivals(8), "the limit").await;
        let arrivals = world.api.arrivals();
        for reply in join_all((0..100).map(|_| proxy.get("http://open.test/x"))).await {
            reply.assert_refusal(503, "too_many_requests");
            assert!(reply.header("proxy-status").contains("error=connection_limit_reached"), "{reply:?}");
            assert_ne!(reply.header("retry-after"), "");
        }
        let grpc = [("content-type", "application/grpc")];
        agent::post(proxy.outbound, "http://open.test/x", &grpc, b"").await.assert_grpc_refusal("8");
        assert_eq!(world.api.arrivals(), arrivals);
        // The eight requests of a round succeed together, so a remainder would be a refused request that
        // was counted as a success.
        let succeeded = proxy.metric("requests_total{class=\"2xx\",route=\"open\"}").await;
        assert_eq!(succeeded as u64 % 8, 0);
        assert_eq!(proxy.probe("/readyz").await.status, 200);
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
    }
    assert_eq!(proxy.get("http://open.test/x").await.status, 200);
    assert_eq!(proxy.metric("refused_total{reason=\"too_many_requests\"}").await, 303.0);
    proxy.until_metric("downstream_connections{state=\"active\"}", |count| count == 0.0).await;
}

/// Fails unless exactly `cap` connections are served at once, and each further one is served when
/// another closes.
async fn assert_serves_exactly(world: &World, proxy: &Addresses, cap: usize) {
    let mut served = Vec::new();
    for _ in 0..cap {
        let mut agent = Raw::connect(proxy.outbound).await;
        agent.write(FULL_GET).await;
        assert!(agent.head().await.starts_with("HTTP/1.1 200 "));
        served.push(agent);
    }
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut agent = Raw::connect(proxy.outbound).await;
        agent.write("GET http://open.test/late HTTP/1.1\r\nhost: open.test\r\n\r\n").await;
        waiting.push(agent);
    }
    let late = || world.api.requests().iter().filter(|seen| seen.target.path() == "/late").count();
    let before = late();
    for _ in 0..5 {
        for agent in &mut served {
            agent.write(FULL_GET).await;
            agent.until(b"}\n").await;
        }
    }
    assert_eq!(proxy.status().await["connections"], cap);
    assert_eq!(late(), before, "more connections than the limit are served");
    for done in 1..=waiting.len() {
        drop(served.pop());
        until(async || late() == before + done, "one connection is served for each that closed").await;
    }
    drop((served, waiting));
    proxy.until_idle().await;
}

#[tokio::test]
async fn connections_above_the_limit_wait() {
    let world = World::with_open_api().await;
    // All workers and addresses share one limit, so an idle worker or address reserves no part of it.
    let preamble =
        world.preamble().replace("[\"127.0.0.1:0\"], metrics", "[\"127.0.0.1:0\", \"127.0.0.2:0\"], metrics");
    let config = world.write("two.yaml", &format!("{preamble}limits: {{ connections: 7 }}\n{}", world.routes()));
    let proxy = super::world::Proxy::start(&config, &world.clock);
    proxy.until_ready().await;
    for _ in 0..3 {
        assert_serves_exactly(&world, &proxy, 7).await;
    }
}

/// Connects, sends what `how` selects, and disconnects abruptly.
fn disconnect(proxy: SocketAddr, how: usize) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(super::world::TEST_TIMEOUT))?;
    let mut write = |bytes: &[u8]| stream.write_all(bytes);
    match how % 8 {
        0 => {}
        1 => write(b"GET /x HTT")?,
        2 | 3 => write(FULL_GET.as_bytes())?,
        4 => write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?,
        5 => write(b"CONNECT open.test:80 HTTP/1.1\r\nhost: open.test:80\r\n\r\n")?,
        6 => write(b"\x16\x03\x01\x00\xf0\x01")?,
        _ => write(b"POST http://open.test/x HTTP/1.1\r\nhost: open.test\r\ncontent-length: 100000\r\n\r\nhalf")?,
    }
    if how % 8 == 3 {
        stream.read_exact(&mut [0; 12])?;
    }
    if how.is_multiple_of(3) {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abrupt_disconnects_release_every_connection() {
    let world = World::with_open_api().await;
    let proxy = world.proxy_with(&format!("limits: {{ connections: 4 }}\n{}", world.routes())).await;
    let outbound = proxy.outbound;
    let threads = (0..12usize).map(|thread| {
        tokio::task::spawn_blocking(move || {
            for round in 0..30 {
                disconnect(outbound, thread + round).unwrap_or_else(|error| panic!("{thread} {round}: {error}"));
            }
        })
    });
    for thread in within(join_all(threads), "all threads to finish").await {
        thread.expect("no panic");
    }
    proxy.until_idle().await;
    assert_serves_exactly(&world, &proxy, 4).await;
}

#[tokio::test]
async fn proxy_answers_probes_and_recovers_without_free_descriptors() {
    let world = World::with_open_api().await;
    let other = ResourceServer::start(None, &world.clock).await.expect("server");
    let route = route("other", "token: none", &other.url());
    let config = world.write("process.yaml", &format!("{}{}{route}", world.preamble(), world.routes()));
    let mut process = Process::start_short_of_descriptors(&world, &config, 128);
    let proxy = process.ready(&world).await;
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    // More connections than there are descriptors, each with an unfinished request.
    let mut held = Vec::new();
    for _ in 0..150 {
        let mut agent = Raw::connect(proxy.outbound).await;
        agent.write("GET http://open.test/x HTTP/1.1\r\nhost: open.test\r\nconnection: close\r\n").await;
        held.push(agent);
    }
    for _ in 0..20 {
        assert_eq!(proxy.probe("/livez").await.status, 200);
        assert_eq!(proxy.status().await["ready"], true);
    }
    // The accepted connections are served, and the others as these close.
    let finish = |mut agent: Raw| async move {
        agent.write("\r\n").await;
        agent.head().await
    };
    for head in within(join_all(held.into_iter().map(finish)), "responses to all requests").await {
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
    // No idle connection remains that could be closed to free a descriptor.
    world.api.stop().await;
    proxy.until_metric("upstream_connections{state=\"idle\"}", |count| count == 0.0).await;
    world.api.restart().await.expect("restarted");
    // One connection from the agent, with more requests than there are descriptors for connections
    // to the upstream.
    let gate = Gate::default();
    world.api.faults().always(Fault::Hold(gate.clone()));
    let mut agent = Http2::connect(proxy.outbound).await;
    let call = || http::Request::builder().uri("http://api.test/x").body(full("")).expect("request");
    // Scrapes end during the calls. Each frees a descriptor, which a connection to the upstream must
    // not take from the reserve.
    let scrapes = async {
        loop {
            join_all((0..8).map(|_| proxy.scrape())).await;
        }
    };
    let answers = async {
        proxy.scrape().await;
        let calls: Vec<_> = (0..150).map(|_| agent.sender.send_request(call())).collect();
        join_all(calls).await
    };
    let mut answers = Box::pin(answers);
    let answers = tokio::select! {
        _ = &mut answers => panic!("150 answers arrived while the gate was shut"),
        () = scrapes => panic!("the endless scrapes ended"),
        () = proxy.until_metric("refused_total{reason=\"too_many_requests\"}", |count| count > 0.0) => {
            // New connections do not get the reserved descriptors either.
            let mut late = Vec::new();
            for _ in 0..40 {
                late.push(Raw::connect(proxy.outbound).await);
            }
            for _ in 0..20 {
                assert_eq!(proxy.probe("/livez").await.status, 200);
                assert_eq!(proxy.status().await["ready"], true);
            }
            until(async || proxy.descriptors().await < 110.0, "most of the 32 reserved descriptors are free").await;
            drop(late);
            gate.open();
            within(answers, "150 answers").await
        }
    };
    let mut refused = 0;
    for answer in answers {
        let reply = agent::Reply::of(answer.expect("an answer")).await;
        if reply.status != 200 {
            reply.assert_refusal(503, "too_many_requests");
            refused += 1;
        }
    }
    assert!((1..150).contains(&refused), "{refused} refused");
    world.api.faults().clear();
    // All descriptors are now held by idle connections, which are closed to make room.
    let gate = Gate::default();
    other.faults().always(Fault::Hold(gate.clone()));
    let call = || http::Request::builder().uri("http://other.test/x").body(full("")).expect("request");
    let calls: Vec<_> = (0..10).map(|_| agent.sender.send_request(call())).collect();
    let (answers, ()) = tokio::join!(join_all(calls), async {
        within(gate.wait_for_arrivals(10), "all requests at the other upstream").await;
        gate.open();
    });
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.status() == 200)), "{answers:?}");
    drop((answers, agent));
    proxy.until_idle().await;
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    assert!(process.child.try_wait().expect("asked").is_none(), "the process has ended");
    let log = process.log();
    // A refused request may have a second line, about its upstream.
    let further = log.lines().filter(|line| !line.contains("idjag_proxy::request")).count();
    assert!(further < 20 + refused, "{further} lines in addition to those of the requests:\n{log}");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.code().await, Some(0));
}

//! Floods by one agent, on a worker that serves another agent as well. The flood is stopped or held
//! back, the other agent notices nothing, memory stays bounded, and everything is released
//! afterwards.
use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames, HEADERS, INITIAL_WINDOW_SIZE,
    LARGEST_WINDOW, PING, WINDOW_UPDATE, block, frame, get, reset, settings, streams, string,
};
use super::watched::Watched;
use super::world::{World, route, until, within};
use idjag_proxy::dev::faults::{Fault, Gate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// The memory that a flood may take, in KiB: far less than it sends or asks the proxy to keep.
const MEMORY: u64 = 64 * 1024;
const HOST: &str = "open.test";

/// Starts the binary with one worker, so that the flood and the other agent share it.
async fn victim() -> Watched {
    victim_with("").await
}

/// Starts the same with one more route.
async fn victim_with(route: &str) -> Watched {
    let world = World::with_open_api().await;
    let preamble = world.preamble().replace("workers: 2", "workers: 1");
    let config = format!("{preamble}{}{route}", world.routes());
    Watched::start(world, &config).await
}

#[tokio::test]
async fn rapid_reset_ends_with_enhance_your_calm() {
    let mut victim = victim().await;
    let burst: Vec<u8> =
        streams().take(1000).flat_map(|stream| [get(stream, HOST, "/x"), reset(stream)].concat()).collect();
    let mut one = Frames::connect(victim.proxy.outbound, &[]).await;
    one.write(&burst).await;
    assert_eq!(one.goaway().await, Some(ENHANCE_YOUR_CALM));
    victim
        .attack_with(async {
            loop {
                let mut agent = Frames::connect(victim.proxy.outbound, &[]).await;
                agent.write(&burst).await;
            }
        })
        .await;
    victim.assert_recovered(MEMORY).await;
}

#[tokio::test]
async fn reset_streams_end_their_requests_at_the_upstream() {
    let mut victim = victim().await;
    let gate = Gate::default();
    let hold = Fault::Hold(gate.clone());
    let mut agent = Frames::connect(victim.proxy.outbound, &[]).await;
    let mut numbers = streams();
    for round in 1..=10 {
        victim.world.api.faults().next_many(100, &hold);
        let round_of_streams: Vec<u32> = numbers.by_ref().take(100).collect();
        for stream in &round_of_streams {
            assert!(agent.write(get(*stream, HOST, "/held")).await);
        }
        within(gate.wait_for_arrivals(round * 100), "all requests at the upstream").await;
        for stream in round_of_streams {
            assert!(agent.write(reset(stream)).await);
        }
        until(async || victim.proxy.status().await["requests"] == 0, "all requests are abandoned").await;
        victim.assert_serves_neighbour().await;
    }
    drop(agent);
    victim.assert_recovered(MEMORY).await;
}

#[tokio::test]
async fn endless_settings_and_pings_are_answered_no_faster_than_read() {
    let mut victim = victim().await;
    for flood in [settings(&[(INITIAL_WINDOW_SIZE, 1)]), frame(PING, 0, 0, &[7; 8])] {
        let mut agent = Frames::connect(victim.proxy.outbound, &[]).await;
        assert!(agent.write(flood.repeat(2000)).await);
        assert!(agent.write(get(1, HOST, "/x")).await);
        agent.until(HEADERS, 1).await;
        let (mut agent, many) = (Frames::connect(victim.proxy.outbound, &[]).await, flood.repeat(10_000));
        victim.attack_with(async { while agent.write(&many).await {} }).await;
    }
    victim.assert_recovered(MEMORY).await;
}

#[tokio::test]
async fn endless_header_section_ends_with_enhance_your_calm() {
    let mut victim = victim().await;
    let field = [&[0][..], &string("x-field"), &string(&"y".repeat(100))].concat();
    let fields = field.repeat(16_000 / field.len());
    let start = frame(HEADERS, END_STREAM, 1, &block("GET", HOST, "/x"));
    // Large, small and empty fragments: each kind might evade some limit.
    for fragment in [&fields[..], &field, &[]] {
        let mut agent = Frames::connect(victim.proxy.outbound, &[]).await;
        agent.write(&start).await;
        let next = frame(CONTINUATION, 0, 1, fragment);
        victim.attack_with(async { while agent.write(&next).await {} }).await;
        assert_eq!(agent.goaway().await, Some(ENHANCE_YOUR_CALM), "{} bytes each", fragment.len());
    }
    victim.assert_recovered(MEMORY).await;
}

#[tokio::test]
async fn header_list_of_a_mebibyte_is_refused() {
    let mut victim = victim().await;
    let before = victim.world.api.arrivals();
    // Uncompressed: 64 fragments of 16 KiB.
    let field = [&[0][..], &string("x-field"), &string(&"y".repeat(100))].concat();
    let fields = field.repeat(16_000 / field.len());
    let mut bytes = frame(HEADERS, END_STREAM, 1, &block("GET", HOST, "/x"));
    for _ in 0..64 {
        bytes.extend(frame(CONTINUATION, 0, 1, &fields));
    }
    bytes.extend(frame(CONTINUATION, END_HEADERS, 1, &fields));
    let mut agent = Frames::connect(victim.proxy.outbound, &[]).await;
    agent.write(bytes).await;
    assert_eq!(agent.goaway().await, Some(ENHANCE_YOUR_CALM));
    // Compressed: one field that is indexed (RFC 7541 §6.2.1) and then repeated by one byte each.
    let indexed = [&[0x40][..], &string("x-field"), &string(&"y".repeat(100))].concat();
    let bomb = |times: usize| {
        let block = [&block("GET", HOST, "/x")[..], &indexed, &vec![0x80 | 62; times]].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
    };
    let mut agent = Frames::connect(victim.proxy.outbound, &[]).await;
    agent.write(bomb(10_000)).await;
    assert_eq!(agent.goaway().await, Some(ENHANCE_YOUR_CALM));
    let mut agent = Frames::connect(victim.proxy.outbound, &[]).await;
    agent.write(bomb(1000)).await;
    // `:status: 431` as a literal (RFC 7541 §6.2.1) with Huffman coding.
    assert!(agent.until(HEADERS, 1).await.payload.starts_with(&[0x48, 0x83, 0x69, 0x90, 0xff]));
    assert_eq!(victim.world.api.arrivals(), before, "a refused request reached the upstream");
    drop(agent);
    victim.assert_recovered(MEMORY).await;
}

/// Starts an upstream whose responses never end. Its send buffers are small, because all processes
/// share the kernel's memory for sockets.
async fn endless() -> (String, JoinSet<()>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_send_buffer_size(32 * 1024).expect("set");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let listener = socket.listen(1024).expect("listening");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
                let mut next: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
                while stream.write_all(next).await.is_ok() {
                    next = &[b'x'; 16 * 1024];
                }
            });
        }
    });
    (url, task)
}

#[tokio::test]
async fn unread_answers_are_not_buffered_beyond_the_window() {
    let (url, _task) = endless().await;
    let route = route("endless", "token: none", &url);
    let mut victim = victim_with(&route).await;
    let count = 200;
    // A window of zero, and the largest window on a connection that is never read.
    for window in [0, LARGEST_WINDOW] {
        let mut agents = Vec::new();
        for _ in 0..2 {
            let mut agent = Frames::connect(victim.proxy.outbound, &[(INITIAL_WINDOW_SIZE, window)]).await;
            agent.write(frame(WINDOW_UPDATE, 0, 0, &(LARGEST_WINDOW - 65_535).to_be_bytes())).await;
            for stream in streams().take(count) {
                agent.write(get(stream, "endless.test", "/x")).await;
            }
            agents.push(agent);
        }
        until(async || victim.proxy.status().await["requests"] == 2 * count, "all requests are in flight").await;
        victim.assert_serves_neighbour().await;
        drop(agents);
        victim.proxy.until_idle().await;
    }
    victim.assert_recovered(MEMORY).await;
}

#[tokio::test]
async fn unread_uploads_are_not_buffered_beyond_the_window() {
    let mut victim = victim().await;
    let gate = Gate::default();
    victim.world.api.faults().next_many(100, &Fault::Hold(gate.clone()));
    let mut agent = Frames::connect(victim.proxy.outbound, &[]).await;
    for stream in streams().take(100) {
        agent.write(frame(HEADERS, END_HEADERS, stream, &block("POST", HOST, "/x"))).await;
    }
    within(gate.wait_for_arrivals(100), "all requests at the upstream").await;
    // Data within the windows and far beyond them. What exceeds them is a violation that ends the
    // connection.
    let data: Vec<u8> = streams().take(100).flat_map(|stream| frame(DATA, 0, stream, &[0; 16_384])).collect();
    victim.attack_with(async { while agent.write(&data).await {} }).await;
    drop(agent);
    victim.assert_recovered(MEMORY).await;
}

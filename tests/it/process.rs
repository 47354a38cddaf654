//! The process itself: exit codes, signals, and a log whose reader stalls.
use super::agent::{self, Http1, full, request};
use super::binary::{BINARY, Process, addresses};
use super::world::{World, until, within};
use http::Method;
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::process::Output;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;

fn config(world: &World) -> PathBuf {
    world.write("process.yaml", &format!("{}{}", world.preamble(), world.routes()))
}

#[tokio::test]
async fn invalid_configuration_exits_with_78_and_lists_every_problem() {
    let world = World::with_open_api().await;
    let bad = world.write("bad.yaml", "routes:\n  - { match: { hots: a.test }, token: nobody }\nlisen: {}\n");
    let mut process = Process::start(&world, &bad, "info");
    assert_eq!(process.code().await, Some(78));
    let log = process.log();
    for word in ["hots", "lisen"] {
        assert!(log.contains(word), "{word} in {log}");
    }
}

async fn command(arguments: &[&str]) -> Output {
    within(Command::new(BINARY).args(arguments).output(), "its end").await.expect("run")
}

#[tokio::test]
async fn invalid_command_line_exits_with_2_and_shows_usage() {
    for arguments in [
        &[][..],
        &["rnu"],
        &["run"],
        &["run", "a.yaml", "b.yaml"],
        &["run", "a.yaml", "--lisen", "127.0.0.1:1"],
        &["run", "a.yaml", "--listen-outbound", "nowhere"],
        &["run", "a.yaml", "--log-level", "degub"],
        &["check"],
        &["status", "--admin"],
        &["demo", "--twice"],
    ] {
        let output = command(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("Usage:") || text.contains("--help"), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    assert_eq!(command(&["--version"]).await.status.code(), Some(0));
}

#[tokio::test]
async fn port_in_use_exits_with_1_and_names_the_setting() {
    let world = World::with_open_api().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = taken.local_addr().expect("an address").to_string();
    for setting in ["outbound", "metrics"] {
        let config = config(&world);
        let config = config.to_str().expect("text");
        let output = command(&["run", config, &format!("--listen-{setting}"), &address]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let says = |text: &[u8]| String::from_utf8_lossy(text).contains(&format!("listen.{setting}: {address}"));
        assert!(
            says(&output.stderr) && says(&output.stdout),
            "both standard error and the log name the setting: {output:?}"
        );
    }
}

#[tokio::test]
async fn status_exits_with_1_in_both_formats_while_not_ready() {
    let world = World::with_open_api().await;
    let socket = format!("unix://{}", world.directory.path().join("admin.sock").display());
    let status = async || {
        let page = command(&["status", "--admin", &socket]).await;
        let json = command(&["status", "--json", "--admin", &socket]).await;
        let ready = serde_json::from_slice::<serde_json::Value>(&json.stdout).map(|status| status["ready"].clone());
        (page.status.code(), json.status.code(), ready.ok())
    };
    assert_eq!(status().await, (Some(1), Some(1), None), "no proxy is running");
    world.workload_api.withdraw();
    let proxy = world.start_proxy(&world.routes()).await;
    assert_eq!(proxy.probe("/readyz").await.status, 503);
    assert_eq!(status().await, (Some(1), Some(1), Some(false.into())));
    world.workload_api.restore();
    proxy.until_ready().await;
    assert_eq!(status().await, (Some(0), Some(0), Some(true.into())));
}

#[tokio::test]
async fn second_signal_exits_immediately() {
    let world = World::with_open_api().await;
    let mut process = Process::start(&world, &config(&world), "info");
    let _held = agent::Raw::connect(process.ready(&world).await.outbound).await;
    process.signal(Signal::SIGTERM);
    until(async || process.log().contains("draining"), "the first signal is logged").await;
    process.signal(Signal::SIGTERM);
    assert_eq!(process.code().await, Some(1));
    let log = process.log();
    let is_reason = |line: &str| line.starts_with('{') && line.contains("stopped") && line.contains("a second signal");
    assert!(log.lines().any(is_reason), "the log says why the process ended:\n{log}");
}

/// Reads lines until one contains `word`.
async fn line_with(pipe: &mut (impl AsyncBufRead + Unpin), word: &str) -> String {
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        let size = within(pipe.read_line(&mut line), word).await.expect("read");
        assert!(size > 0, "the log ended before {word}");
    }
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_log_reader_loses_lines_and_holds_up_neither_requests_nor_the_exit() {
    let world = World::with_open_api().await;
    let (mut process, pipe) = Process::start_on_a_pipe(&world, &config(&world));
    let mut pipe = BufReader::with_capacity(512, pipe);
    let proxy = addresses(&world, &line_with(&mut pipe, "listening").await);
    proxy.until_ready().await;
    let before = process.memory("VmHWM");
    let long = "x".repeat(4000);
    let mut agent = Http1::connect(proxy.outbound).await;
    for stall in 1..=2 {
        let dropped = proxy.metric("log_lines_dropped_total").await;
        while proxy.metric("log_lines_dropped_total").await == dropped {
            for _ in 0..500 {
                let get =
                    request(&Method::GET, &format!("http://nowhere.test/{long}"), &[]).body(full("")).expect("request");
                assert_eq!(agent.send(get).await.status, 403);
            }
        }
        assert_eq!(proxy.get("http://open.test/x").await.status, 200);
        if stall == 1 {
            let read = async {
                line_with(&mut pipe, "after-the-stall.test").await;
            };
            let call = async {
                // The first of these lines may be lost as well, because there is room only after
                // the reader has read.
                loop {
                    proxy.get("http://after-the-stall.test/x").await;
                }
            };
            tokio::select! {
                () = read => {}
                () = call => {}
            }
        }
    }
    let growth = process.memory("VmHWM") - before;
    assert!(growth < 24 * 1024, "{growth} KiB for queued lines");
    drop(agent);
    process.signal(Signal::SIGTERM);
    assert_eq!(process.code().await, Some(0));
    drop(pipe);
}

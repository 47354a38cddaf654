//! The process itself: exit codes, signals, and a log that at its most talkative has no secret in it.
use super::agent::{self, Http1, full, request};
use super::binary::{Process, ports};
use super::rig::{LEGACY_KEY, World, until, within};
use http::Method;
use nix::sys::signal::Signal;
use std::path::PathBuf;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::process::Command;

fn config(world: &World) -> PathBuf {
    world.write("process.yaml", &format!("{}{}", world.preamble(), world.routes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_any_log_metric_status_or_error() {
    let world = World::start().await;
    let mut process = Process::start(&world, &config(&world), "trace");
    let ports = process.ready(&world).await;
    let alice = world.id_token("alice");
    let mut shown = String::new();
    for (host, token) in [
        ("api.test", "canary-agents-own"),
        ("user.test", &alice),
        ("user.test", "canary-no-token"),
        ("legacy.test", "canary-agents-own"),
        ("nowhere.test", "canary-agents-own"),
        ("api.test:81", "canary-agents-own"),
    ] {
        let bearer = format!("Bearer {token}");
        let fields = [("x-user-token", token), ("authorization", bearer.as_str()), ("cookie", "id=canary-cookie")];
        let reply = agent::get(ports.outbound, &format!("http://{host}/x?key=canary-query"), &fields).await;
        // The upstream here is one that shows what it got; what this proxy says is everything else.
        if !reply.status.is_success() {
            shown.push_str(&format!("{reply:?}"));
        }
    }
    let issued: Vec<String> = (world.api.requests().iter())
        .filter_map(|seen| seen.headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ").map(str::to_owned))
        .collect();
    assert_eq!(issued.len(), 2, "the search has something to look for");
    let assertions = world.corp.requests().into_iter().flat_map(|recorded| recorded.form.0);
    let assertions = assertions.filter(|(name, _)| matches!(name.as_str(), "client_assertion" | "subject_token"));
    let mut secrets: Vec<String> = assertions.map(|(_, value)| value).chain(issued).collect();
    secrets.extend([alice, LEGACY_KEY.to_owned()]);
    secrets.extend(["canary-agents-own", "canary-no-token", "canary-cookie", "canary-query"].map(str::to_owned));
    shown.push_str(&ports.scrape().await);
    shown.push_str(&ports.probe("/readyz").await.text());
    let admin = world.directory.path().join("admin.sock");
    let status = Command::new(env!("CARGO_BIN_EXE_idjag-proxy")).arg("status").arg("--admin").arg(&admin).output();
    let status = within(status, "the status").await.expect("run");
    shown.push_str(&String::from_utf8_lossy(&status.stdout));
    process.signal(Signal::SIGTERM);
    assert_eq!(process.code().await, Some(0));
    let log = process.log();
    assert!(log.contains("nowhere.test"), "the log has its line per request");
    shown.push_str(&log);
    for secret in secrets {
        // A signature alone would be enough to find a token by.
        let tail = secret.rsplit('.').next().expect("a part").to_owned();
        let place = shown.find(&tail).map(|at| shown[at.saturating_sub(300)..at].to_owned());
        assert_eq!(place, None, "{secret:.24} is shown");
    }
}

#[tokio::test]
async fn a_bad_configuration_ends_with_78_and_every_problem() {
    let world = World::open().await;
    let bad = world.write("bad.yaml", "routes:\n  - { match: { hots: a.test }, token: nobody }\nlisen: {}\n");
    let mut process = Process::start(&world, &bad, "info");
    assert_eq!(process.code().await, Some(78));
    let log = process.log();
    for word in ["hots", "lisen"] {
        assert!(log.contains(word), "{word} in {log}");
    }
}

#[tokio::test]
async fn a_second_signal_leaves_at_once() {
    let world = World::open().await;
    let mut process = Process::start(&world, &config(&world), "info");
    let _held = agent::Raw::connect(process.ready(&world).await.outbound).await;
    process.signal(Signal::SIGTERM);
    until(async || process.log().contains("draining"), "the first is heard").await;
    process.signal(Signal::SIGTERM);
    assert_eq!(process.code().await, Some(1));
}

/// Reads lines until one has `word` in it.
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
async fn a_log_that_nobody_reads_costs_lines_and_neither_requests_nor_memory_nor_the_exit() {
    let world = World::open().await;
    let (mut process, pipe) = Process::start_on_a_pipe(&world, &config(&world));
    let mut pipe = BufReader::with_capacity(512, pipe);
    let proxy = ports(&world, &line_with(&mut pipe, "listening").await);
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
                // The first of these lines may be lost as well: there is room once the reader has read.
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
    assert!(growth < 24 * 1024, "{growth} KiB for lines that wait");
    drop(agent);
    process.signal(Signal::SIGTERM);
    assert_eq!(process.code().await, Some(0));
    drop(pipe);
}

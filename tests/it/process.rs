//! The process itself: exit codes, signals, and a log that at its most talkative has no secret in it.
use super::agent;
use super::rig::{LEGACY_KEY, World, until, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};

/// `idjag-proxy run`, writing to a file.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(world: &World, config: &Path, level: &str) -> Self {
        let log = world.directory.path().join("process.log");
        let file = std::fs::File::create(&log).expect("created");
        let child = Command::new(env!("CARGO_BIN_EXE_idjag-proxy"))
            .args(["run", "--log-level", level])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        Self { child, log }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).expect("read")).into_owned()
    }

    /// The first address that the line `listening` gives for this listener.
    async fn address(&self, listener: &str) -> SocketAddr {
        let find = || -> Option<SocketAddr> {
            let log = self.log();
            let line = log.lines().find(|line| line.contains("listening") && line.contains(listener))?;
            let rest = &line[line.find(listener)?..];
            rest[rest.find('[')? + 1..rest.find(']')?].split(',').next()?.parse().ok()
        };
        until(async || find().is_some(), "the line with the addresses").await;
        find().expect("an address")
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().expect("running");
        kill(Pid::from_raw(i32::try_from(id).expect("an id")), signal).expect("signalled");
    }

    async fn code(&mut self) -> Option<i32> {
        within(self.child.wait(), "the end of the process").await.expect("waited").code()
    }
}

fn config(world: &World) -> PathBuf {
    world.write("process.yaml", &format!("{}{}", world.preamble(), world.routes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_any_log_metric_status_or_error() {
    let world = World::start().await;
    let mut process = Process::start(&world, &config(&world), "trace");
    let (outbound, metrics) = (process.address("outbound").await, process.address("metrics").await);
    let ready = async || agent::get(metrics, &format!("http://{metrics}/readyz"), &[]).await.status == 200;
    until(ready, "ready").await;
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
        let reply = agent::get(outbound, &format!("http://{host}/x?key=canary-query"), &fields).await;
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
    shown.push_str(&agent::get(metrics, &format!("http://{metrics}/metrics"), &[]).await.text());
    shown.push_str(&agent::get(metrics, &format!("http://{metrics}/readyz"), &[]).await.text());
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
    let outbound = process.address("outbound").await;
    let _held = agent::Raw::connect(outbound).await;
    process.signal(Signal::SIGTERM);
    until(async || process.log().contains("draining"), "the first is heard").await;
    process.signal(Signal::SIGTERM);
    assert_eq!(process.code().await, Some(1));
}

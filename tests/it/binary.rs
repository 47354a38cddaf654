//! The binary as a process of its own: started, found by the addresses that it logs, signalled and
//! measured.
use super::world::{Addresses, World, until, within};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, ChildStdout, Command};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_idjag-proxy");

/// A running `idjag-proxy run` that logs to a file.
pub(crate) struct Process {
    pub(crate) child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(world: &World, config: &Path, level: &str) -> Self {
        Self::spawn(world, Command::new(BINARY).args(["run", "--log-level", level]).arg(config))
    }

    /// Starts a process that may open at most `most` file descriptors.
    pub(crate) fn start_short_of_descriptors(world: &World, config: &Path, most: u32) -> Self {
        let script = format!("ulimit -n {most} && exec \"$0\" run \"$1\"");
        Self::spawn(world, Command::new("sh").args(["-c", &script, BINARY]).arg(config))
    }

    /// Starts a process without a limit on core dumps.
    pub(crate) fn start_with_core_dumps(world: &World, config: &Path) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -c $(ulimit -H -c) && exec \"$0\" run \"$1\"", BINARY]).arg(config);
        Self::spawn(world, shell.current_dir(world.directory.path()))
    }

    /// Starts a process whose standard output and error are one pipe, which is read only when the
    /// test reads it.
    pub(crate) fn start_on_a_pipe(world: &World, config: &Path) -> (Self, ChildStdout) {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "exec \"$0\" run \"$1\" 2>&1", BINARY])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = shell.kill_on_drop(true).spawn().expect("started");
        let pipe = child.stdout.take().expect("a pipe");
        (Self { child, log: world.directory.path().join("nothing.log") }, pipe)
    }

    fn spawn(world: &World, command: &mut Command) -> Self {
        let log = world.directory.path().join("process.log");
        let file = std::fs::File::create(&log).expect("created");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
        Self { child: command.kill_on_drop(true).spawn().expect("started"), log }
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).expect("read")).into_owned()
    }

    /// Waits until it is ready and returns its addresses.
    pub(crate) async fn ready(&self, world: &World) -> Addresses {
        let line = || self.log().lines().find(|line| line.contains("listening")).map(str::to_owned);
        until(async || line().is_some(), "the line with the addresses").await;
        let addresses = addresses(world, &line().expect("the line"));
        addresses.until_ready().await;
        addresses
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("signalled");
    }

    pub(crate) async fn code(&mut self) -> Option<i32> {
        within(self.child.wait(), "the end of the process").await.expect("waited").code()
    }

    /// Reads a line of `/proc/PID/status` in KiB: `VmRSS` is its resident memory, `VmHWM` the
    /// largest that it ever had.
    pub(crate) fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running process");
        let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).expect("the line");
        value.split_whitespace().next().expect("a number").parse().expect("a number")
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id().expect("running")).expect("an id"))
    }
}

/// Reads the addresses from the log line `listening`.
pub(crate) fn addresses(world: &World, line: &str) -> Addresses {
    let address = |listener: &str| -> SocketAddr {
        let rest = &line[line.find(listener).expect("the listener")..];
        let list = &rest[rest.find('[').expect("a list") + 1..rest.find(']').expect("its end")];
        list.split(',').next().expect("one").parse().expect("an address")
    };
    let admin = Some(world.directory.path().join("admin.sock"));
    Addresses { outbound: address("outbound"), metrics: address("metrics"), admin, jwks: None }
}

/// Allows this process, which is both agent and upstream, to open as many sockets as the system
/// permits, and returns how many.
pub(crate) fn many_descriptors() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised");
    hard
}

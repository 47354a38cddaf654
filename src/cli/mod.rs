//! The command line. Only here, and in `config`, the environment is read; only here people are talked to.
mod check;
#[cfg(feature = "dev")]
mod demo;
mod hardening;
#[cfg(feature = "kubernetes")]
mod inject;
#[cfg(feature = "kubernetes")]
mod injector;
mod jwks;
mod run;
mod schema;
mod signals;
mod status;

use crate::config::Overrides;
use crate::identity::{Endpoint, parse_endpoint};
use crate::telemetry::Level;
use clap::{Args, Parser, Subcommand};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// sysexits(3): the input data is refused.
#[cfg(feature = "kubernetes")]
pub(crate) const EX_DATAERR: u8 = 65;
/// sysexits(3): the configuration is wrong.
pub(crate) const EX_CONFIG: u8 = 78;
/// Something failed at run time.
pub(crate) const EX_FAILED: u8 = 1;

/// Gives an AI agent's outbound calls an identity: plain HTTP in, an authenticated request over (m)TLS out.
#[derive(Parser)]
#[command(name = "idjag-proxy", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the proxy.
    Run {
        /// The configuration file.
        file: PathBuf,
        #[command(flatten)]
        flags: Flags,
    },
    /// Say everything that is wrong with a configuration, or what it allows whom.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
    /// Print the JSON Schema of the configuration file, for editors.
    Schema,
    /// Print the keys that verify the assertions which this configuration signs, as a JWK set.
    Jwks {
        /// The configuration file.
        file: PathBuf,
    },
    /// Ask a running proxy what it holds.
    Status {
        /// The admin socket (`listen.admin`).
        #[arg(long, default_value = DEFAULT_ADMIN, value_parser = socket)]
        admin: PathBuf,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Change the log level of a running proxy.
    LogLevel {
        /// off, error, warn, info, debug, trace, or a list like `info,idjag_proxy::token=debug`.
        level: String,
        /// The admin socket (`listen.admin`).
        #[arg(long, default_value = DEFAULT_ADMIN, value_parser = socket)]
        admin: PathBuf,
    },
    /// Put the sidecar into Kubernetes manifests: YAML or JSON on standard input, the same with sidecars on standard output.
    #[cfg(feature = "kubernetes")]
    Inject(inject::Arguments),
    /// Run the webhook that puts the sidecar into pods as they are created.
    #[cfg(feature = "kubernetes")]
    Injector(injector::Arguments),
    /// See it work: every part in one process, walked through step by step.
    #[cfg(feature = "dev")]
    Demo {
        /// Leave after the walk; fail if a step did.
        #[arg(long)]
        once: bool,
    },
}

/// Where the chart puts it.
const DEFAULT_ADMIN: &str = "/run/idjag-proxy/admin.sock";

/// What wins over the file.
#[derive(Args)]
struct Flags {
    /// The Workload API's socket, instead of `identity.workload_api.socket`.
    #[arg(long, value_name = "SOCKET", value_parser = endpoint)]
    workload_api_socket: Option<Endpoint>,
    /// Where the agent connects, instead of `listen.outbound`. May be given more than once.
    #[arg(long, value_name = "ADDRESS")]
    listen_outbound: Vec<SocketAddr>,
    /// Where metrics and probes are, instead of `listen.metrics`. May be given more than once.
    #[arg(long, value_name = "ADDRESS")]
    listen_metrics: Vec<SocketAddr>,
    /// The admin socket, instead of `listen.admin`.
    #[arg(long, value_name = "PATH", value_parser = socket)]
    admin: Option<PathBuf>,
    /// The log level, instead of `log.level`.
    #[arg(long, value_name = "LEVEL", value_parser = log_level)]
    log_level: Option<Level>,
}

/// Does what the command line asks for.
pub fn main() -> ExitCode {
    hardening::harden();
    match Cli::parse().command {
        Command::Run { file, flags } => run::run(&file, flags.into_overrides()),
        Command::Check { file } => check::run(&file),
        Command::Schema => schema::run(),
        Command::Jwks { file } => jwks::run(&file),
        Command::Status { admin, json } => status::run(admin, json),
        Command::LogLevel { level, admin } => status::set_log_level(admin, &level),
        #[cfg(feature = "kubernetes")]
        Command::Inject(arguments) => inject::run(arguments),
        #[cfg(feature = "kubernetes")]
        Command::Injector(arguments) => injector::run(arguments),
        #[cfg(feature = "dev")]
        Command::Demo { once } => demo::run(once),
    }
}

impl Flags {
    fn into_overrides(self) -> Overrides {
        Overrides {
            workload_api_socket: self.workload_api_socket,
            listen_outbound: self.listen_outbound,
            listen_metrics: self.listen_metrics,
            admin: self.admin,
            log_level: self.log_level,
        }
    }
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    parse_endpoint(text).map_err(|error| error.to_string())
}

/// A path, or as `listen.admin` spells it.
fn socket(text: &str) -> Result<PathBuf, Infallible> {
    Ok(PathBuf::from(text.strip_prefix("unix://").unwrap_or(text)))
}

fn log_level(text: &str) -> Result<Level, String> {
    Level::parse(text).ok_or_else(|| "use error, warn, info, debug or trace".to_owned())
}

/// The environment, as far as the configuration may see it.
#[expect(clippy::disallowed_methods, reason = "the one place that hands the environment to `config`")]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// One line for people on standard error.
#[expect(clippy::print_stderr, reason = "the command line talks to people")]
pub(crate) fn complain(text: &str) {
    eprintln!("{text}");
}

/// What was asked for, on standard output. A reader that has gone away is no failure.
pub(crate) fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A runtime for one short question.
fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

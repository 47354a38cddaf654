//! The command line. It is the only module that prints messages for people, and only it and
//! `config` read the environment.
mod check;
#[cfg(feature = "dev")]
mod demo;
mod hardening;
#[cfg(feature = "kubernetes")]
mod inject;
#[cfg(feature = "kubernetes")]
mod injector;
mod jwks;
mod proxy_variables;
mod run;
mod schema;
mod signals;
mod status;
mod terminal;

use crate::config::Overrides;
use crate::identity::{Endpoint, parse_endpoint};
use crate::telemetry::Level;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use terminal::log_level;

/// Gives an AI agent's outbound calls an identity: plain HTTP in, an authenticated request over
/// (m)TLS out.
#[derive(Parser)]
#[command(name = "idjag-proxy", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the proxy with a configuration file.
    Run {
        /// The configuration file.
        file: PathBuf,
        #[command(flatten)]
        flags: Flags,
    },
    /// Report every problem of a configuration, or describe what it allows.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
    /// Print the JSON Schema of the configuration file, for editors.
    Schema,
    /// Print the keys that verify the assertions this configuration signs, as a JWK set.
    Jwks {
        /// The configuration file.
        file: PathBuf,
    },
    /// Show the state of a running proxy.
    Status {
        /// The admin socket (`listen.admin`).
        #[arg(long, default_value = DEFAULT_ADMIN, value_parser = socket)]
        admin: PathBuf,
        /// Print the state as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Change the log level of a running proxy.
    LogLevel {
        /// The new level: off, error, warn, info, debug, trace, or a list like
        /// `info,idjag_proxy::token=debug`.
        level: String,
        /// The admin socket (`listen.admin`).
        #[arg(long, default_value = DEFAULT_ADMIN, value_parser = socket)]
        admin: PathBuf,
    },
    /// Add the sidecar to Kubernetes manifests: reads YAML or JSON from standard input and writes
    /// it to standard output.
    #[cfg(feature = "kubernetes")]
    Inject(inject::Arguments),
    /// Run the webhook that adds the sidecar to pods when they are created.
    #[cfg(feature = "kubernetes")]
    Injector(injector::Arguments),
    /// See it work: all parts in one process, step by step.
    #[cfg(feature = "dev")]
    Demo {
        /// Exit after the last step; fail if a step failed.
        #[arg(long)]
        once: bool,
    },
}

/// The path that the chart uses.
const DEFAULT_ADMIN: &str = "/run/idjag-proxy/admin.sock";

/// Settings that take precedence over the file.
#[derive(Args)]
struct Flags {
    /// The socket of the Workload API, instead of `identity.workload_api.socket`.
    #[arg(long, value_name = "SOCKET", value_parser = endpoint)]
    workload_api_socket: Option<Endpoint>,
    /// The address that the agent connects to, instead of `listen.outbound`. May be given more than
    /// once.
    #[arg(long, value_name = "ADDRESS")]
    listen_outbound: Vec<SocketAddr>,
    /// The address that serves metrics and probes, instead of `listen.metrics`. May be given more
    /// than once.
    #[arg(long, value_name = "ADDRESS")]
    listen_metrics: Vec<SocketAddr>,
    /// The admin socket, instead of `listen.admin`.
    #[arg(long, value_name = "PATH", value_parser = socket)]
    admin: Option<PathBuf>,
    /// The log level, instead of `log.level`.
    #[arg(long, value_name = "LEVEL", value_parser = log_level)]
    log_level: Option<Level>,
}

/// The commands and their flags, as `--help` describes them.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that the command line names.
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

/// Parses the path of a socket, with or without the `unix://` of `listen.admin`.
fn socket(text: &str) -> Result<PathBuf, Infallible> {
    Ok(PathBuf::from(text.strip_prefix("unix://").unwrap_or(text)))
}

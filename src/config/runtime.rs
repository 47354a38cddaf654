//! What a configuration file comes to: the settings of each part, ready to use.
use crate::identity::{Endpoint, IdentitySource};
use crate::issuer::AuthorizationServer;
use crate::jose::SigningKey;
use crate::policy::Policy;
use crate::telemetry::Level;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A whole configuration.
pub struct Config {
    /// Where the identity comes from; absent where nothing says so.
    pub identity: Option<IdentitySource>,
    /// Whether a route needs it: where none does, nobody is asked for it.
    pub needs_identity: bool,
    /// Where the process listens.
    pub listen: Listen,
    /// The routes, with everything that they need.
    pub policy: Policy,
    /// The authorization servers, in the order of the file.
    pub servers: Vec<Arc<AuthorizationServer>>,
    /// The keys that verify what this workload signs with a key of its own: the current one, then the retired ones.
    pub published_keys: Vec<SigningKey>,
    /// How long an assertion of ours is valid, and so a retired key is needed.
    pub assertion_lifetime: Duration,
    /// The process.
    pub process: Process,
    /// SHA-256 of the configuration file, in hexadecimal.
    pub hash: String,
}

/// Where the process listens. Does not change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// For the agent.
    pub outbound: Vec<ListenAddress>,
    /// For metrics and probes.
    pub metrics: Vec<ListenAddress>,
    /// The Unix socket for administration.
    pub admin: Option<PathBuf>,
    /// For the published keys.
    pub jwks: Vec<ListenAddress>,
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// IP address and port.
    pub address: SocketAddr,
    /// Whether somebody asked for it: then it is fatal not to get it. A default that the machine does not have is skipped.
    pub explicit: bool,
}

/// Settings of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Threads that carry requests; absent: by the CPU quota.
    pub workers: Option<usize>,
    /// The least important log line that is written.
    pub log_level: Level,
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Limits of the whole process.
    pub limits: ProcessLimits,
    /// The longest that a request waits for a token.
    pub token_timeout: Duration,
    /// How long the agent must have held no connection before the process ends.
    pub drain_idle: Duration,
    /// When it ends at the latest.
    pub drain_deadline: Duration,
}

/// Limits of the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Connections of the agent at one time.
    pub connections: usize,
    /// Requests in flight at one time.
    pub requests: usize,
    /// Bytes of all header fields of one request.
    pub request_headers: usize,
    /// Tokens of users that are kept at one time.
    pub delegated_tokens: usize,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For a terminal.
    Pretty,
}

/// What the command line says instead of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--workload-api-socket`
    pub workload_api_socket: Option<Endpoint>,
    /// `--listen-outbound`; empty: not given.
    pub listen_outbound: Vec<SocketAddr>,
    /// `--listen-metrics`; empty: not given.
    pub listen_metrics: Vec<SocketAddr>,
    /// `--admin`
    pub admin: Option<PathBuf>,
    /// `--log-level`
    pub log_level: Option<Level>,
}

//! The runtime configuration: the settings of each module, ready to use.
use crate::egress_proxy::EgressProxy;
use crate::identity::{Endpoint, IdentitySource};
use crate::issuer::AuthorizationServer;
use crate::jose::SigningKey;
use crate::policy::{EgressRules, Policy};
use crate::telemetry::{Level, LogSettings};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The configuration of the whole process.
pub struct Config {
    /// The source of the identity; absent where none is configured.
    pub identity: Option<IdentitySource>,
    /// Whether a route needs the identity. If none does, no identity is requested.
    pub needs_identity: bool,
    /// The addresses that the process listens on.
    pub listen: Listen,
    /// The routes, with everything that they refer to.
    pub policy: Policy,
    /// Which IP addresses the host names of upstreams may resolve to.
    pub egress: Arc<EgressRules>,
    /// The egress proxy, which routes and servers refer to if they use it.
    pub egress_proxy: Option<Arc<EgressProxy>>,
    /// The authorization servers, in the order of the file.
    pub servers: Vec<Arc<AuthorizationServer>>,
    /// The workload's own assertion keys, whose public halves are published: the current key first,
    /// then the retired ones.
    pub published_keys: Vec<SigningKey>,
    /// How long an assertion that we sign is valid, which is also how long a retired key is still
    /// needed.
    pub assertion_lifetime: Duration,
    /// Settings of the process as a whole.
    pub process: ProcessSettings,
    /// SHA-256 of the configuration file, in hexadecimal.
    pub hash: String,
}

impl Config {
    /// The key of the first setting that differs in `new` and cannot change while the process runs.
    pub fn changed_fixed_setting(&self, new: &Self) -> Option<&'static str> {
        // Naming every field makes the compiler ask of a new one whether a reload can change it.
        let Self {
            listen,
            identity,
            process,
            needs_identity: _,
            policy: _,
            egress: _,
            egress_proxy: _,
            servers: _,
            published_keys: _,
            assertion_lifetime: _,
            hash: _,
        } = self;
        if *listen != new.listen {
            return Some("listen");
        }
        if *identity != new.identity {
            return Some("identity");
        }
        process.changed_setting(&new.process)
    }
}

/// The addresses that the process listens on. They do not change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Listeners that the agent connects to.
    pub outbound: Vec<ListenAddress>,
    /// Unix sockets that the agent connects to.
    pub outbound_sockets: Vec<ListenSocket>,
    /// Listeners for metrics and probes.
    pub metrics: Vec<ListenAddress>,
    /// The Unix socket for administration.
    pub admin: Option<PathBuf>,
    /// Listeners that serve the published keys.
    pub jwks: Vec<ListenAddress>,
}

/// A Unix socket for the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSocket {
    /// The path of its file.
    pub path: PathBuf,
    /// The uids whose processes may connect; absent: only that of this process.
    pub uids: Option<Vec<u32>>,
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// IP address and port.
    pub address: SocketAddr,
    /// Whether the process fails to start if the machine does not have this address. The defaults
    /// are not required, and neither is the `::1` of a flag.
    pub required: bool,
}

/// Settings of the process as a whole. They do not change while it runs.
#[derive(Clone, Debug)]
pub struct ProcessSettings {
    /// The number of worker threads; absent: derived from the CPU quota.
    pub workers: Option<usize>,
    /// Which log lines are written, and how.
    pub log: LogSettings,
    /// Limits of the whole process.
    pub limits: ProcessLimits,
    /// The longest time that a request waits for a token.
    pub token_timeout: Duration,
    /// How long the agent must have held no connection before the process ends.
    pub drain_idle: Duration,
    /// The longest time that draining takes.
    pub drain_deadline: Duration,
}

impl ProcessSettings {
    /// The key of the first setting that differs in `new`.
    fn changed_setting(&self, new: &Self) -> Option<&'static str> {
        // Naming every field makes the compiler reject a setting that is not compared.
        let Self { workers, log: LogSettings { level, format }, limits, token_timeout, drain_idle, drain_deadline } =
            self;
        let settings = [
            ("workers", *workers == new.workers),
            ("log.level", *level == new.log.level),
            ("log.format", *format == new.log.format),
            ("limits", *limits == new.limits),
            ("token_timeout", *token_timeout == new.token_timeout),
            ("drain.idle", *drain_idle == new.drain_idle),
            ("drain.deadline", *drain_deadline == new.drain_deadline),
        ];
        settings.into_iter().find_map(|(key, is_same)| (!is_same).then_some(key))
    }
}

/// Limits of the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessLimits {
    /// How many connections the agent may have open at once.
    pub connections: usize,
    /// How many requests may be in flight at once.
    pub requests: usize,
    /// The largest total size of the header fields of one request, in bytes.
    pub request_headers: usize,
    /// How many delegated access tokens are cached at once.
    pub delegated_tokens: usize,
}

/// Settings of the command line, which take precedence over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The socket that `--workload-api-socket` names.
    pub workload_api_socket: Option<Endpoint>,
    /// `--listen-outbound`; empty if it was not given.
    pub listen_outbound: Vec<SocketAddr>,
    /// `--listen-metrics`; empty if it was not given.
    pub listen_metrics: Vec<SocketAddr>,
    /// The path that `--admin` names.
    pub admin: Option<PathBuf>,
    /// The level that `--log-level` names.
    pub log_level: Option<Level>,
}

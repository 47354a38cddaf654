//! Builds the parts and binds every port, before anything runs: what cannot work fails here, with the setting named.
use super::quota::{self, Descriptors};
use crate::admin::{Health, Scrape};
use crate::assertion::jwks;
use crate::clock::Clock;
use crate::config::{Config, IdentitySource, ListenAddress, Loaded, Source};
use crate::exchange::{self, Exchanger};
use crate::identity::{self, Files, Identity, WorkloadApi};
use crate::listen;
use crate::proxy::{self, Guard, Limits, Pulse, Shared, SharedParts, Table, TableParts, Traffic};
use crate::telemetry::{Logs, ProcessMetrics, Registrar, descriptor_limit, gauge_value};
use crate::tls::{ClientTls, Present, ServerTrust, web_roots};
use crate::token::{self, Owner, Settings, Tokens};
use arc_swap::ArcSwap;
use prometheus::{IntCounterVec, IntGauge};
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Where a bound proxy listens.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// For the agent.
    pub outbound: Vec<SocketAddr>,
    /// For metrics and probes.
    pub metrics: Vec<SocketAddr>,
    /// For published keys.
    pub jwks: Vec<SocketAddr>,
    /// The admin socket.
    pub admin: Option<PathBuf>,
}

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A port is taken or not ours.
    #[error("{setting}: {address} cannot be bound: {error}")]
    Listen {
        /// `listen.outbound`, `listen.metrics` or `listen.jwks`.
        setting: &'static str,
        /// What was tried.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// No listener is left for the agent.
    #[error("listen.outbound: none of the default addresses exists on this machine; name one")]
    NoOutbound,
    /// A part contradicts another; the configuration's checks rule it out.
    #[error("{0}")]
    Setup(String),
}

/// The source of the identity, as a task.
pub(super) enum IdentityTask {
    WorkloadApi(WorkloadApi),
    Files(Files),
}

/// A proxy whose ports are bound.
pub struct Bound {
    pub(super) addresses: Addresses,
    pub(super) outbound: Vec<Vec<TcpListener>>,
    pub(super) metrics: Vec<TcpListener>,
    pub(super) jwks: Vec<TcpListener>,
    pub(super) parts: Parts,
    pub(super) owner: Owner<Exchanger>,
    pub(super) identity_task: Option<IdentityTask>,
    pub(super) loaded: Loaded,
    pub(super) source: Source,
    pub(super) logs: Option<Logs>,
}

/// What the tasks share.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) clock: Clock,
    pub(super) identity: Option<Identity>,
    pub(super) identity_metrics: identity::Metrics,
    pub(super) identity_wanted: watch::Sender<bool>,
    pub(super) shared: Arc<Shared>,
    pub(super) tokens: Tokens,
    pub(super) proxy_metrics: proxy::Metrics,
    pub(super) exchange_metrics: exchange::Metrics,
    pub(super) token_metrics: token::Metrics,
    pub(super) health: Health,
    pub(super) scrape: Scrape,
    pub(super) published: Arc<ArcSwap<String>>,
    pub(super) reloads: Reloads,
}

/// `config_reloads_total` and `config_last_reload_timestamp_seconds`.
#[derive(Clone)]
pub(super) struct Reloads {
    pub(super) results: IntCounterVec,
    pub(super) last: IntGauge,
}

impl Parts {
    /// The routes of `config`. Reads files.
    pub(super) fn table(&self, config: &Config) -> Result<Table, crate::tls::SetupError> {
        let source = TableSource {
            tokens: &self.tokens,
            identity: self.identity.as_ref(),
            clock: &self.clock,
            metrics: &self.proxy_metrics,
        };
        source.table(config)
    }

    /// Says whether the routes need the identity; from the first time on that they do, its source is asked for it.
    pub(super) fn need_identity(&self, needed: bool) {
        self.identity_metrics.require(needed);
        self.identity_wanted.send_if_modified(|wanted| needed && !std::mem::replace(wanted, true));
    }
}

impl Bound {
    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }
}

/// Builds and binds what `loaded` describes; `source` is where a reload comes from.
pub fn bind(loaded: Loaded, source: Source, clock: &Clock, logs: Option<Logs>) -> Result<Bound, BindError> {
    let config = &loaded.config;
    let workers = config.process.workers.unwrap_or_else(quota::workers).max(1);
    let (outbound, outbound_addresses) = bind_workers(&config.listen.outbound, workers)?;
    let (metrics, metrics_addresses) = bind_all("listen.metrics", &config.listen.metrics)?;
    let (jwks, jwks_addresses) = bind_all("listen.jwks", &config.listen.jwks)?;
    let addresses = Addresses {
        outbound: outbound_addresses,
        metrics: metrics_addresses,
        jwks: jwks_addresses,
        admin: config.listen.admin.clone(),
    };
    let setup = |error: &dyn std::fmt::Display| BindError::Setup(error.to_string());
    let registrar = Registrar::default();
    let built =
        build(config, clock, &registrar, &addresses, (workers, logs.as_ref())).map_err(|error| setup(&error))?;
    Ok(Bound {
        addresses,
        outbound,
        metrics,
        jwks,
        parts: built.0,
        owner: built.1,
        identity_task: built.2,
        loaded,
        source,
        logs,
    })
}

type Built = (Parts, Owner<Exchanger>, Option<IdentityTask>);

fn build(
    config: &Config,
    clock: &Clock,
    registrar: &Registrar,
    addresses: &Addresses,
    (workers, logs): (usize, Option<&Logs>),
) -> Result<Built, Box<dyn std::error::Error>> {
    let identity_metrics = identity::Metrics::new(registrar)?;
    let (identity_task, identity) = identity(config, clock, &identity_metrics).unzip();
    let servers = || config.servers.iter().map(|server| server.name.as_str());
    let exchange_metrics = exchange::Metrics::new(registrar, servers())?;
    let exchanger = Exchanger::new(identity.clone(), clock.clone(), exchange_metrics.clone());
    let token_metrics = token::Metrics::new(registrar, servers())?;
    let (tokens, owner) =
        Tokens::new(exchanger, identity.clone(), clock.clone(), token_metrics.clone(), token_settings(config));
    let proxy_metrics = proxy::Metrics::new(registrar.registry())?;
    let parts = TableSource { tokens: &tokens, identity: identity.as_ref(), clock, metrics: &proxy_metrics };
    let descriptors = descriptor_limit().map(Descriptors::of);
    let own = [&addresses.outbound[..], &addresses.metrics, &addresses.jwks].concat();
    let limits = limits(config, descriptors);
    let shared = Arc::new(Shared::new(SharedParts {
        table: parts.table(config)?,
        tokens: tokens.clone(),
        identity: identity.clone(),
        traffic: Traffic::new(limits.requests),
        metrics: proxy_metrics.clone(),
        guard: Guard::new(own, descriptors.map(|descriptors| descriptors.end)),
        limits,
        pulse: Pulse::new(workers),
    }));
    let health = Health::new(Arc::clone(&shared), identity.clone(), shared.pulse());
    let scrape = scrape(registrar, &shared, &health, (clock, &proxy_metrics, logs))?;
    let parts = Parts {
        clock: clock.clone(),
        identity,
        identity_metrics,
        identity_wanted: watch::Sender::new(false),
        shared,
        tokens,
        proxy_metrics,
        exchange_metrics,
        token_metrics,
        health,
        scrape,
        published: Arc::new(ArcSwap::from_pointee(jwks(&config.published_keys).to_string())),
        reloads: reloads(registrar, clock)?,
    };
    parts.need_identity(config.needs_identity);
    Ok((parts, owner, identity_task))
}

fn identity(config: &Config, clock: &Clock, metrics: &identity::Metrics) -> Option<(IdentityTask, Identity)> {
    Some(match config.identity.as_ref()? {
        IdentitySource::WorkloadApi(settings) => {
            let (task, identity) = WorkloadApi::new(settings.clone(), clock.clone(), metrics.clone());
            (IdentityTask::WorkloadApi(task), identity)
        }
        IdentitySource::Files(settings) => {
            let (task, identity) = Files::new(settings.clone(), clock.clone(), metrics.clone());
            (IdentityTask::Files(task), identity)
        }
    })
}

/// What a table is built with, at start and at a reload.
struct TableSource<'p> {
    tokens: &'p Tokens,
    identity: Option<&'p Identity>,
    clock: &'p Clock,
    metrics: &'p proxy::Metrics,
}

impl TableSource<'_> {
    fn table(&self, config: &Config) -> Result<Table, crate::tls::SetupError> {
        let pass_tls =
            ClientTls { trust: ServerTrust::WebPki(web_roots().into()), present: Present::Nothing, alpn: Vec::new() };
        let parts = TableParts {
            tokens: self.tokens,
            identity: self.identity.filter(|_| config.needs_identity),
            clock: self.clock,
            metrics: self.metrics,
            pass_tls: &pass_tls,
        };
        Table::new(config.policy.clone(), &parts)
    }
}

fn token_settings(config: &Config) -> Settings {
    let defaults = Settings::default();
    Settings {
        token_timeout: config.process.token_timeout,
        waiting: NonZeroUsize::new(config.process.limits.requests).unwrap_or(defaults.waiting),
        delegated: NonZeroUsize::new(config.process.limits.delegated_tokens).unwrap_or(defaults.delegated),
        ..defaults
    }
}

fn limits(config: &Config, descriptors: Option<Descriptors>) -> Limits {
    let given = &config.process.limits;
    let defaults = Limits::default();
    let by_memory = quota::busy_connections().unwrap_or(usize::MAX);
    let possible = descriptors.map_or(usize::MAX, |descriptors| descriptors.connections).min(by_memory);
    // A tunnel counts as a request, and has another one inside.
    let requests = given.requests.min(by_memory.saturating_mul(2));
    if possible < given.connections || requests < given.requests {
        tracing::info!(
            connections = given.connections.min(possible),
            requests,
            "limits: there is room for fewer, by the limit of file descriptors (RLIMIT_NOFILE) or of memory (cgroup)"
        );
    }
    Limits {
        connections: given.connections.min(possible),
        requests: i64::try_from(requests).unwrap_or(i64::MAX),
        head: given.request_headers,
        delegated: NonZeroUsize::new(given.delegated_tokens).unwrap_or(defaults.delegated).min(defaults.delegated),
        ..defaults
    }
}

fn scrape(
    registrar: &Registrar,
    shared: &Arc<Shared>,
    health: &Health,
    (clock, metrics, logs): (&Clock, &proxy::Metrics, Option<&Logs>),
) -> prometheus::Result<Scrape> {
    let process = ProcessMetrics::new(registrar, clock.now().unix_seconds(), logs)?;
    let ready = registrar.gauge("ready", "Whether the next request could succeed.")?;
    let (shared, metrics) = (Arc::clone(shared), metrics.clone());
    let refresh = move || {
        process.observe();
        shared.table().observe_expiry();
        metrics.observe(shared.traffic());
    };
    Ok(Scrape { registrar: registrar.clone(), refresh: Arc::new(refresh), health: health.clone(), ready })
}

fn reloads(registrar: &Registrar, clock: &Clock) -> prometheus::Result<Reloads> {
    let results =
        registrar.counters("config_reloads_total", "Reloads of the configuration, by result.", &["result"])?;
    let last = registrar.gauge(
        "config_last_reload_timestamp_seconds",
        "When the configuration in force was loaded, in seconds since the epoch.",
    )?;
    for result in ["accepted", "refused"] {
        results.with_label_values(&[result]);
    }
    last.set(gauge_value(clock.now().unix_seconds()));
    Ok(Reloads { results, last })
}

/// One socket for each worker and address; the kernel spreads connections among them.
fn bind_workers(
    wanted: &[ListenAddress],
    workers: usize,
) -> Result<(Vec<Vec<TcpListener>>, Vec<SocketAddr>), BindError> {
    let setting = "listen.outbound";
    let mut sockets: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for wanted in wanted {
        let Some((first, address)) = bind_one(setting, *wanted, workers > 1)? else { continue };
        addresses.push(address);
        let mut first = Some(first);
        for sockets in &mut sockets {
            let socket = match first.take() {
                Some(first) => Ok(first),
                None => listen::bind(address, true).map(|(listener, _)| listener),
            };
            sockets.push(socket.map_err(|error| BindError::Listen { setting, address, error })?);
        }
    }
    if addresses.is_empty() { Err(BindError::NoOutbound) } else { Ok((sockets, addresses)) }
}

fn bind_all(setting: &'static str, wanted: &[ListenAddress]) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), BindError> {
    let bound = wanted.iter().filter_map(|wanted| bind_one(setting, *wanted, false).transpose());
    Ok(bound.collect::<Result<Vec<_>, _>>()?.into_iter().unzip())
}

/// `None` for an address that may be missing, and is.
fn bind_one(
    setting: &'static str,
    wanted: ListenAddress,
    shared: bool,
) -> Result<Option<(TcpListener, SocketAddr)>, BindError> {
    let address = wanted.address;
    // Bound exclusively first: with the port shared at once, a second proxy would silently take half of the connections.
    match listen::bind(address, false) {
        Ok(bound) if !shared => Ok(Some(bound)),
        Ok((listener, address)) => {
            drop(listener);
            let bound = listen::bind(address, true).map_err(|error| BindError::Listen { setting, address, error })?;
            Ok(Some(bound))
        }
        Err(error) if !wanted.explicit && listen::does_not_exist(&error) => {
            tracing::info!(%address, setting, "an address does not exist on this machine and is skipped");
            Ok(None)
        }
        Err(error) => Err(BindError::Listen { setting, address, error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_an_error_that_names_the_setting() {
        let (_taken, address) = listen::bind("127.0.0.1:0".parse().expect("address"), true).expect("bound");
        for workers in [1, 2] {
            let error = bind_workers(&[ListenAddress { address, explicit: true }], workers).expect_err("taken");
            assert!(error.to_string().starts_with(&format!("listen.outbound: {address}")), "{error}");
        }
    }

    #[test]
    fn as_many_requests_may_wait_for_tokens_as_may_be_in_flight() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("proxy.yaml");
        std::fs::write(&path, "limits: { requests: 20000, delegated_tokens: 7 }\n").expect("written");
        let loaded = crate::config::load(&path, &|_| None, &crate::config::Overrides::default());
        let settings = token_settings(&loaded.expect("a configuration").config);
        assert_eq!((settings.waiting.get(), settings.delegated.get()), (20_000, 7));
    }

    #[test]
    fn every_worker_has_a_socket_on_the_same_port() {
        let wanted = ListenAddress { address: "127.0.0.1:0".parse().expect("address"), explicit: true };
        let (sockets, addresses) = bind_workers(&[wanted], 3).expect("bound");
        assert_eq!(sockets.len(), 3);
        for socket in sockets.iter().flatten() {
            assert_eq!(socket.local_addr().expect("address"), addresses[0]);
        }
    }
}

//! The parts that the tasks share, each built from its settings.
use super::quota;
use crate::admin::Health;
use crate::clock::Clock;
use crate::config::Config;
use crate::exchange::{self, Exchanger};
use crate::http_server::MetricsEndpoint;
use crate::identity::{self, Identity, IdentityTask};
use crate::issuer::{Issuers, Workload};
use crate::jose::jwks;
use crate::proxy::{self, Guard, Pulse, Shared, SharedParts, Table, TableParts, Traffic};
use crate::telemetry::{Logs, ProcessMetrics, Registrar, descriptor_limit};
use crate::tls::{ClientCertificate, ClientTls, ServerTrust, SetupError, web_roots};
use crate::token::{self, Owner, TokenSettings, Tokens};
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio::sync::watch;

/// The parts that the tasks share.
#[derive(Clone)]
pub(super) struct Components {
    pub(super) clock: Clock,
    pub(super) registrar: Registrar,
    pub(super) identity: Option<Identity>,
    identity_metrics: identity::Metrics,
    /// Becomes true when a route needs the identity for the first time.
    pub(super) identity_needed: watch::Sender<bool>,
    exchange_metrics: exchange::Metrics,
    pub(super) tokens: Tokens,
    token_metrics: token::Metrics,
    pub(super) proxy_metrics: proxy::Metrics,
    pub(super) shared: Arc<Shared>,
    pub(super) health: Health,
    pub(super) endpoint: MetricsEndpoint,
    /// The published key set, as JSON.
    pub(super) published: Arc<ArcSwap<String>>,
}

/// The tasks that keep the components current.
pub(super) struct Owners {
    pub(super) identity: Option<IdentityTask>,
    pub(super) tokens: Owner<Exchanger>,
}

/// The properties of the process that the components depend on.
pub(super) struct ProcessContext<'p> {
    pub(super) clock: &'p Clock,
    pub(super) logs: Option<&'p Logs>,
    pub(super) workers: usize,
    /// The proxy's own TCP addresses.
    pub(super) addresses: Vec<SocketAddr>,
}

impl Components {
    pub(super) fn build(
        config: &Config,
        process: ProcessContext<'_>,
    ) -> Result<(Self, Owners), Box<dyn std::error::Error>> {
        let (clock, registrar) = (process.clock.clone(), Registrar::default());
        let servers = || config.servers.iter().map(|server| server.name.as_str());
        let identity_metrics = identity::Metrics::new(&registrar)?;
        let source = config.identity.as_ref();
        let (identity_task, identity) =
            source.map(|source| source.build(clock.clone(), identity_metrics.clone())).unzip();
        let exchange_metrics = exchange::Metrics::new(&registrar, servers())?;
        let issuers = Issuers::new(Workload::new(identity.clone(), clock.clone()));
        let exchanger = Exchanger::new(issuers, exchange_metrics.clone());
        let token_metrics = token::Metrics::new(&registrar, servers())?;
        let (tokens, owner) =
            Tokens::new(exchanger, identity.clone(), clock.clone(), token_metrics.clone(), token_settings(config));
        let proxy_metrics = proxy::Metrics::new(&registrar)?;
        let tables = Tables {
            clock: &clock,
            identity: identity.as_ref(),
            tokens: &tokens,
            metrics: &proxy_metrics,
            previous: None,
        };
        let descriptors = descriptor_limit().map(quota::Descriptors::of);
        let limits = quota::limits(&config.process.limits, descriptors);
        let shared = Arc::new(Shared::new(SharedParts {
            table: tables.build(config)?,
            tokens: tokens.clone(),
            identity: identity.clone(),
            traffic: Traffic::new(limits.requests),
            metrics: proxy_metrics.clone(),
            guard: Guard::new(process.addresses, descriptors.map(|descriptors| descriptors.end)),
            limits,
            pulse: Pulse::new(process.workers),
        }));
        let health = Health::new(Arc::clone(&shared), identity.clone(), shared.pulse());
        let process_metrics = ProcessMetrics::new(&registrar, clock.now().unix_seconds(), process.logs)?;
        let refresh = {
            let (shared, proxy_metrics) = (Arc::clone(&shared), proxy_metrics.clone());
            move || {
                process_metrics.observe();
                shared.table().observe_expiry();
                proxy_metrics.observe(shared.traffic());
            }
        };
        let components = Self {
            endpoint: health.endpoint(&registrar, refresh)?,
            clock,
            registrar,
            identity,
            identity_metrics,
            identity_needed: watch::Sender::new(false),
            exchange_metrics,
            tokens,
            token_metrics,
            proxy_metrics,
            shared,
            health,
            published: Arc::new(ArcSwap::from_pointee(jwks(&config.published_keys).to_string())),
        };
        components.set_identity_needed(config.needs_identity);
        Ok((components, Owners { identity: identity_task, tokens: owner }))
    }

    /// Builds the routes of `config`. Blocks, because it reads files.
    ///
    /// # Errors
    /// The TLS of a route cannot be set up.
    pub(super) fn table(&self, config: &Config) -> Result<Table, SetupError> {
        let previous = self.shared.table();
        let tables = Tables {
            clock: &self.clock,
            identity: self.identity.as_ref(),
            tokens: &self.tokens,
            metrics: &self.proxy_metrics,
            previous: Some(&previous),
        };
        tables.build(config)
    }

    /// Sets whether the routes need the identity, which is first requested when they do.
    pub(super) fn set_identity_needed(&self, needed: bool) {
        self.identity_metrics.set_required(needed);
        self.identity_needed.send_if_modified(|ever| needed && !std::mem::replace(ever, true));
    }

    /// Creates the metric series of every server of `config`.
    pub(super) fn declare_servers(&self, config: &Config) {
        for server in &config.servers {
            self.exchange_metrics.declare(&server.name);
            self.token_metrics.declare(&server.name);
        }
    }

    /// Asks for the tokens of all eager grants of the routes in force.
    pub(super) async fn obtain_eager_grants(&self) {
        let table = self.shared.table();
        for (slot, eager) in table.own_slots() {
            self.tokens.set_eager(slot, eager).await;
        }
    }
}

/// What routing tables are built with, at start and at a reload.
struct Tables<'p> {
    clock: &'p Clock,
    identity: Option<&'p Identity>,
    tokens: &'p Tokens,
    metrics: &'p proxy::Metrics,
    previous: Option<&'p Table>,
}

impl Tables<'_> {
    fn build(&self, config: &Config) -> Result<Table, SetupError> {
        let web = ServerTrust::WebPki(web_roots().into());
        let pass_tls = ClientTls { trust: web, client_certificate: ClientCertificate::None, alpn: Vec::new() };
        let parts = TableParts {
            tokens: self.tokens,
            identity: self.identity.filter(|_| config.needs_identity),
            clock: self.clock,
            metrics: self.metrics,
            pass_tls: &pass_tls,
            egress: &config.egress,
            egress_proxy: config.egress_proxy.as_ref(),
            previous: self.previous,
        };
        Table::new(config.policy.clone(), &parts)
    }
}

/// The settings of the token cache. As many requests may wait for tokens as may be in flight.
fn token_settings(config: &Config) -> TokenSettings {
    let (defaults, limits) = (TokenSettings::default(), &config.process.limits);
    TokenSettings {
        token_timeout: config.process.token_timeout,
        waiting: NonZeroUsize::new(limits.requests).unwrap_or(defaults.waiting),
        delegated: NonZeroUsize::new(limits.delegated_tokens).unwrap_or(defaults.delegated),
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_requests_are_limited_like_requests_in_flight() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("proxy.yaml");
        std::fs::write(&path, "limits: { requests: 20000, delegated_tokens: 7 }\n").expect("written");
        let loaded = crate::config::load(&path, &|_| None, &crate::config::Overrides::default());
        let settings = token_settings(&loaded.expect("a configuration").config);
        assert_eq!((settings.waiting.get(), settings.delegated.get()), (20_000, 7));
    }
}

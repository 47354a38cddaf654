//! Live reload. A new file builds a complete new set of routes, which replaces the old one. A file
//! with an error is refused, and the old configuration stays in force.
use super::components::Components;
use crate::admin::ReloadStatus;
use crate::clock::Timestamp;
use crate::config::{Changes, Config, Loaded, Source};
use crate::jose::{SigningKey, jwks};
use crate::policy::Route;
use crate::tasks::Stop;
use crate::telemetry::{Registrar, gauge_value};
use arc_swap::ArcSwap;
use prometheus::{IntCounterVec, IntGauge};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// How often the wall clock is read to see whether a removed key has been published for long
/// enough. A single timer would not notice that the clock was set or that a laptop slept.
const TICK: Duration = Duration::from_secs(1);
/// How long the old routes, which need no identity, stay in force while the first identity for the
/// new ones is fetched.
const FIRST_IDENTITY: Duration = Duration::from_secs(10);

/// The task that reloads the configuration.
pub(super) struct Reload {
    source: Source,
    changes: Changes,
    components: Components,
    pub(super) current: Loaded,
    pub(super) status: Arc<ArcSwap<ReloadStatus>>,
    metrics: ReloadMetrics,
    /// Keys of earlier configurations, and when the last assertion signed with each expires.
    retired: Vec<(SigningKey, Timestamp)>,
}

struct ReloadMetrics {
    results: IntCounterVec,
    last: IntGauge,
}

impl ReloadMetrics {
    fn new(registrar: &Registrar) -> prometheus::Result<Self> {
        let results =
            registrar.counters("config_reloads_total", "Reloads of the configuration, by result.", &["result"])?;
        for result in ["accepted", "refused"] {
            results.with_label_values(&[result]);
        }
        let last = registrar.gauge(
            "config_last_reload_timestamp_seconds",
            "When the configuration in force was loaded, in seconds since the epoch.",
        )?;
        Ok(Self { results, last })
    }
}

impl Reload {
    /// `current` is the configuration that was loaded at start, from which `components` were built.
    pub(super) fn new(
        source: Source,
        changes: Changes,
        components: Components,
        current: Loaded,
    ) -> prometheus::Result<Self> {
        let metrics = ReloadMetrics::new(&components.registrar)?;
        let loaded_at = components.clock.now().unix_seconds();
        metrics.last.set(gauge_value(loaded_at));
        let status = ReloadStatus { hash: current.config.hash.clone(), loaded_at, refused: None };
        let status = Arc::new(ArcSwap::from_pointee(status));
        Ok(Self { source, changes, components, current, status, metrics, retired: Vec::new() })
    }

    /// Runs until `stop` fires.
    pub(super) async fn run(mut self, mut stop: Stop) -> Result<(), String> {
        loop {
            tokio::select! {
                () = stop.stopped() => return Ok(()),
                change = self.changes.next() => match change {
                    Some(()) => tokio::select! {
                        () = stop.stopped() => return Ok(()),
                        () = self.reload() => {}
                    },
                    None => return Ok(()),
                },
                // Does not delay a reload or a stop: it is one branch of the select.
                () = tokio::time::sleep(TICK), if !self.retired.is_empty() => self.publish(),
            }
        }
    }

    async fn reload(&mut self) {
        let source = self.source.clone();
        // Reading files may block, and this thread also refreshes tokens.
        let loaded = match tokio::task::spawn_blocking(move || source.load()).await {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(problems)) => {
                self.changes.follow(problems.fingerprint.clone());
                return self.refuse(&problems.to_string());
            }
            Err(error) => return self.refuse(&error.to_string()),
        };
        self.changes.follow(loaded.fingerprint.clone());
        if let Some(setting) = self.current.config.changed_fixed_setting(&loaded.config) {
            return self.refuse(&format!("`{setting}` cannot change at run time: restart the proxy"));
        }
        if let Err(error) = self.apply(loaded).await {
            self.refuse(&error);
        }
    }

    async fn apply(&mut self, loaded: Loaded) -> Result<(), String> {
        let components = &self.components;
        components.declare_servers(&loaded.config);
        let building = components.clone();
        // Building the routes reads the machine's certificate authorities.
        let built = tokio::task::spawn_blocking(move || (building.table(&loaded.config), loaded)).await;
        let (table, loaded) = built.map_err(|error| error.to_string())?;
        let table = table.map_err(|error| error.to_string())?;
        components.set_identity_needed(table.needs_identity());
        if table.needs_identity() && !self.current.config.needs_identity {
            wait_for_first_identity(components).await;
        }
        components.shared.replace(table);
        for warning in &loaded.warnings {
            tracing::warn!(path = %warning.path, "{}", warning.message);
        }
        components.obtain_eager_grants().await;
        let hash = loaded.config.hash.clone();
        let previous = std::mem::replace(&mut self.current, loaded);
        self.remove_series(&previous.config);
        self.retire(&previous.config);
        let now = self.components.clock.now().unix_seconds();
        self.metrics.results.with_label_values(&["accepted"]).inc();
        self.metrics.last.set(gauge_value(now));
        tracing::info!(%hash, "the configuration was reloaded");
        self.status.store(Arc::new(ReloadStatus { hash, loaded_at: now, refused: None }));
        Ok(())
    }

    /// Removes the metrics of routes and servers that are in `previous` and not in the
    /// configuration in force. An exchange that is still in flight may bring a series of its server
    /// back.
    fn remove_series(&self, previous: &Config) {
        let (registrar, config) = (&self.components.registrar, &self.current.config);
        let routes: HashSet<&str> = config.policy.routes().iter().map(|route| &*route.name).collect();
        for route in previous.policy.routes().iter().filter(|route| !routes.contains(&*route.name)) {
            registrar.remove_series(&[("route", &*route.name)]);
        }
        let issuers = |config: &Config| -> HashSet<(Arc<str>, String)> {
            let issuer = |route: &Arc<Route>| Some((route.name.clone(), route.own_issuer()?.to_owned()));
            config.policy.routes().iter().filter_map(issuer).collect()
        };
        for (route, issuer) in issuers(previous).difference(&issuers(config)) {
            registrar.remove_series(&[("route", &**route), ("server", &**issuer)]);
        }
        let servers: HashSet<&str> = config.servers.iter().map(|server| server.name.as_str()).collect();
        for server in previous.servers.iter().filter(|server| !servers.contains(server.name.as_str())) {
            registrar.remove_series(&[("server", &*server.name)]);
        }
    }

    /// Publishes the current keys. The previous ones stay published until the last assertion that
    /// they signed has expired, even if the file no longer names them.
    fn retire(&mut self, previous: &Config) {
        let until = self.components.clock.now().plus(previous.assertion_lifetime);
        self.retired.extend(previous.published_keys.iter().map(|key| (key.clone(), until)));
        self.publish();
    }

    fn publish(&mut self) {
        let now = self.components.clock.now();
        self.retired.retain(|(_, until)| now < *until);
        let mut keys = self.current.config.published_keys.clone();
        for (key, _) in &self.retired {
            if keys.iter().all(|other| other.public_jwk() != key.public_jwk()) {
                keys.push(key.clone());
            }
        }
        self.components.published.store(Arc::new(jwks(&keys).to_string()));
    }

    fn refuse(&self, why: &str) {
        tracing::error!(file = %self.source.path.display(), problems = why, "the new configuration is refused; the old one stays in force");
        self.metrics.results.with_label_values(&["refused"]).inc();
        let before = self.status.load();
        self.status.store(Arc::new(ReloadStatus { refused: Some(why.to_owned()), ..(**before).clone() }));
    }
}

/// Waits up to [`FIRST_IDENTITY`] for the first identity; the old routes keep working in the
/// meantime. Without an identity the new routes come into force as well, and their responses say
/// what is missing.
async fn wait_for_first_identity(components: &Components) {
    let Some(identity) = &components.identity else { return };
    let mut changes = identity.changes();
    let held = async { while identity.latest_held().is_none() && changes.changed().await.is_ok() {} };
    // The result does not matter: the new routes come into force in either case.
    let _ = tokio::time::timeout(FIRST_IDENTITY, held).await;
}

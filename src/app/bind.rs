//! Binds every port and builds the parts before anything runs. What cannot work fails here, and the
//! error names the setting.
use super::components::{Components, Owners, ProcessContext};
use super::listeners::{Addresses, ListenError, Listeners};
use super::quota;
use super::reload::Reload;
use crate::clock::Clock;
use crate::config::{Loaded, Source, Watch};
use crate::telemetry::Logs;

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A port cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Two parts contradict each other. The checks of the configuration rule it out.
    #[error("{0}")]
    Setup(String),
}

/// A proxy whose ports are bound.
pub struct Bound {
    pub(super) workers: usize,
    pub(super) addresses: Addresses,
    pub(super) listeners: Listeners,
    pub(super) components: Components,
    pub(super) owners: Owners,
    pub(super) watch: Watch,
    /// It is boxed because the future of [`Bound::run`] holds it for a while.
    pub(super) reload: Box<Reload>,
    pub(super) logs: Option<Logs>,
}

impl Bound {
    /// Returns the addresses that the proxy listens on.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }
}

/// Builds the proxy that `loaded` describes. Reloads read from `source`; `logs` is the log whose
/// level can be changed.
///
/// # Errors
/// A port cannot be bound, or parts do not fit together.
pub fn bind(loaded: Loaded, source: Source, clock: &Clock, logs: Option<Logs>) -> Result<Bound, BindError> {
    let config = &loaded.config;
    let workers = config.process.workers.unwrap_or_else(quota::workers).max(1);
    let listeners = Listeners::bind(&config.listen, workers)?;
    let addresses = listeners.addresses();
    let process = ProcessContext { clock, logs: logs.as_ref(), workers, addresses: addresses.tcp() };
    let setup = |error: &dyn std::fmt::Display| BindError::Setup(error.to_string());
    let (components, owners) = Components::build(config, process).map_err(|error| setup(&error))?;
    let (watch, changes) = Watch::new(loaded.fingerprint.clone());
    let reload = Reload::new(source, changes, components.clone(), loaded).map_err(|error| setup(&error))?;
    let reload = Box::new(reload);
    Ok(Bound { workers, addresses, listeners, components, owners, watch, reload, logs })
}

//! The dependencies of request handling: those that all workers share, and those of one worker.
use super::table::Table;
use crate::identity::Identity;
use crate::proxy::downstream::Server;
use crate::proxy::guard::Guard;
use crate::proxy::limits::Limits;
use crate::proxy::metrics::Metrics;
use crate::proxy::pulse::Pulse;
use crate::proxy::traffic::Traffic;
use crate::proxy::upstream::Pool;
use crate::token::{Delegated, Tokens};
use arc_swap::ArcSwap;
use http::{HeaderValue, Version};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The dependencies that all workers share: snapshots and handles, without a lock on the request
/// path.
pub struct Shared {
    table: ArcSwap<Table>,
    pub(in crate::proxy) tokens: Tokens,
    pub(in crate::proxy) identity: Option<Identity>,
    pub(in crate::proxy) metrics: Metrics,
    pub(in crate::proxy) traffic: Traffic,
    pub(in crate::proxy) guard: Guard,
    pub(in crate::proxy) limits: Limits,
    pub(in crate::proxy) pulse: Pulse,
    /// One permit for each connection of the agent, on all workers together.
    pub(in crate::proxy) connection_permits: Arc<Semaphore>,
    pub(super) pseudonym: String,
    via_http10: HeaderValue,
    via_http11: HeaderValue,
    via_http2: HeaderValue,
}

/// The values that [`Shared`] is made of.
pub struct SharedParts {
    /// The table of routes.
    pub table: Table,
    /// The source of tokens.
    pub tokens: Tokens,
    /// The workload's identity, if one is configured.
    pub identity: Option<Identity>,
    /// The metrics of the data plane.
    pub metrics: Metrics,
    /// Counts requests and connections.
    pub traffic: Traffic,
    /// Refuses addresses and reserves file descriptors.
    pub guard: Guard,
    /// The limits of the data plane.
    pub limits: Limits,
    /// Shows whether the workers make progress.
    pub pulse: Pulse,
}

/// The dependencies of one worker.
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Rc<Pool>,
    pub(crate) delegated: RefCell<Delegated>,
    /// Serves the HTTP connections inside tunnels.
    pub(crate) server: Server,
}

impl Shared {
    /// Joins the parts, and chooses a random pseudonym for `Via`: a request that passes two
    /// sidecars is not a loop, but one that passes this process twice is.
    pub fn new(parts: SharedParts) -> Self {
        let pseudonym = format!("idjag-proxy-{:08x}", fastrand::u32(..));
        let via = |version: &str| {
            HeaderValue::try_from(format!("{version} {pseudonym}")).expect("letters, digits, `-` and `.`")
        };
        Self {
            via_http10: via("1.0"),
            via_http11: via("1.1"),
            via_http2: via("2.0"),
            pseudonym,
            connection_permits: Arc::new(Semaphore::new(parts.limits.connections.min(Semaphore::MAX_PERMITS))),
            table: ArcSwap::from_pointee(parts.table),
            tokens: parts.tokens,
            identity: parts.identity,
            metrics: parts.metrics,
            traffic: parts.traffic,
            guard: parts.guard,
            limits: parts.limits,
            pulse: parts.pulse,
        }
    }

    /// The table that is in force now.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Replaces the routes. Requests in flight end with the old ones.
    pub fn replace(&self, table: Table) {
        self.table.store(Arc::new(table));
    }

    /// The pulse of the workers.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// The counts of requests and connections.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// This proxy's entry in `Via` for a message that was received with `version`.
    pub(super) fn via(&self, version: Version) -> &HeaderValue {
        match version {
            Version::HTTP_09 | Version::HTTP_10 => &self.via_http10,
            Version::HTTP_11 => &self.via_http11,
            _ => &self.via_http2,
        }
    }
}

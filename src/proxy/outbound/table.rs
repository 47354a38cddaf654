//! The table of routes, in which everything that requests need is looked up in advance. A reload
//! builds a new table and swaps it in.
use super::destination::Destination;
use crate::clock::Clock;
use crate::egress_proxy::EgressProxy;
use crate::identity::Identity;
use crate::policy::{
    CredentialRule, Decision, EgressRules, HostPattern, Match, Policy, ReservedHeaders, Route, Unmatched,
};
use crate::proxy::error::{Reason, Refusal};
use crate::proxy::limiter::Limiter;
use crate::proxy::metrics::{Metrics, RouteMetrics};
use crate::proxy::upstream::{UpstreamConfig, UpstreamParts};
use crate::secret::Secret;
use crate::telemetry::gauge_value;
use crate::tls::{ClientTls, SetupError};
use crate::token::{Slot, Tokens};
use http::HeaderName;
use std::collections::HashMap;
use std::sync::Arc;

/// The routes of one configuration. A table never changes.
pub struct Table {
    pub(super) policy: Policy,
    entries: Vec<Arc<RouteEntry>>,
    /// The entry for requests that no route matches, if the policy lets them pass.
    pass: Option<Arc<RouteEntry>>,
    needs_identity: bool,
}

/// One route, ready for requests.
pub(super) struct RouteEntry {
    pub(super) route: Arc<Route>,
    pub(super) slot: Option<Arc<Slot>>,
    /// The user's token, if the subject is a file.
    pub(super) user_file: Option<Secret>,
    pub(super) metrics: Arc<RouteMetrics>,
    pub(super) upstream: UpstreamConfig,
    /// Headers that are removed from the agent's requests, in addition to those that every route
    /// removes.
    pub(super) reserved: Arc<[HeaderName]>,
    /// Whether fields are removed that replace the method or the path at some servers, because
    /// routes divide the host by them.
    pub(super) strips_overrides: bool,
    /// Whether the workload must have an identity when a request is sent.
    pub(super) needs_identity: bool,
    /// Whether this stands for no route: the agent may call any host (`unmatched: pass`).
    pub(super) passes: bool,
    /// The limits on its requests, if it has some.
    pub(super) limiter: Option<Limiter>,
}

/// The values that a table is built with.
pub struct TableParts<'p> {
    /// The source of slots.
    pub tokens: &'p Tokens,
    /// The identity that TLS uses; absent if no route needs it.
    pub identity: Option<&'p Identity>,
    /// The clock for the validity of certificates.
    pub clock: &'p Clock,
    /// The source of each route's series.
    pub metrics: &'p Metrics,
    /// The TLS settings for requests that pass without a route.
    pub pass_tls: &'p ClientTls,
    /// The addresses that are refused.
    pub egress: &'p Arc<EgressRules>,
    /// The egress proxy of requests that pass without a route.
    pub egress_proxy: Option<&'p Arc<EgressProxy>>,
    /// The table that is replaced, whose limiters go on counting.
    pub previous: Option<&'p Table>,
}

impl TableParts<'_> {
    fn upstream(&self) -> UpstreamParts<'_> {
        let Self { identity, clock, egress, egress_proxy, .. } = *self;
        UpstreamParts { identity, clock, egress, egress_proxy }
    }
}

impl Table {
    /// Builds the table of a policy's routes.
    ///
    /// # Errors
    /// The TLS of a route cannot be set up. The checks of the configuration rule this out.
    pub fn new(policy: Policy, parts: &TableParts<'_>) -> Result<Self, SetupError> {
        let reserved = ReservedHeaders::new(policy.routes().iter().map(|route| &**route));
        let entry = |(index, route): (usize, &Arc<Route>)| {
            let entry = RouteEntry::new(route, parts, &reserved)?;
            let division = policy.division(index);
            Ok(Arc::new(RouteEntry { strips_overrides: division.by_path || division.by_method, ..entry }))
        };
        let entries = policy.routes().iter().enumerate().map(entry).collect::<Result<_, _>>()?;
        let pass = (policy.unmatched() == Unmatched::Pass)
            .then(|| RouteEntry::without_route(parts, &reserved).map(Arc::new))
            .transpose()?;
        Ok(Self { policy, entries, pass, needs_identity: parts.identity.is_some() })
    }

    /// Whether some route needs the workload's identity.
    pub fn needs_identity(&self) -> bool {
        self.needs_identity
    }

    fn limiter(&self, route: &str) -> Option<&Limiter> {
        self.entries.iter().find(|entry| &*entry.route.name == route)?.limiter.as_ref()
    }

    /// The entry that a decision leads to; `None` if the request is refused.
    pub(super) fn entry(&self, decision: &Decision) -> Option<&Arc<RouteEntry>> {
        match decision {
            Decision::Route(index) => Some(&self.entries[*index]),
            Decision::Pass => self.pass.as_ref(),
            Decision::Refuse => None,
        }
    }

    /// The refusal of a request that no route matches. It names the host, and the route that was
    /// probably meant.
    pub(super) fn no_route(&self, destination: &Destination) -> Refusal {
        let nearest = self
            .policy
            .nearest(&destination.host)
            .map_or_else(String::new, |route| format!(" The nearest is `{}`, for {}.", route.name, route.matcher));
        let Destination { host, port, .. } = destination;
        Refusal::new(Reason::NoRoute, format!("No route matches {host} port {port}.{nearest}"))
    }

    /// The slots of the workload's own grants, which equal grants share, each with whether one of
    /// its routes is eager.
    pub fn own_slots(&self) -> impl Iterator<Item = (&Arc<Slot>, bool)> {
        let mut slots: HashMap<u64, (&Arc<Slot>, bool)> = HashMap::new();
        for entry in &self.entries {
            let Some(slot) = entry.slot.as_ref().filter(|slot| !slot.grant().is_delegated()) else { continue };
            slots.entry(slot.id()).or_insert((slot, false)).1 |= entry.is_eager();
        }
        slots.into_values()
    }

    /// The routes whose eager grant was never obtained, with the server that issues it.
    pub fn eager_missing(&self) -> impl Iterator<Item = (&str, String)> {
        self.entries.iter().filter_map(|entry| {
            let slot = entry.slot.as_ref().filter(|slot| !slot.was_obtained())?;
            entry.is_eager().then(|| (&*entry.route.name, slot.grant().server().name.clone()))
        })
    }

    /// The routes with their slots, for the status page.
    pub fn routes(&self) -> impl Iterator<Item = (&Route, Option<&Arc<Slot>>)> {
        self.entries.iter().map(|entry| (&*entry.route, entry.slot.as_ref()))
    }

    /// Sets the gauges of when tokens expire.
    pub fn observe_expiry(&self) {
        for entry in &self.entries {
            let (Some(gauge), Some(slot)) = (&entry.metrics.expiry, &entry.slot) else { continue };
            gauge.set(gauge_value(slot.expires_at()));
        }
    }
}

impl RouteEntry {
    fn new(route: &Arc<Route>, parts: &TableParts<'_>, reserved: &ReservedHeaders) -> Result<Self, SetupError> {
        let (slot, user_file, needs_token_identity) = match &route.credential {
            CredentialRule::Token(rule) => {
                (Some(parts.tokens.slot(&rule.grant)), rule.file_token.clone(), rule.grant.needs_identity())
            }
            _ => (None, None, false),
        };
        let upstream = UpstreamConfig::new(route, &parts.upstream())?;
        Ok(Self {
            metrics: Arc::new(parts.metrics.route(&route.name, route.own_issuer())),
            // Once the identity has expired, nothing is sent in the agent's name, static keys
            // included.
            needs_identity: needs_token_identity
                || upstream.needs_identity()
                || (route.speaks_for_workload() && parts.identity.is_some()),
            strips_overrides: false,
            passes: false,
            limiter: Limiter::new(&route.limits, parts.previous.and_then(|table| table.limiter(&route.name))),
            reserved: reserved.of(&route.credential),
            route: Arc::clone(route),
            slot,
            user_file,
            upstream,
        })
    }

    fn is_eager(&self) -> bool {
        matches!(&self.route.credential, CredentialRule::Token(rule) if rule.eager)
    }

    fn without_route(parts: &TableParts<'_>, reserved: &ReservedHeaders) -> Result<Self, SetupError> {
        let everything = Match::host(HostPattern::Suffix("".into()));
        let nothing = CredentialRule::None { keep_credentials: false };
        let route = Route::new("none", everything, nothing, Some(parts.pass_tls.clone()));
        Ok(Self {
            metrics: parts.metrics.unrouted(),
            upstream: UpstreamConfig::without_route(parts.pass_tls, &parts.upstream())?,
            reserved: reserved.of(&route.credential),
            route: Arc::new(route),
            slot: None,
            user_file: None,
            needs_identity: false,
            strips_overrides: false,
            passes: true,
            limiter: None,
        })
    }
}

//! The routes, with everything that a request needs of each looked up in advance. A reload builds a new one and swaps it.
use crate::clock::Clock;
use crate::identity::Identity;
use crate::policy::{CredentialRule, Policy, Route, TokenSource, Unmatched};
use crate::proxy::metrics::{Metrics, RouteMetrics};
use crate::proxy::upstream::Peer;
use crate::secret::Secret;
use crate::tls::{ClientTls, SetupError};
use crate::token::{Slot, Tokens};
use http::HeaderName;
use std::collections::HashMap;
use std::sync::Arc;

/// A whole configuration of routes, immutable.
pub struct Table {
    pub(super) policy: Policy,
    entries: Vec<Arc<Entry>>,
    /// Where requests of no route go, if they pass.
    pub(super) pass: Option<Arc<Entry>>,
    needs_identity: bool,
}

/// One route, ready to be used.
pub(super) struct Entry {
    pub(super) route: Arc<Route>,
    pub(super) slot: Option<Arc<Slot>>,
    /// What a `file` subject holds.
    pub(super) user_file: Option<Secret>,
    pub(super) metrics: Arc<RouteMetrics>,
    pub(super) peer: Peer,
    /// Headers that the agent may not send on: those of users' tokens on any route, and of this route's own credential.
    pub(super) reserved: Arc<[HeaderName]>,
    /// Whether the workload must have an identity for it now.
    pub(super) needs_identity: bool,
    /// No route: the agent goes where it likes (`unmatched: pass`).
    pub(super) passes: bool,
}

/// What a table is built with.
pub struct Parts<'p> {
    /// Slots come from here.
    pub tokens: &'p Tokens,
    /// For TLS with the SVID and pins; absent where no route needs it.
    pub identity: Option<&'p Identity>,
    /// For the certificates' validity.
    pub clock: &'p Clock,
    /// Series of each route.
    pub metrics: &'p Metrics,
    /// TLS of requests that pass without a route.
    pub pass_tls: &'p ClientTls,
}

impl Table {
    /// Looks everything up.
    ///
    /// # Errors
    /// A route whose TLS cannot be set up; the configuration's checks rule it out.
    pub fn new(policy: Policy, parts: &Parts<'_>) -> Result<Self, SetupError> {
        let header = |route: &Arc<Route>| match &route.credential {
            CredentialRule::Token(rule) => match &rule.source {
                TokenSource::Header(name) => Some(name.clone()),
                _ => None,
            },
            _ => None,
        };
        let mut user_headers: Vec<HeaderName> = policy.routes().iter().filter_map(header).collect();
        user_headers.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        user_headers.dedup();
        let entries = policy.routes().iter().map(|route| Entry::new(route, parts, &user_headers).map(Arc::new));
        let entries = entries.collect::<Result<_, _>>()?;
        let pass = (policy.unmatched() == Unmatched::Pass)
            .then(|| Entry::passing(parts, &user_headers).map(Arc::new))
            .transpose()?;
        Ok(Self { policy, entries, pass, needs_identity: parts.identity.is_some() })
    }

    /// Whether some route needs the workload's identity.
    pub fn needs_identity(&self) -> bool {
        self.needs_identity
    }

    pub(super) fn entry(&self, index: usize) -> &Arc<Entry> {
        &self.entries[index]
    }

    /// Slots of the workload's own grants, with whether one of their routes is eager: equal grants share one.
    pub fn own_slots(&self) -> impl Iterator<Item = (&Arc<Slot>, bool)> {
        let mut slots: HashMap<u64, (&Arc<Slot>, bool)> = HashMap::new();
        for entry in &self.entries {
            let Some(slot) = entry.slot.as_ref().filter(|slot| !slot.grant().is_delegated()) else { continue };
            slots.entry(slot.id()).or_insert((slot, false)).1 |= entry.is_eager();
        }
        slots.into_values()
    }

    /// Routes whose eager grant was never obtained, with the server that issues it.
    pub fn eager_missing(&self) -> impl Iterator<Item = (&str, String)> {
        self.entries.iter().filter_map(|entry| {
            let slot = entry.slot.as_ref().filter(|slot| !slot.was_obtained())?;
            entry.is_eager().then(|| (&*entry.route.name, slot.grant().server().name.clone()))
        })
    }

    /// Routes, their slots and how they stand: for the status page.
    pub fn routes(&self) -> impl Iterator<Item = (&Route, Option<&Arc<Slot>>)> {
        self.entries.iter().map(|entry| (&*entry.route, entry.slot.as_ref()))
    }

    /// Writes into the metrics when the held tokens end.
    pub fn observe_expiry(&self) {
        for entry in &self.entries {
            let (Some(gauge), Some(slot)) = (&entry.metrics.expiry, &entry.slot) else { continue };
            gauge.set(i64::try_from(slot.ends()).unwrap_or(i64::MAX));
        }
    }
}

impl Entry {
    fn new(route: &Arc<Route>, parts: &Parts<'_>, user_headers: &[HeaderName]) -> Result<Self, SetupError> {
        let (slot, user_file, needs_token_identity) = match &route.credential {
            CredentialRule::Token(rule) => {
                (Some(parts.tokens.slot(&rule.grant)), rule.file_token.clone(), rule.grant.needs_identity())
            }
            _ => (None, None, false),
        };
        let credential = match &route.credential {
            CredentialRule::LegacySecret { header, .. } => Some(header.clone()),
            _ => None,
        };
        let peer = Peer::new(route.upstream.origin.clone(), route.upstream.tls.as_ref(), parts.identity, parts.clock)?;
        Ok(Self {
            metrics: Arc::new(parts.metrics.route(&route.name, route.own_issuer())),
            // The agent's identity has ended: then nothing goes out in its name, static keys included.
            needs_identity: needs_token_identity
                || peer.needs_identity()
                || (route.credential.injects() && parts.identity.is_some()),
            passes: false,
            reserved: user_headers.iter().cloned().chain(credential).collect(),
            route: Arc::clone(route),
            slot,
            user_file,
            peer,
        })
    }

    fn is_eager(&self) -> bool {
        matches!(&self.route.credential, CredentialRule::Token(rule) if rule.eager)
    }

    fn passing(parts: &Parts<'_>, user_headers: &[HeaderName]) -> Result<Self, SetupError> {
        let route = Route {
            name: "none".into(),
            matcher: crate::policy::Match {
                host: crate::policy::HostPattern::Suffix("".into()),
                port: None,
                path: crate::policy::PathPattern::any(),
                methods: Vec::new(),
                headers: Vec::new(),
            },
            alias: None,
            credential: CredentialRule::None { keep_credentials: false },
            upstream: crate::policy::Upstream { origin: None, tls: Some(parts.pass_tls.clone()) },
            timeouts: crate::policy::Timeouts::default(),
            limits: crate::policy::Limits::default(),
            replay_max_body: None,
        };
        Ok(Self {
            metrics: parts.metrics.unrouted(),
            peer: Peer::passing(parts.pass_tls, parts.clock)?,
            reserved: user_headers.into(),
            route: Arc::new(route),
            slot: None,
            user_file: None,
            needs_identity: false,
            passes: true,
        })
    }
}

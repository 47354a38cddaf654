//! Which origin a route's requests go to, and what a connection to it must prove.
use crate::clock::Clock;
use crate::egress_proxy::EgressProxy;
use crate::identity::Identity;
use crate::policy::{EgressRules, HostPattern, HostRule, Origin, Route, Scheme, Upstream, UpstreamProtocol};
use crate::proxy::guard::{AddressRules, Guard, NamedBy};
use crate::tls::{ClientTls, ServerTrust, SetupError, client_config};
use http::HeaderValue;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The upstream of one route.
pub(crate) struct UpstreamConfig {
    /// The key of the origin that the route names, if it names one.
    fixed: Option<Arc<PoolKey>>,
    tls: Option<Arc<UpstreamTls>>,
    rules: AddressRules,
    in_use: Arc<InUse>,
    host: HostRule,
    egress_proxy: Option<Arc<EgressProxy>>,
}

/// Held as long as a route has an upstream: by the route's table, and the requests that it began.
struct InUse;

/// What the connections of all routes have in common.
#[derive(Clone, Copy)]
pub(crate) struct UpstreamParts<'p> {
    /// The identity that TLS uses; absent if no route needs it.
    pub(crate) identity: Option<&'p Identity>,
    /// The clock for the validity of certificates.
    pub(crate) clock: &'p Clock,
    /// The addresses that are refused.
    pub(crate) egress: &'p Arc<EgressRules>,
    /// The egress proxy of requests that pass without a route.
    pub(crate) egress_proxy: Option<&'p Arc<EgressProxy>>,
}

/// Where a connection goes, and how it gets there.
#[derive(Clone, Copy)]
pub(crate) struct DialTarget<'o> {
    pub(crate) origin: &'o Origin,
    pub(crate) rules: &'o AddressRules,
    pub(crate) guard: &'o Guard,
    pub(crate) egress_proxy: Option<&'o EgressProxy>,
}

/// The TLS settings for one route's upstream.
pub(super) struct UpstreamTls {
    id: u64,
    /// The settings that offer HTTP/2 and HTTP/1.1, or the protocol that the route names.
    pub(super) any: Arc<ClientConfig>,
    /// The settings that offer HTTP/1.1 alone.
    pub(super) http1: Arc<ClientConfig>,
    pub(super) trust: ServerTrust,
    /// The name for SNI and verification; absent: the origin's host.
    pub(super) server_name: Option<ServerName<'static>>,
    /// Set if the SVID is presented or the peer is pinned: such a connection lives no longer than
    /// its trust.
    pub(super) identity: Option<Identity>,
    pub(super) clock: Clock,
}

/// Which protocol a connection must speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    /// Chosen by ALPN; HTTP/1.1 in cleartext.
    Negotiated,
    /// HTTP/1.1, which upgrades need.
    Http1,
    /// HTTP/2: in cleartext with prior knowledge (RFC 9113 §3.3), which gRPC needs, too.
    Http2,
}

/// What connections are pooled by: the origin, and the identity and trust that they were made with.
/// A connection that was proven for one route therefore never serves another.
pub(crate) struct PoolKey {
    pub(super) origin: Origin,
    pub(super) protocol: Protocol,
    pub(super) tls: Option<Arc<UpstreamTls>>,
    /// The value of `Host`.
    pub(super) authority: HeaderValue,
    pub(super) rules: AddressRules,
    pub(super) egress_proxy: Option<Arc<EgressProxy>>,
    in_use: Weak<InUse>,
}

impl UpstreamConfig {
    /// The upstream of a route: the origin that it names, or the one that each request names.
    ///
    /// # Errors
    /// The TLS settings need an identity, and none is configured.
    pub(crate) fn new(route: &Route, parts: &UpstreamParts<'_>) -> Result<Self, SetupError> {
        let Upstream { origin, tls, host, egress_proxy, .. } = &route.upstream;
        let tls = tls.as_ref().map(|tls| UpstreamTls::new(tls, &route.upstream, parts).map(Arc::new)).transpose()?;
        let named_by = match (origin, &route.matcher.host) {
            (None, HostPattern::Suffix(_)) => NamedBy::Agent,
            _ => NamedBy::Configuration,
        };
        let rules = AddressRules { named_by, egress: Arc::clone(parts.egress) };
        let mut config =
            Self { fixed: None, tls, rules, host: *host, egress_proxy: egress_proxy.clone(), in_use: Arc::new(InUse) };
        let protocol = Protocol::of(route.upstream.protocol);
        config.fixed = origin.clone().and_then(|origin| PoolKey::new(origin, protocol, &config)).map(Arc::new);
        Ok(config)
    }

    /// The upstreams of requests that pass without a route.
    ///
    /// # Errors
    /// The TLS settings need an identity.
    pub(crate) fn without_route(tls: &ClientTls, parts: &UpstreamParts<'_>) -> Result<Self, SetupError> {
        let without_identity = UpstreamParts { identity: None, ..*parts };
        let tls = Arc::new(UpstreamTls::new(tls, &Upstream::default(), &without_identity)?);
        let rules = AddressRules { named_by: NamedBy::Agent, egress: Arc::clone(parts.egress) };
        let egress_proxy = parts.egress_proxy.cloned();
        Ok(Self { fixed: None, tls: Some(tls), rules, host: HostRule::Upstream, egress_proxy, in_use: Arc::new(InUse) })
    }

    /// How a bare connection to `origin` is opened.
    pub(crate) fn target<'o>(&'o self, origin: &'o Origin, guard: &'o Guard) -> DialTarget<'o> {
        DialTarget { origin, rules: &self.rules, guard, egress_proxy: self.egress_proxy.as_deref() }
    }

    /// Whether a connection to it needs the workload's identity.
    pub(crate) fn needs_identity(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.identity.is_some())
    }

    /// The pool key of a request. `requested` is the origin that the request names, for a route
    /// that names none or preserves the host. `None` if the host is not a valid value of `Host`.
    pub(crate) fn key(&self, protocol: Protocol, requested: impl FnOnce() -> Origin) -> Option<Arc<PoolKey>> {
        match &self.fixed {
            Some(key) if self.host == HostRule::Preserve => {
                let authority = HeaderValue::try_from(requested().authority()).ok()?;
                let key = PoolKey::new(key.origin.clone(), protocol, self)?;
                Some(Arc::new(PoolKey { authority, ..key }))
            }
            Some(key) if protocol == key.protocol => Some(Arc::clone(key)),
            Some(key) => PoolKey::new(key.origin.clone(), protocol, self).map(Arc::new),
            None => PoolKey::new(requested(), protocol, self).map(Arc::new),
        }
    }
}

impl Protocol {
    /// The protocol of an upstream's connections, unless a request needs another one.
    pub(crate) fn of(configured: Option<UpstreamProtocol>) -> Self {
        match configured {
            Some(UpstreamProtocol::Http1) => Self::Http1,
            Some(UpstreamProtocol::Http2) => Self::Http2,
            None => Self::Negotiated,
        }
    }
}

impl UpstreamTls {
    fn new(tls: &ClientTls, upstream: &Upstream, parts: &UpstreamParts<'_>) -> Result<Self, SetupError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let alpn = |protocols: &[&[u8]]| ClientTls {
            alpn: protocols.iter().map(|name| name.to_vec()).collect(),
            ..tls.clone()
        };
        let UpstreamParts { identity, clock, .. } = *parts;
        let offered: &[&[u8]] = match upstream.protocol {
            Some(UpstreamProtocol::Http1) => &[b"http/1.1"],
            Some(UpstreamProtocol::Http2) => &[b"h2"],
            None => &[b"h2", b"http/1.1"],
        };
        let server_name = upstream.server_name.as_deref().and_then(|name| ServerName::try_from(name.to_owned()).ok());
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            any: client_config(&alpn(offered), identity, clock)?,
            http1: client_config(&alpn(&[b"http/1.1"]), identity, clock)?,
            trust: tls.trust.clone(),
            server_name,
            identity: identity.cloned().filter(|_| tls.needs_identity()),
            clock: clock.clone(),
        })
    }
}

impl PoolKey {
    /// `None` if the host is not a valid value of `Host`.
    fn new(origin: Origin, protocol: Protocol, config: &UpstreamConfig) -> Option<Self> {
        let authority = HeaderValue::try_from(origin.authority()).ok()?;
        let tls = config.tls.clone().filter(|_| origin.scheme == Scheme::Https);
        let (rules, egress_proxy) = (config.rules.clone(), config.egress_proxy.clone());
        let in_use = Arc::downgrade(&config.in_use);
        Some(Self { origin, protocol, tls, authority, rules, egress_proxy, in_use })
    }

    /// How a connection is opened.
    pub(super) fn target<'o>(&'o self, guard: &'o Guard) -> DialTarget<'o> {
        DialTarget { origin: &self.origin, rules: &self.rules, guard, egress_proxy: self.egress_proxy.as_deref() }
    }

    /// The origin.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// `host` or `host:port`, for the log.
    pub(crate) fn authority(&self) -> String {
        self.origin.authority()
    }

    /// Whether a request may still ask for a connection of this key. Each reload makes new
    /// settings, and nothing uses those of the previous configuration any more.
    pub(super) fn is_in_use(&self) -> bool {
        self.in_use.strong_count() > 0
    }

    /// The revision of the identity that a connection made now is bound to; 0 if it is bound to
    /// none.
    pub(super) fn revision(&self) -> u64 {
        let identity = self.tls.as_ref().and_then(|tls| tls.identity.as_ref());
        identity.map_or(0, |identity| *identity.changes().borrow())
    }

    /// What two keys are compared by.
    fn parts(&self) -> (u64, Protocol, &AddressRules, Option<*const EgressProxy>, &Origin) {
        // Naming every field makes the compiler reject one that is not considered: connections that
        // differ only in it would be shared. Requests for several authorities may share one.
        let Self { origin, protocol, tls, authority: _, rules, egress_proxy, in_use: _ } = self;
        let egress_proxy = egress_proxy.as_ref().map(Arc::as_ptr);
        (tls.as_ref().map_or(0, |tls| tls.id), *protocol, rules, egress_proxy, origin)
    }
}

impl PartialEq for PoolKey {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for PoolKey {}

impl std::hash::Hash for PoolKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

//! Which origin a route's requests go to, and what a connection there must prove.
use crate::clock::Clock;
use crate::identity::Identity;
use crate::policy::{Origin, Scheme};
use crate::proxy::outbound::Destination;
use crate::tls::{ClientTls, ServerTrust, SetupError, client_config};
use http::HeaderValue;
use rustls::ClientConfig;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The upstream of one route.
pub(crate) struct Peer {
    /// Precomputed where the route names its upstream.
    fixed: Option<Arc<Key>>,
    tls: Option<Arc<PeerTls>>,
    /// The scheme that the agent used is kept: only for requests that pass without a route.
    keep_scheme: bool,
}

/// TLS towards one route's upstream.
pub(super) struct PeerTls {
    id: u64,
    pub(super) any: Arc<ClientConfig>,
    pub(super) http1: Arc<ClientConfig>,
    pub(super) trust: ServerTrust,
    /// Set where the SVID is presented or the peer is pinned: such connections live no longer than their trust.
    pub(super) identity: Option<Identity>,
    pub(super) clock: Clock,
}

/// Which protocol a connection must speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    /// By ALPN; HTTP/1.1 in the clear.
    Negotiated,
    /// HTTP/1.1: for upgrades.
    Http1,
    /// HTTP/2 with prior knowledge (RFC 9113 §3.3): gRPC in the clear.
    Http2,
}

/// What connections are pooled by: the origin, and the identity and trust that they were made with, so that a connection
/// proven for one route never serves another.
pub(crate) struct Key {
    pub(super) origin: Origin,
    pub(super) protocol: Protocol,
    pub(super) tls: Option<Arc<PeerTls>>,
    /// The value of `Host`.
    pub(super) authority: HeaderValue,
    /// Whether the configuration names the host, and not the agent alone.
    pub(super) named: bool,
}

impl Peer {
    /// The upstream of a route: `origin`, or `https` to the request's own host.
    ///
    /// # Errors
    /// TLS that needs an identity where none is configured.
    pub(crate) fn new(
        origin: Option<Origin>,
        tls: Option<&ClientTls>,
        identity: Option<&Identity>,
        clock: &Clock,
    ) -> Result<Self, SetupError> {
        let tls = tls.map(|tls| PeerTls::new(tls, identity, clock).map(Arc::new)).transpose()?;
        let with_tls = |origin: &Origin| tls.clone().filter(|_| origin.scheme == Scheme::Https);
        let fixed = origin.and_then(|origin| {
            let tls = with_tls(&origin);
            Key::new(origin, Protocol::Negotiated, tls).map(Arc::new)
        });
        Ok(Self { fixed, tls, keep_scheme: false })
    }

    /// Where requests go that pass without a route.
    ///
    /// # Errors
    /// TLS that needs an identity.
    pub(crate) fn passing(tls: &ClientTls, clock: &Clock) -> Result<Self, SetupError> {
        let tls = Arc::new(PeerTls::new(tls, None, clock)?);
        Ok(Self { fixed: None, tls: Some(tls), keep_scheme: true })
    }

    /// Whether a connection there takes the workload's identity.
    pub(crate) fn needs_identity(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.identity.is_some())
    }

    /// Where a request for `destination` goes; `None` for a host that cannot stand in `Host`.
    pub(crate) fn key(&self, destination: &Destination, protocol: Protocol) -> Option<Arc<Key>> {
        match &self.fixed {
            Some(key) if protocol == key.protocol => Some(Arc::clone(key)),
            Some(key) => Key::new(key.origin.clone(), protocol, key.tls.clone()).map(Arc::new),
            None => {
                let scheme = if self.keep_scheme { destination.scheme } else { Scheme::Https };
                let default = destination.port == destination.scheme.default_port();
                let port = if default { scheme.default_port() } else { destination.port };
                let origin = Origin { scheme, host: destination.host.as_str().into(), port };
                let tls = self.tls.clone().filter(|_| scheme == Scheme::Https);
                Key::new(origin, protocol, tls).map(|key| Arc::new(Key { named: !self.keep_scheme, ..key }))
            }
        }
    }
}

impl PeerTls {
    fn new(tls: &ClientTls, identity: Option<&Identity>, clock: &Clock) -> Result<Self, SetupError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let alpn = |protocols: &[&[u8]]| ClientTls {
            alpn: protocols.iter().map(|name| name.to_vec()).collect(),
            ..tls.clone()
        };
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            any: client_config(&alpn(&[b"h2", b"http/1.1"]), identity, clock)?,
            http1: client_config(&alpn(&[b"http/1.1"]), identity, clock)?,
            trust: tls.trust.clone(),
            identity: identity.cloned().filter(|_| tls.needs_identity()),
            clock: clock.clone(),
        })
    }
}

impl Key {
    fn new(origin: Origin, protocol: Protocol, tls: Option<Arc<PeerTls>>) -> Option<Self> {
        let authority = HeaderValue::try_from(origin.authority()).ok()?;
        Some(Self { origin, protocol, tls, authority, named: true })
    }

    /// `host` or `host:port`, for the log.
    pub(crate) fn authority(&self) -> String {
        self.origin.authority()
    }

    /// The revision of the identity that a connection made now is bound to; 0 where it is bound to none.
    pub(super) fn revision(&self) -> u64 {
        let identity = self.tls.as_ref().and_then(|tls| tls.identity.as_ref());
        identity.map_or(0, |identity| *identity.changes().borrow())
    }

    fn parts(&self) -> (u64, Protocol, bool, &Origin) {
        (self.tls.as_ref().map_or(0, |tls| tls.id), self.protocol, self.named, &self.origin)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Key {}

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

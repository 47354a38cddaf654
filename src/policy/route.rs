//! A route: which requests it matches, which credential they carry, and where they go.
use super::matcher::Match;
use super::placement::Placement;
use super::retries::Retries;
use crate::egress_proxy::EgressProxy;
use crate::exchange::Grant;
use crate::secret::Secret;
use crate::tls::{ClientCertificate, ClientTls};
use http::{HeaderName, HeaderValue};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A route as built from the configuration.
#[derive(Clone)]
pub struct Route {
    /// The name, which is unique and the label in metrics and logs.
    pub name: Arc<str>,
    /// Which requests take this route.
    pub matcher: Match,
    /// A name for the host in base URLs.
    pub alias: Option<Box<str>>,
    /// The credential that the requests carry.
    pub credential: CredentialRule,
    /// What happens to ambiguous paths ([`super::PathAmbiguity`]); absent: they are refused if the
    /// requests speak for the workload and routes divide their host by path.
    pub ambiguous_paths: Option<AmbiguousPaths>,
    /// The server that the requests go to.
    pub upstream: Upstream,
    /// How long the requests may take.
    pub timeouts: Timeouts,
    /// How large the requests may be, and how many.
    pub limits: RouteLimits,
    /// Bodies of up to this many bytes are kept for a replay after a 401, and for retries; absent:
    /// only requests without a body are sent again.
    pub replay_max_body: Option<usize>,
    /// When the requests are sent again.
    pub retries: Retries,
}

/// The credential that the requests of a route carry.
#[derive(Clone)]
pub enum CredentialRule {
    /// An access token.
    Token(TokenRule),
    /// A static key, for services that accept nothing better.
    LegacySecret {
        /// The header that carries the key.
        placement: Placement,
        /// The value of the header, marked as sensitive.
        value: HeaderValue,
    },
    /// The requests are opaque TLS through CONNECT and carry no credential.
    Tunnel,
    /// The proxy adds no credential.
    None {
        /// Whether the agent's own credentials are forwarded.
        keep_credentials: bool,
    },
}

/// Which access token the requests carry, and in whose name.
#[derive(Clone)]
pub struct TokenRule {
    /// The grant that is requested from the authorization server.
    pub grant: Arc<Grant>,
    /// The source of the user's token on a delegated grant.
    pub source: TokenSource,
    /// The content of a [`TokenSource::File`] when the configuration was loaded; absent if it was
    /// not usable.
    pub file_token: Option<Secret>,
    /// Whether readiness waits for this token.
    pub eager: bool,
    /// Where the access token goes on a request.
    pub placement: Placement,
}

/// The source of the subject's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The subject is the workload itself and needs no token.
    Own,
    /// A header that the agent sends. It is removed before the request leaves.
    Header(HeaderName),
    /// A file. The configuration is loaded again when it changes.
    File(PathBuf),
}

impl Route {
    /// A route with this name, match and credential, and the defaults of the configuration. Its
    /// requests go to the host that they name, over `https` with the settings in `tls`.
    pub fn new(name: &str, matcher: Match, credential: CredentialRule, tls: Option<ClientTls>) -> Self {
        Self {
            name: name.into(),
            matcher,
            alias: None,
            credential,
            ambiguous_paths: None,
            upstream: Upstream { tls, ..Upstream::default() },
            timeouts: Timeouts::default(),
            limits: RouteLimits::default(),
            replay_max_body: None,
            retries: Retries::default(),
        }
    }

    /// Whether its requests act with the authority of the workload: with a credential that the
    /// proxy adds, or on a connection for which it presents the workload's certificate.
    pub fn speaks_for_workload(&self) -> bool {
        let certificate = self.upstream.tls.as_ref().map(|tls| tls.client_certificate);
        self.credential.injects() || certificate == Some(ClientCertificate::Svid)
    }

    /// The name of the server that issues the workload's own token, if the route uses one.
    pub fn own_issuer(&self) -> Option<&str> {
        match &self.credential {
            CredentialRule::Token(rule) if !rule.grant.is_delegated() => Some(&rule.grant.server().name),
            _ => None,
        }
    }
}

impl CredentialRule {
    /// Whether requests leave with a credential that the proxy adds.
    pub fn injects(&self) -> bool {
        matches!(self, Self::Token(_) | Self::LegacySecret { .. })
    }
}

/// What happens to a path that the upstream may interpret differently from this proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmbiguousPaths {
    /// It is refused.
    Refuse,
    /// It is forwarded as it was sent.
    AsSent,
}

/// The server that the requests of a route go to.
#[derive(Clone, Default)]
pub struct Upstream {
    /// The origin; absent: `https` to the request's own host, on port 443 or `match.port`.
    pub origin: Option<Origin>,
    /// The TLS settings; absent only where `origin` is plain HTTP.
    pub tls: Option<ClientTls>,
    /// The name for SNI that the server's certificate must be for; absent: the origin's host.
    pub server_name: Option<Box<str>>,
    /// The version of HTTP that connections speak; absent: negotiated by ALPN.
    pub protocol: Option<UpstreamProtocol>,
    /// The host that requests name in `Host` or `:authority`.
    pub host: HostRule,
    /// The egress proxy that connections go through; absent: they are direct.
    pub egress_proxy: Option<Arc<EgressProxy>>,
}

/// The version of HTTP that connections to an upstream speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, in cleartext with prior knowledge (RFC 9113 §3.3).
    Http2,
}

/// The host that requests to an upstream name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostRule {
    /// The host of the upstream's own URL.
    #[default]
    Upstream,
    /// The host that the agent named.
    Preserve,
}

/// A scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The scheme.
    pub scheme: Scheme,
    /// The host in lower case, an IPv6 address in brackets.
    pub host: Box<str>,
    /// The port, always explicit.
    pub port: u16,
}

/// The scheme of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The default port: 80 or 443.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Origin {
    /// The origin as written in `Host` and `:authority`: `host` or `host:port`, without a default
    /// port.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// How long the parts of a request may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The longest time to connect to the upstream, including TLS.
    pub connect: Duration,
    /// The longest time of one attempt, from connecting to the head of the response. Absent: only
    /// the other timeouts apply.
    pub attempt: Option<Duration>,
    /// The longest time from the last byte of the request to the head of the response.
    pub response: Duration,
    /// The longest time from the head of the request to the last byte of the answer. Absent: no
    /// limit, because answers are streamed.
    pub total: Option<Duration>,
    /// The longest time without a byte in either direction of a body, a WebSocket or a tunnel.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            attempt: None,
            // Calls of models and tools commonly take longer than a minute.
            response: Duration::from_secs(5 * 60),
            total: None,
            idle: Duration::from_secs(15 * 60),
        }
    }
}

/// How large a request may be, and how many there may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteLimits {
    /// The largest body of a request in bytes; absent: no limit, because bodies are streamed.
    pub request_body: Option<u64>,
    /// How many requests may be in flight at one time; absent: the process's limit alone.
    pub requests: Option<usize>,
    /// How many requests may arrive per unit of time; absent: no limit.
    pub rate: Option<Rate>,
}

/// A number of requests per unit of time. As many may arrive at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The number of requests, which is not zero.
    pub requests: u32,
    /// The unit: a second, a minute or an hour.
    pub per: Duration,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "second",
            60 => "minute",
            _ => "hour",
        };
        let requests = if self.requests == 1 { "request" } else { "requests" };
        write!(f, "{} {requests} per {unit}", self.requests)
    }
}

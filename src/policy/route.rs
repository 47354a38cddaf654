//! One route: what it matches, which credential its requests carry, and where they go.
use super::matcher::Match;
use crate::exchange::Grant;
use crate::secret::Secret;
use crate::tls::ClientTls;
use http::{HeaderName, HeaderValue};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A route, as the configuration has built it.
#[derive(Clone)]
pub struct Route {
    /// Unique; the label in metrics and logs.
    pub name: Arc<str>,
    /// What it matches.
    pub matcher: Match,
    /// A name for its host in base URLs.
    pub alias: Option<Box<str>>,
    /// What its requests carry.
    pub credential: CredentialRule,
    /// Where they go.
    pub upstream: Upstream,
    /// How long they may take.
    pub timeouts: Timeouts,
    /// How large they may be.
    pub limits: Limits,
    /// Bodies up to this many bytes are kept for one replay after a 401; absent: only requests without a body are replayed.
    pub replay_max_body: Option<usize>,
}

/// What a route's requests carry: exactly one of these.
#[derive(Clone)]
pub enum CredentialRule {
    /// An access token.
    Token(TokenRule),
    /// A static key, for services that take nothing better.
    LegacySecret {
        /// Where it goes.
        header: HeaderName,
        /// What goes there; marked sensitive.
        value: HeaderValue,
    },
    /// Opaque TLS by CONNECT.
    Tunnel,
    /// Nothing of ours.
    None {
        /// Whether the agent's own credentials pass.
        keep_credentials: bool,
    },
}

/// Which token, in whose name.
#[derive(Clone)]
pub struct TokenRule {
    /// What is asked for at the authorization server.
    pub grant: Arc<Grant>,
    /// Where the user's token comes from, on a delegated grant.
    pub source: TokenSource,
    /// What the file of a [`TokenSource::File`] held when the configuration was loaded; absent: nothing usable.
    pub file_token: Option<Secret>,
    /// Readiness waits for it.
    pub eager: bool,
}

/// Where a subject's token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The workload itself: none is needed.
    Own,
    /// A header that the agent sends; it is removed before the request leaves.
    Header(HeaderName),
    /// A file; when it changes, the configuration is loaded again.
    File(PathBuf),
}

impl Route {
    /// The server that issues the token of the workload's own that it carries, if it carries one.
    pub fn own_issuer(&self) -> Option<&str> {
        match &self.credential {
            CredentialRule::Token(rule) if !rule.grant.is_delegated() => Some(&rule.grant.server().name),
            _ => None,
        }
    }
}

impl CredentialRule {
    /// Whether requests leave with a credential that we put on them.
    pub fn injects(&self) -> bool {
        matches!(self, Self::Token(_) | Self::LegacySecret { .. })
    }
}

/// Where a route's requests go.
#[derive(Clone)]
pub struct Upstream {
    /// Absent: `https` to the request's own host, on 443 or `match.port`.
    pub origin: Option<Origin>,
    /// How it is spoken to over TLS; absent only where `origin` is plain HTTP.
    pub tls: Option<ClientTls>,
}

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `http` or `https`
    pub scheme: Scheme,
    /// Lower case; an IPv6 address in brackets.
    pub host: Box<str>,
    /// Always explicit.
    pub port: u16,
}

/// How an origin is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// 80 or 443.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Origin {
    /// `host` or `host:port`, as `Host` and `:authority` spell it: a default port is left out.
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
    /// To reach the upstream, TLS included.
    pub connect: Duration,
    /// From the request's last byte to the response's head.
    pub response: Duration,
    /// Without a byte in either direction of a body, a WebSocket or a tunnel.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), response: Duration::from_secs(60), idle: Duration::from_secs(15 * 60) }
    }
}

/// How large a request may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body; absent: no limit, because bodies are streamed.
    pub request_body: Option<u64>,
}

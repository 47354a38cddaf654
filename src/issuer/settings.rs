//! The settings of an authorization server.
use crate::egress_proxy::EgressProxy;
use crate::jose::SigningKey;
use crate::secret::Secret;
use crate::tls::ServerTrust;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use url::{Host, Url};

/// One authorization server. If it only issues users' tokens, only its issuer identifier and its
/// keys matter.
#[derive(Clone)]
pub struct AuthorizationServer {
    /// The name that routes, metrics and logs use.
    pub name: String,
    /// The issuer identifier, compared exactly, a trailing slash included.
    pub issuer: String,
    /// The source of its endpoints.
    pub endpoints: Endpoints,
    /// Our client ID at this server; `None` is the SPIFFE ID.
    pub client_id: Option<String>,
    /// How we authenticate as that client.
    pub client_auth: ClientAuth,
    /// How the server's certificate is verified.
    pub trust: ServerTrust,
    /// Hosts that may be asked without TLS.
    pub plain_http: PlainHttp,
    /// Its deviations from the standards.
    pub quirks: Quirks,
    /// The longest waits for it.
    pub deadlines: Deadlines,
    /// The egress proxy that connections go through; absent: they are direct.
    pub egress_proxy: Option<Arc<EgressProxy>>,
}

/// The source of a server's endpoints.
#[derive(Clone, Debug)]
pub enum Endpoints {
    /// They are discovered from the issuer's metadata (RFC 8414 or OpenID Connect Discovery).
    Discovered,
    /// They are configured, and no metadata is fetched.
    Explicit {
        /// The URL of the token endpoint.
        token: Url,
        /// The URL of the key set, needed only if users' tokens of this server are verified.
        jwks: Option<Url>,
    },
}

/// How a client authenticates.
#[derive(Clone)]
pub enum ClientAuth {
    /// A JWT-SVID as a `jwt-spiffe` client assertion.
    SpiffeJwt,
    /// The X.509-SVID as the TLS client certificate.
    SpiffeX509,
    /// A client assertion signed with a key of our own (RFC 7523).
    PrivateKeyJwt(SigningKey),
    /// `Authorization: Basic` (RFC 6749 §2.3.1).
    ClientSecretBasic(Secret),
    /// `client_secret` in the body.
    ClientSecretPost(Secret),
    /// A JWT-SVID as an ordinary `jwt-bearer` client assertion.
    JwtSvidBearer,
    /// No authentication, for a public client.
    None,
}

/// A server's deviations from the standards.
#[derive(Clone, Debug, Default)]
pub struct Quirks {
    /// Parameters that are never sent.
    pub omit: BTreeSet<Parameter>,
    /// Parameters that are sent in addition, unless the request already has one of that name.
    pub extra_parameters: BTreeMap<String, String>,
    /// The `aud` of our assertions and JWT-SVIDs for it.
    pub assertion_audience: AssertionAudience,
}

/// A parameter of the token request that can be omitted for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Parameter {
    /// The parameter `resource` (RFC 8707).
    Resource,
    /// The parameter `audience` (RFC 8693).
    Audience,
    /// The parameter `scope` (RFC 6749 §3.3).
    Scope,
    /// The parameter `client_id` (RFC 6749 §2.2).
    ClientId,
    /// The parameter `requested_token_type` (RFC 8693).
    RequestedTokenType,
}

/// The `aud` of assertions for a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AssertionAudience {
    /// The issuer identifier (draft-ietf-oauth-rfc7523bis, SPIFFE client authentication).
    #[default]
    Issuer,
    /// The URL of the token endpoint, as older servers read RFC 7523.
    TokenEndpoint,
    /// A configured value.
    Explicit(String),
}

/// Hosts, in addition to loopback, that may be sent credentials over plain http.
#[derive(Clone, Debug, Default)]
pub struct PlainHttp {
    /// Host names or addresses, in lower case, in the form of URLs.
    pub hosts: BTreeSet<String>,
}

/// The longest waits for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// The time for TCP and TLS to connect.
    pub connect: Duration,
    /// The time for one request, from connecting to the last byte of the answer.
    pub total: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), total: Duration::from_secs(10) }
    }
}

impl Parameter {
    /// The name of the parameter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Audience => "audience",
            Self::Scope => "scope",
            Self::ClientId => "client_id",
            Self::RequestedTokenType => "requested_token_type",
        }
    }
}

impl ClientAuth {
    /// The name of the method in the configuration, which is the registered name if there is one.
    pub fn method(&self) -> &'static str {
        match self {
            Self::SpiffeJwt => "spiffe_jwt",
            Self::SpiffeX509 => "spiffe_x509",
            Self::PrivateKeyJwt(_) => "private_key_jwt",
            Self::ClientSecretBasic(_) => "client_secret_basic",
            Self::ClientSecretPost(_) => "client_secret_post",
            Self::JwtSvidBearer => "jwt_svid_bearer",
            Self::None => "none",
        }
    }

    /// Whether the X.509-SVID is presented in the TLS handshake (RFC 8705 §2), instead of a proof
    /// in the request.
    pub fn is_certificate(&self) -> bool {
        match self {
            Self::SpiffeX509 => true,
            Self::SpiffeJwt
            | Self::PrivateKeyJwt(_)
            | Self::ClientSecretBasic(_)
            | Self::ClientSecretPost(_)
            | Self::JwtSvidBearer
            | Self::None => false,
        }
    }

    /// Whether the JWT-SVID is sent.
    pub fn sends_jwt_svid(&self) -> bool {
        match self {
            Self::SpiffeJwt | Self::JwtSvidBearer => true,
            Self::SpiffeX509
            | Self::PrivateKeyJwt(_)
            | Self::ClientSecretBasic(_)
            | Self::ClientSecretPost(_)
            | Self::None => false,
        }
    }

    /// Whether we authenticate with an SVID.
    pub fn uses_identity(&self) -> bool {
        self.is_certificate() || self.sends_jwt_svid()
    }
}

impl PlainHttp {
    /// Whether plain http is allowed to the host of this URL: loopback, or one that is listed.
    pub fn allows(&self, url: &Url) -> bool {
        is_loopback(url) || self.lists(url)
    }

    /// Whether the configuration lists the host of this URL.
    pub fn lists(&self, url: &Url) -> bool {
        url.host_str().is_some_and(|host| self.hosts.contains(host))
    }
}

/// Whether the host is a loopback address, or the name of one (RFC 6761 §6.3).
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).to_canonical().is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

impl AuthorizationServer {
    /// Whether requests to this server need the workload's identity.
    pub fn uses_identity(&self) -> bool {
        self.client_id.is_none() && !matches!(self.client_auth, ClientAuth::None)
            || self.client_auth.uses_identity()
            || matches!(self.trust, ServerTrust::Spiffe(_))
    }
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.method())
    }
}

impl fmt::Debug for AuthorizationServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AuthorizationServer")
            .field("name", &self.name)
            .field("issuer", &self.issuer)
            .field("client_id", &self.client_id)
            .field("client_auth", &self.client_auth)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_allowed_for_loopback_and_listed_hosts() {
        let plain = PlainHttp { hosts: ["as.internal".to_owned()].into() };
        for (url, allowed) in [
            ("http://127.0.0.1:8180/realms/r", true),
            ("http://127.8.9.1/", true),
            ("http://[::1]:80/", true),
            ("http://[::ffff:127.0.0.1]/", true),
            ("http://localhost/", true),
            ("http://AS.internal/token", true),
            ("http://as.internal.evil/", false),
            ("http://localhost.evil/", false),
            ("http://10.0.0.1/", false),
            ("http://127.0.0.1.evil/", false),
        ] {
            assert_eq!(plain.allows(&Url::parse(url).expect("a URL")), allowed, "{url}");
        }
    }
}

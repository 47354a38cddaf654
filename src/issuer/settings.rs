//! An authorization server as the configuration describes it.
use crate::jose::SigningKey;
use crate::secret::Secret;
use crate::tls::ServerTrust;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;
use url::{Host, Url};

/// One authorization server. Also the one that a user's token is from: then only its issuer and its keys matter.
#[derive(Clone)]
pub struct AuthorizationServer {
    /// The name that routes, metrics and logs use.
    pub name: String,
    /// The issuer identifier, compared exactly, a trailing slash included.
    pub issuer: String,
    /// Where its endpoints are.
    pub endpoints: Endpoints,
    /// Our id at this server; `None` is the SPIFFE ID.
    pub client_id: Option<String>,
    /// How we prove to be that client.
    pub client_auth: ClientAuth,
    /// Whom to trust as this server.
    pub trust: ServerTrust,
    /// Where a request may go without TLS.
    pub plain_http: PlainHttp,
    /// Where it departs from the standards.
    pub quirks: Quirks,
    /// How long it may take.
    pub deadlines: Deadlines,
}

/// Where a server's endpoints come from.
#[derive(Clone, Debug)]
pub enum Endpoints {
    /// RFC 8414 or OpenID Connect metadata of the issuer.
    Discovered,
    /// From the configuration; the issuer is never asked.
    Explicit {
        /// The token endpoint.
        token: Url,
        /// The key set; needed only where users' tokens of this server are verified.
        jwks: Option<Url>,
    },
}

/// How a client proves who it is.
#[derive(Clone)]
pub enum ClientAuth {
    /// A JWT-SVID as a `jwt-spiffe` client assertion.
    SpiffeJwt,
    /// The X.509-SVID as TLS client certificate.
    SpiffeX509,
    /// A client assertion signed with a key of our own (RFC 7523).
    PrivateKeyJwt(SigningKey),
    /// `Authorization: Basic` (RFC 6749 §2.3.1).
    ClientSecretBasic(Secret),
    /// `client_secret` in the body.
    ClientSecretPost(Secret),
    /// A JWT-SVID as an ordinary `jwt-bearer` client assertion.
    JwtSvidBearer,
    /// A public client.
    None,
}

/// What a server wants otherwise than the standards say.
#[derive(Clone, Debug, Default)]
pub struct Quirks {
    /// Never sent.
    pub omit: BTreeSet<Parameter>,
    /// Sent in addition, where we send no parameter of that name.
    pub extra_parameters: BTreeMap<String, String>,
    /// What `aud` of our assertions and JWT-SVIDs for it is.
    pub assertion_audience: AssertionAudience,
}

/// A parameter of the token request that a server may not want to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Parameter {
    /// `resource` (RFC 8707).
    Resource,
    /// `audience` (RFC 8693).
    Audience,
    /// `scope`.
    Scope,
    /// `client_id`.
    ClientId,
    /// `requested_token_type` (RFC 8693).
    RequestedTokenType,
}

/// What an assertion for this server says in `aud`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AssertionAudience {
    /// The issuer identifier (draft-ietf-oauth-rfc7523bis, SPIFFE client authentication).
    #[default]
    Issuer,
    /// The token endpoint's URL (RFC 7523 as older servers read it).
    TokenEndpoint,
    /// This.
    Explicit(String),
}

/// Hosts besides loopback to which a request with a credential may go in the clear.
#[derive(Clone, Debug, Default)]
pub struct PlainHttp {
    /// Host names or addresses, lower case, as they stand in URLs.
    pub hosts: BTreeSet<String>,
}

/// The longest waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For TCP and TLS.
    pub connect: Duration,
    /// For one request, from connecting to the last byte of the answer.
    pub total: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), total: Duration::from_secs(10) }
    }
}

impl Parameter {
    /// Its name on the wire.
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
    /// The method's registered name, or the configuration's word for it.
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

    /// Whether it is an SVID that proves who we are.
    pub fn uses_identity(&self) -> bool {
        matches!(self, Self::SpiffeJwt | Self::SpiffeX509 | Self::JwtSvidBearer)
    }
}

impl PlainHttp {
    /// Whether `http` may be spoken to the host of this URL: loopback, or listed.
    pub fn allows(&self, url: &Url) -> bool {
        is_loopback(url) || self.lists(url)
    }

    /// Whether the configuration names the host of this URL.
    pub fn lists(&self, url: &Url) -> bool {
        url.host_str().is_some_and(|host| self.hosts.contains(host))
    }
}

/// A loopback address, or the name that stands for one (RFC 6761 §6.3).
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).to_canonical().is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

impl AuthorizationServer {
    /// Whether a request to it, or for a token of it, needs the workload's identity.
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
    fn plain_http_is_for_loopback_and_listed_hosts() {
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

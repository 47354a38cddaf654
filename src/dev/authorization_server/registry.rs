//! The clients, issuers and policies that an administrator would configure.
use crate::dev::ca::{JwtAuthority, TrustDomain};
use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::time::Duration;

/// The source of the public keys of an issuer or a client.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A JWK set.
    Jwks(Value),
    /// The keys that this authority currently publishes.
    Authority(JwtAuthority),
    /// A JWK set that is fetched each time over plain HTTP.
    Url(String),
}

impl KeySource {
    pub(crate) async fn jwks(&self) -> anyhow::Result<Value> {
        match self {
            Self::Jwks(jwks) => Ok(jwks.clone()),
            Self::Authority(authority) => Ok(authority.jwks()),
            Self::Url(url) => {
                let client = HttpClient::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
                let response = client.get(url.parse()?).await.with_context(|| format!("cannot fetch {url}"))?;
                let body = response.into_body().collect().await?.to_bytes();
                serde_json::from_slice(&body).with_context(|| format!("{url} is not JSON"))
            }
        }
    }
}

/// The method by which a client authenticates (RFC 6749 §2.3).
#[derive(Clone, Debug)]
pub enum Authentication {
    /// A public client sends only its `client_id`.
    None,
    /// `client_secret_basic` with this secret.
    SecretBasic(String),
    /// `client_secret_post` with this secret.
    SecretPost(String),
    /// `private_key_jwt`, verified with a key from this source.
    PrivateKeyJwt(KeySource),
    /// `spiffe_jwt`: a JWT-SVID as an assertion of type `…:jwt-spiffe`.
    SpiffeJwt,
    /// A JWT-SVID as an ordinary client assertion of type `…:jwt-bearer`.
    JwtSvidBearer,
    /// `spiffe_x509`: an X.509-SVID as TLS client certificate.
    SpiffeX509,
}

/// A registered client, usually an agent.
#[derive(Clone, Debug)]
pub struct Client {
    /// The `client_id`.
    pub id: String,
    /// How the client authenticates.
    pub authentication: Authentication,
    /// The SPIFFE ID of the agent, exact or with `/*` at the end. It is needed for the `spiffe_*`
    /// methods, and for assertions that are signed with an SVID's key.
    pub spiffe_id: Option<String>,
    /// The issuer and the keys of assertions that the client signs with a key of its own.
    pub assertion_issuer: Option<(String, KeySource)>,
    /// The scopes that the client may request; `calendar:*` stands for every scope that begins with
    /// `calendar:`.
    pub scopes: Vec<String>,
    /// The audiences and resources that the client may name; empty for any.
    pub targets: Vec<String>,
}

impl Client {
    /// A client without an SVID, a key or a scope.
    pub fn new(id: &str, authentication: Authentication) -> Self {
        Self {
            id: id.to_owned(),
            authentication,
            spiffe_id: None,
            assertion_issuer: None,
            scopes: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// A client whose `client_id` is its SPIFFE ID.
    pub fn agent(spiffe_id: &str, authentication: Authentication) -> Self {
        Self::new(spiffe_id, authentication).spiffe_id(spiffe_id)
    }

    /// Sets the SPIFFE ID.
    pub fn spiffe_id(mut self, pattern: &str) -> Self {
        self.spiffe_id = Some(pattern.to_owned());
        self
    }

    /// Sets the issuer and the keys of the client's own assertions.
    pub fn assertions(mut self, issuer: &str, keys: KeySource) -> Self {
        self.assertion_issuer = Some((issuer.to_owned(), keys));
        self
    }

    /// Sets the scopes.
    pub fn scopes(mut self, scopes: &[&str]) -> Self {
        self.scopes = owned(scopes);
        self
    }

    /// Sets the audiences and resources.
    pub fn targets(mut self, targets: &[&str]) -> Self {
        self.targets = owned(targets);
        self
    }

    /// Whether this SPIFFE ID belongs to the client (SPIFFE client authentication).
    pub(super) fn is_agent(&self, id: &str) -> bool {
        self.spiffe_id.as_deref().is_some_and(|pattern| matches(pattern, id))
    }

    /// Whether `name` is the client's `client_id` or its SPIFFE ID.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.id == name || self.is_agent(name)
    }
}

/// Another issuer whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct TrustedIssuer {
    /// The issuer identifier, compared as a string.
    pub issuer: String,
    /// The issuer's signing keys.
    pub keys: KeySource,
    /// Whether ID-JAGs of this issuer are redeemed.
    pub id_jags: bool,
    /// Whether ID tokens and access tokens of this issuer are accepted as a user's token.
    pub user_tokens: bool,
}

/// Permission to act for a user. Both values are exact or end in `*`.
#[derive(Clone, Debug)]
pub struct Delegation {
    /// The agent's SPIFFE ID or `client_id`.
    pub actor: String,
    /// The `sub` of the user.
    pub subject: String,
}

/// A resource authorization server that this identity provider issues ID-JAGs for.
#[derive(Clone, Debug)]
pub struct IdJagAudience {
    /// The issuer identifier of the server.
    pub issuer: String,
    /// The `client_id` at this identity provider and the same client's at that server. A client
    /// that is not listed has the same id at both.
    pub client_ids: Vec<(String, String)>,
}

/// The policy for all clients.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Who may act for whom. If it is empty, nobody may act for anybody.
    pub delegations: Vec<Delegation>,
    /// The largest number of actors in an `act` chain.
    pub max_actors: usize,
    /// Whether a scope that is too wide is narrowed instead of refused.
    pub narrow_scopes: bool,
    /// Whether an ID-JAG or a self-issued assertion that was used before is refused (RFC 7523 §3).
    pub single_use_assertions: bool,
    /// Whether the `aud` of a client assertion must be the token endpoint instead of the issuer, as
    /// before RFC 7523bis.
    pub client_assertion_for_endpoint: bool,
    /// The `aud` of an access token if neither `resource` nor `audience` was requested.
    pub default_audience: String,
    /// The servers for which ID-JAGs are issued.
    pub id_jag_audiences: Vec<IdJagAudience>,
    /// The lifetime of access tokens.
    pub access_token_ttl: Duration,
    /// The lifetime of ID-JAGs.
    pub id_jag_ttl: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            delegations: Vec::new(),
            max_actors: 3,
            narrow_scopes: false,
            single_use_assertions: true,
            client_assertion_for_endpoint: false,
            default_audience: "https://api.example".to_owned(),
            id_jag_audiences: Vec::new(),
            access_token_ttl: Duration::from_secs(300),
            id_jag_ttl: Duration::from_secs(300),
        }
    }
}

/// The registrations of one server.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    pub(super) clients: Vec<Client>,
    pub(super) domains: Vec<TrustDomain>,
    pub(super) issuers: Vec<TrustedIssuer>,
    pub(super) policy: Policy,
}

impl Registry {
    pub(super) fn client(&self, id: &str) -> Option<&Client> {
        self.clients.iter().find(|client| client.id == id)
    }

    pub(super) fn agent(&self, spiffe_id: &str) -> Option<&Client> {
        self.clients.iter().find(|client| client.is_agent(spiffe_id))
    }

    pub(super) fn domain_of(&self, spiffe_id: &str) -> anyhow::Result<&TrustDomain> {
        let name =
            crate::dev::jwt::trust_domain(spiffe_id).with_context(|| format!("{spiffe_id} is not a SPIFFE ID"))?;
        let domain = self.domains.iter().find(|domain| domain.name() == name);
        domain.with_context(|| format!("the trust domain {name} is not trusted here"))
    }
}

/// Whether `text` equals the pattern, or begins with it if the pattern ends in `*`.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => text.starts_with(prefix),
        None => pattern == text,
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

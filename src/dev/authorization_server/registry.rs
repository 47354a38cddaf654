//! Whom the server knows, and what it lets them do. All of it is an administrator's work, not the protocol's.
use crate::dev::ca::{JwtAuthority, TrustDomain};
use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::time::Duration;

/// Where the public keys of an issuer or of a client come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A JWK Set.
    Jwks(Value),
    /// The keys that this authority publishes at the moment.
    Authority(JwtAuthority),
    /// A JWK Set that is fetched each time; plain HTTP.
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

/// The one way in which a client proves who it is (RFC 6749 §2.3).
#[derive(Clone, Debug)]
pub enum Authentication {
    /// A public client.
    None,
    /// `client_secret_basic` with this secret.
    SecretBasic(String),
    /// `client_secret_post` with this secret.
    SecretPost(String),
    /// `private_key_jwt`.
    PrivateKeyJwt(KeySource),
    /// `spiffe_jwt`: a JWT-SVID as `…:jwt-spiffe` assertion.
    SpiffeJwt,
    /// A JWT-SVID as an ordinary `…:jwt-bearer` client assertion.
    JwtSvidBearer,
    /// `spiffe_x509`: an X.509-SVID as TLS client certificate.
    SpiffeX509,
}

/// A registered client: an agent, mostly.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its `client_id`.
    pub id: String,
    /// How it authenticates.
    pub authentication: Authentication,
    /// The SPIFFE ID of the agent, exact or with `/*` at the end: for the `spiffe_*` methods, and for assertions that are
    /// signed with an SVID's key.
    pub spiffe_id: Option<String>,
    /// The issuer of assertions that it signs with a key of its own, and that key.
    pub assertion_issuer: Option<(String, KeySource)>,
    /// The scopes that it may ask for; `calendar:*` stands for every scope that begins with `calendar:`.
    pub scopes: Vec<String>,
    /// The audiences and resources that it may name; empty for any.
    pub targets: Vec<String>,
}

impl Client {
    /// A client without an SVID, a key, or a scope.
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

    /// The same with this SPIFFE ID.
    pub fn spiffe_id(mut self, pattern: &str) -> Self {
        self.spiffe_id = Some(pattern.to_owned());
        self
    }

    /// The same, signing assertions as `issuer`.
    pub fn assertions(mut self, issuer: &str, keys: KeySource) -> Self {
        self.assertion_issuer = Some((issuer.to_owned(), keys));
        self
    }

    /// The same with these scopes.
    pub fn scopes(mut self, scopes: &[&str]) -> Self {
        self.scopes = owned(scopes);
        self
    }

    /// The same with these audiences and resources.
    pub fn targets(mut self, targets: &[&str]) -> Self {
        self.targets = owned(targets);
        self
    }

    /// Whether this SPIFFE ID is the agent's (SC-4).
    pub(super) fn is_agent(&self, id: &str) -> bool {
        self.spiffe_id.as_deref().is_some_and(|pattern| matches(pattern, id))
    }

    /// Whether `name` names this client: its `client_id` or its SPIFFE ID.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.id == name || self.is_agent(name)
    }
}

/// Another issuer whose tokens count here.
#[derive(Clone, Debug)]
pub struct TrustedIssuer {
    /// Its issuer identifier, compared as a string.
    pub issuer: String,
    /// Its signing keys.
    pub keys: KeySource,
    /// Whether its ID-JAGs are redeemed.
    pub id_jags: bool,
    /// Whether its ID tokens and access tokens count as a user's token.
    pub user_tokens: bool,
}

/// Somebody may act for somebody. Both sides are exact, or end in `*`.
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
    /// Its issuer identifier.
    pub issuer: String,
    /// Our `client_id` and the same client's `client_id` there; who is not listed has the same one.
    pub client_ids: Vec<(String, String)>,
}

/// What goes for everyone.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Who may act for whom. Empty: nobody for anybody.
    pub delegations: Vec<Delegation>,
    /// How many actors an `act` chain may have.
    pub max_actors: usize,
    /// Grants what is left of a scope instead of refusing one that is too wide.
    pub narrow_scopes: bool,
    /// Refuses an ID-JAG or a self-issued assertion that was seen before (IJ-R7).
    pub single_use_assertions: bool,
    /// Takes the token endpoint as the `aud` of a client assertion, instead of the issuer (before RFC 7523bis).
    pub client_assertion_for_endpoint: bool,
    /// The `aud` of an access token for which no `resource` or `audience` was asked.
    pub default_audience: String,
    /// Whose ID-JAGs may be asked for here.
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

/// Everything above, for one server.
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
        let name = crate::dev::jwt::trust_domain(spiffe_id).with_context(|| format!("{spiffe_id} is no SPIFFE ID"))?;
        let domain = self.domains.iter().find(|domain| domain.name() == name);
        domain.with_context(|| format!("the trust domain {name} is not trusted here"))
    }
}

/// Exact, or a prefix before a final `*`.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => text.starts_with(prefix),
        None => pattern == text,
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

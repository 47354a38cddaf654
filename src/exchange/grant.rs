//! Grants: the server, the subject and the parameters of requests for an access token.
use crate::assertion::{DEFAULT_LIFETIME, DEFAULT_MAX_DEPTH, MAX_LIFETIME};
use crate::issuer::{AuthorizationServer, Endpoints, Quirks};
use crate::jose::{SigningKey, TokenKind};
use crate::tls::ServerTrust;
use aws_lc_rs::digest::{Context, SHA256};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// A grant that can be asked for: a [`GrantSpec`] that contradicts neither itself nor the
/// standards.
#[derive(Clone, Debug)]
pub struct Grant(GrantSpec);

/// The parameters of a request for an access token, except the user's token itself.
#[derive(Clone, Debug)]
pub struct GrantSpec {
    /// Which requests are sent to which server.
    pub flow: Flow,
    /// The party on whose authority the token is requested.
    pub subject: Subject,
    /// The actor's token, for servers that need one.
    pub actor: Option<ActorToken>,
    /// The resources that the token is for (RFC 8707).
    pub resources: Vec<String>,
    /// RFC 8693 audiences. For `id_jag` they replace the resource server's issuer, if the identity
    /// provider wants an alias.
    pub audiences: Vec<String>,
    /// The requested scopes, sorted and without duplicates.
    pub scopes: Vec<String>,
    /// How assertions of our own are made.
    pub assertion: AssertionSettings,
}

/// Which requests are sent to which server.
#[derive(Clone, Debug)]
pub enum Flow {
    /// The client credentials grant (RFC 6749 §4.4).
    ClientCredentials {
        /// The server that issues the access token.
        server: Arc<AuthorizationServer>,
    },
    /// We sign an ID-JAG ourselves, and the server accepts it.
    SelfIssued {
        /// The server that issues the access token.
        server: Arc<AuthorizationServer>,
        /// How the ID-JAG is presented.
        grant: SelfIssuedGrant,
    },
    /// The identity provider signs an ID-JAG, and the resource's server accepts it.
    IdJag {
        /// The server that issues the ID-JAG.
        idp: Arc<AuthorizationServer>,
        /// The server that issues the access token.
        server: Arc<AuthorizationServer>,
    },
    /// Token exchange (RFC 8693).
    TokenExchange {
        /// The server that issues the access token.
        server: Arc<AuthorizationServer>,
    },
    /// A JWT as the grant (RFC 7523 §2.1).
    JwtBearer {
        /// The server that issues the access token.
        server: Arc<AuthorizationServer>,
    },
}

/// The facts about one flow, for everything but the requests themselves (`request.rs`).
#[derive(Clone, Copy, Debug)]
pub struct FlowFacts<'a> {
    /// The name of the flow in the configuration.
    pub name: &'static str,
    /// The server that issues the access token.
    pub server: &'a Arc<AuthorizationServer>,
    /// The identity provider that issues the ID-JAG, if the flow needs one.
    pub idp: Option<&'a Arc<AuthorizationServer>>,
    /// What the flow uses of the workload's identity, in addition to what its servers and the
    /// grant's actor need.
    pub identity: IdentityUse,
    /// The reason why the subject cannot be a user; `None` if it can.
    pub no_user: Option<&'static str>,
    /// The reason why no `actor_token` can be sent; `None` if one can.
    pub no_actor: Option<&'static str>,
    /// The form in which the access token arrives.
    pub response: TokenResponse,
}

/// The part of the workload's identity that a flow uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityUse {
    /// Nothing: the subject is the client that authenticates.
    Nothing,
    /// The JWT-SVID, as the subject of the workload's own grants.
    JwtSvidOfOwnSubject,
    /// The SPIFFE ID, as the issuer, the subject or an actor of the assertion.
    SpiffeId,
}

/// The form of a response that carries an access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenResponse {
    /// The form of RFC 6749 §5.1.
    OAuth,
    /// The form of RFC 8693 §2.2.1, with an `issued_token_type`.
    TokenExchange,
}

/// How an assertion that we signed is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfIssuedGrant {
    /// It is the `subject_token` of RFC 8693, with the type `jwt`.
    TokenExchange,
    /// It is the `assertion` of RFC 7523.
    JwtBearer,
}

/// The party on whose authority a token is requested.
#[derive(Clone, Debug)]
pub enum Subject {
    /// The workload itself.
    Own,
    /// A user, whom a token names.
    User(UserTokenRule),
}

/// The properties that a user's token must have.
#[derive(Clone, Debug)]
pub struct UserTokenRule {
    /// The server that issued it.
    pub server: Arc<AuthorizationServer>,
    /// The kind of token.
    pub kind: TokenKind,
    /// One of these must be in its `aud`. For an ID token the list may be empty, which means our
    /// client ID at `server`.
    pub audience: Vec<String>,
}

/// The token that names the actor to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActorToken {
    /// Our JWT-SVID is the `actor_token`.
    JwtSvid,
}

/// How assertions of our own are made.
#[derive(Clone, Debug)]
pub struct AssertionSettings {
    /// `iss`; `None` is the SPIFFE ID.
    pub issuer: Option<String>,
    /// The key that signs; `None` is the SVID's key, with the SVID in `x5c`.
    pub key: Option<SigningKey>,
    /// The time from `iat` to `exp`; at most [`MAX_LIFETIME`] is used.
    pub lifetime: Duration,
    /// The longest chain of actors, ourselves included.
    pub max_depth: usize,
}

impl Default for AssertionSettings {
    fn default() -> Self {
        Self { issuer: None, key: None, lifetime: DEFAULT_LIFETIME, max_depth: DEFAULT_MAX_DEPTH }
    }
}

/// Why a [`GrantSpec`] is not a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// The flow cannot act for a user.
    #[error("{0}")]
    User(&'static str),
    /// The flow has no place for an actor.
    #[error("{0}: remove `actor`")]
    Actor(&'static str),
    /// No audience is given that the user's token must be for.
    #[error("`audience` must be given for a user's token that is not an id_token")]
    NoAudience,
    /// The server's keys, which would verify the user's token, are not configured.
    #[error("a user's token of this server cannot be verified: its `endpoints` name no `jwks`")]
    NoKeys,
    /// Not even this workload fits into the chain of actors.
    #[error("`max_depth` must be at least 1: this workload is an actor itself")]
    NoDepth,
}

/// A grant's identity in caches. Two grants have the same digest if their requests go to the same
/// server, under the same name, and if the server cannot distinguish them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantDigest(pub [u8; 32]);

impl Flow {
    /// The facts about this flow.
    pub fn facts(&self) -> FlowFacts<'_> {
        match self {
            Self::ClientCredentials { server } => FlowFacts {
                name: "client_credentials",
                server,
                idp: None,
                identity: IdentityUse::Nothing,
                no_user: Some("`client_credentials` stands for the client itself and cannot act for a user"),
                no_actor: Some("`client_credentials` stands for the client itself, so nobody acts for it"),
                response: TokenResponse::OAuth,
            },
            Self::SelfIssued { server, grant } => FlowFacts {
                name: "self_issued",
                server,
                idp: None,
                identity: IdentityUse::SpiffeId,
                no_user: None,
                no_actor: Some(
                    "`self_issued` sets `act` itself: this agent, wrapped around the chain that it received",
                ),
                response: match grant {
                    SelfIssuedGrant::TokenExchange => TokenResponse::TokenExchange,
                    SelfIssuedGrant::JwtBearer => TokenResponse::OAuth,
                },
            },
            Self::IdJag { idp, server } => FlowFacts {
                name: "id_jag",
                server,
                idp: Some(idp),
                identity: IdentityUse::JwtSvidOfOwnSubject,
                no_user: None,
                no_actor: None,
                response: TokenResponse::OAuth,
            },
            Self::TokenExchange { server } => FlowFacts {
                name: "token_exchange",
                server,
                idp: None,
                identity: IdentityUse::JwtSvidOfOwnSubject,
                no_user: None,
                no_actor: None,
                response: TokenResponse::TokenExchange,
            },
            Self::JwtBearer { server } => FlowFacts {
                name: "jwt_bearer",
                server,
                idp: None,
                identity: IdentityUse::JwtSvidOfOwnSubject,
                no_user: None,
                no_actor: Some("`jwt_bearer` has no parameter for an actor (RFC 7523)"),
                response: TokenResponse::OAuth,
            },
        }
    }
}

impl Grant {
    /// Checks that the parts are consistent. Nothing is ever sent for a grant whose parts are not.
    ///
    /// # Errors
    /// [`GrantError`], the first one found.
    pub fn new(spec: GrantSpec) -> Result<Self, GrantError> {
        let facts = spec.flow.facts();
        if let (Subject::User(_), Some(why)) = (&spec.subject, facts.no_user) {
            return Err(GrantError::User(why));
        }
        if let (Some(_), Some(why)) = (spec.actor, facts.no_actor) {
            return Err(GrantError::Actor(why));
        }
        if spec.assertion.max_depth == 0 {
            return Err(GrantError::NoDepth);
        }
        if let Subject::User(rule) = &spec.subject {
            rule.check()?;
        }
        Ok(Self(spec))
    }

    /// The same grant with other scopes, which must be sorted and without duplicates.
    #[must_use]
    pub fn with_scopes(mut self, scopes: Vec<String>) -> Self {
        self.0.scopes = scopes;
        self
    }

    /// The server that issues the access token.
    pub fn server(&self) -> &Arc<AuthorizationServer> {
        self.flow.facts().server
    }

    /// Every server that takes part.
    pub fn servers(&self) -> impl Iterator<Item = &Arc<AuthorizationServer>> {
        let facts = self.flow.facts();
        std::iter::once(facts.server).chain(facts.idp).chain(self.user().map(|rule| &rule.server))
    }

    /// How the access token is obtained, in words that follow the name of its server. Where an
    /// identity provider takes part, its name follows.
    pub fn how(&self) -> &'static str {
        match &self.flow {
            Flow::ClientCredentials { .. } => "on the agent's own authority as a client",
            Flow::SelfIssued { grant: SelfIssuedGrant::TokenExchange, .. } => {
                "in exchange for an assertion that the proxy signs"
            }
            Flow::SelfIssued { grant: SelfIssuedGrant::JwtBearer, .. } => {
                "for an assertion that the proxy signs as the grant"
            }
            Flow::IdJag { .. } => "in return for an ID-JAG",
            Flow::TokenExchange { .. } => "by token exchange (RFC 8693)",
            Flow::JwtBearer { .. } if self.is_delegated() => "with the user's token as the grant (RFC 7523)",
            Flow::JwtBearer { .. } => "with the JWT-SVID as the grant (RFC 7523)",
        }
    }

    /// Whether the token can be obtained only with the workload's identity.
    pub fn needs_identity(&self) -> bool {
        let facts = self.flow.facts();
        let flow_needs_it = match facts.identity {
            IdentityUse::Nothing => false,
            IdentityUse::JwtSvidOfOwnSubject => !self.is_delegated(),
            IdentityUse::SpiffeId => true,
        };
        flow_needs_it
            || self.actor.is_some()
            || facts.server.uses_identity()
            || facts.idp.is_some_and(|idp| idp.uses_identity())
            || self.user().is_some_and(UserTokenRule::needs_identity)
    }

    /// Whether the token is requested on behalf of a user.
    pub fn is_delegated(&self) -> bool {
        self.user().is_some()
    }

    /// A digest of everything that a server decides on, and of why the server is trusted: how its
    /// certificate is verified, and whose keys verify a user's token. It covers nothing that
    /// rotates: no key, no secret, no SVID. The SPIFFE ID and the user's token are not part of a
    /// grant.
    pub fn digest(&self) -> GrantDigest {
        // The patterns here and in `Digest` name every field, so that the compiler rejects a field
        // that nobody has decided on: two grants that differ only in it would share one token.
        let GrantSpec { flow, subject, actor, resources, audiences, scopes, assertion } = &self.0;
        let mut digest = Digest(Context::new(&SHA256));
        digest.flow(flow);
        digest.subject(subject);
        digest.text(match actor {
            None => "",
            Some(ActorToken::JwtSvid) => "jwt_svid",
        });
        for list in [resources, audiences, scopes] {
            digest.list(list);
        }
        digest.assertion(assertion);
        GrantDigest(digest.0.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    fn user(&self) -> Option<&UserTokenRule> {
        match &self.subject {
            Subject::User(rule) => Some(rule),
            Subject::Own => None,
        }
    }
}

impl Deref for Grant {
    type Target = GrantSpec;

    fn deref(&self) -> &GrantSpec {
        &self.0
    }
}

impl UserTokenRule {
    fn check(&self) -> Result<(), GrantError> {
        if self.audience.is_empty() && self.kind != TokenKind::IdToken {
            return Err(GrantError::NoAudience);
        }
        match self.server.endpoints {
            Endpoints::Explicit { jwks: None, .. } => Err(GrantError::NoKeys),
            _ => Ok(()),
        }
    }

    /// An ID token's audience is our client ID at its issuer, which may be the SPIFFE ID.
    fn needs_identity(&self) -> bool {
        self.audience.is_empty() && self.server.client_id.is_none()
            || matches!(self.server.trust, ServerTrust::Spiffe(_))
    }
}

impl AssertionSettings {
    pub(super) fn bounded_lifetime(&self) -> Duration {
        self.lifetime.min(MAX_LIFETIME)
    }
}

/// Adds every part with its length, so that different lists of parts have different digests.
struct Digest(Context);

impl Digest {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_be_bytes());
    }

    fn flag(&mut self, flag: bool) {
        self.number(u64::from(flag));
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    fn optional(&mut self, text: Option<&str>) {
        self.flag(text.is_some());
        self.text(text.unwrap_or_default());
    }

    fn list(&mut self, texts: &[String]) {
        self.number(texts.len() as u64);
        texts.iter().for_each(|text| self.text(text));
    }

    fn flow(&mut self, flow: &Flow) {
        self.text(flow.facts().name);
        match flow {
            Flow::ClientCredentials { server } | Flow::TokenExchange { server } | Flow::JwtBearer { server } => {
                self.server(server);
            }
            Flow::SelfIssued { server, grant } => {
                self.server(server);
                self.text(match grant {
                    SelfIssuedGrant::TokenExchange => "token_exchange",
                    SelfIssuedGrant::JwtBearer => "jwt_bearer",
                });
            }
            Flow::IdJag { idp, server } => {
                self.server(idp);
                self.server(server);
            }
        }
    }

    fn subject(&mut self, subject: &Subject) {
        match subject {
            Subject::Own => self.text("own"),
            Subject::User(UserTokenRule { server, kind, audience }) => {
                self.text(match kind {
                    TokenKind::IdToken => "id_token",
                    TokenKind::AccessToken => "access_token",
                    TokenKind::Jwt => "jwt",
                });
                self.server(server);
                self.list(audience);
            }
        }
    }

    fn assertion(&mut self, settings: &AssertionSettings) {
        let AssertionSettings { issuer, key, lifetime, max_depth } = settings;
        self.optional(issuer.as_deref());
        // The key itself rotates.
        self.flag(key.is_some());
        self.number(lifetime.as_secs());
        self.number(*max_depth as u64);
    }

    fn server(&mut self, server: &AuthorizationServer) {
        let AuthorizationServer {
            // Exchanges are counted by the name.
            name,
            issuer,
            endpoints,
            client_id,
            client_auth,
            trust,
            quirks: Quirks { omit, extra_parameters, assertion_audience },
            // These decide whether a request is sent and how long it may take, not what the
            // server makes of it.
            plain_http: _,
            deadlines: _,
            egress_proxy: _,
        } = server;
        self.text(name);
        self.text(issuer);
        match endpoints {
            Endpoints::Discovered => self.flag(false),
            Endpoints::Explicit { token, jwks } => {
                self.flag(true);
                self.text(token.as_str());
                self.optional(jwks.as_ref().map(Url::as_str));
            }
        }
        self.0.update(&trust.digest());
        self.optional(client_id.as_deref());
        // The key or secret of the method rotates.
        self.text(client_auth.method());
        self.number(omit.len() as u64);
        omit.iter().for_each(|parameter| self.text(parameter.as_str()));
        self.number(extra_parameters.len() as u64);
        for (name, value) in extra_parameters {
            self.text(name);
            self.text(value);
        }
        self.text(&format!("{assertion_audience:?}"));
    }
}

#[cfg(test)]
mod tests;

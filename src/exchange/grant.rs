//! What to ask for: who asks which server in whose name for how much.
use crate::assertion::{DEFAULT_LIFETIME, DEFAULT_MAX_DEPTH, MAX_LIFETIME};
use crate::issuer::{AuthorizationServer, Endpoints};
use crate::jose::{SigningKey, TokenKind};
use crate::tls::ServerTrust;
use aws_lc_rs::digest::{Context, SHA256};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Everything that one access token is asked for with, but for the user's token itself.
#[derive(Clone, Debug)]
pub struct Grant {
    /// What happens at which server.
    pub flow: Flow,
    /// Whose authority it is.
    pub subject: Subject,
    /// Who acts, where the server is told by a token.
    pub actor: Option<ActorToken>,
    /// RFC 8707 identifiers of what the token is for.
    pub resources: Vec<String>,
    /// RFC 8693 audiences; for `id_jag` in place of the resource server's issuer, where the identity provider wants an alias.
    pub audiences: Vec<String>,
    /// Sorted, without duplicates.
    pub scopes: Vec<String>,
    /// How we sign what we say ourselves.
    pub assertion: AssertionSettings,
}

/// What happens at which server.
#[derive(Clone, Debug)]
pub enum Flow {
    /// RFC 6749 §4.4.
    ClientCredentials {
        /// Issues the access token.
        server: Arc<AuthorizationServer>,
    },
    /// We sign an ID-JAG ourselves, and the server takes it.
    SelfIssued {
        /// Issues the access token.
        server: Arc<AuthorizationServer>,
        /// How it takes it.
        grant: SelfIssuedGrant,
    },
    /// The identity provider signs an ID-JAG, and the resource's server takes it.
    IdJag {
        /// Issues the ID-JAG.
        idp: Arc<AuthorizationServer>,
        /// Issues the access token.
        server: Arc<AuthorizationServer>,
    },
    /// RFC 8693.
    TokenExchange {
        /// Issues the access token.
        server: Arc<AuthorizationServer>,
    },
    /// RFC 7523 §2.1.
    JwtBearer {
        /// Issues the access token.
        server: Arc<AuthorizationServer>,
    },
}

/// How a server takes an assertion that we signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfIssuedGrant {
    /// As `subject_token` of RFC 8693, of type `jwt`.
    TokenExchange,
    /// As `assertion` of RFC 7523.
    JwtBearer,
}

/// Whose authority a token carries.
#[derive(Clone, Debug)]
pub enum Subject {
    /// The workload's own.
    Own,
    /// A user's, who is named by a token.
    User(UserTokenRule),
}

/// What a user's token must be.
#[derive(Clone, Debug)]
pub struct UserTokenRule {
    /// Who issued it.
    pub server: Arc<AuthorizationServer>,
    /// What it is.
    pub kind: TokenKind,
    /// One of these must be in its `aud`; empty, for an ID token only, means our client id at `server`.
    pub audience: Vec<String>,
}

/// What a server is told of the actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActorToken {
    /// Our JWT-SVID, as `actor_token`.
    JwtSvid,
}

/// How assertions of our own are made.
#[derive(Clone, Debug)]
pub struct AssertionSettings {
    /// `iss`; `None` is the SPIFFE ID.
    pub issuer: Option<String>,
    /// What signs; `None` is the SVID's key, with the SVID in `x5c`.
    pub key: Option<SigningKey>,
    /// From `iat` to `exp`; more than [`MAX_LIFETIME`] counts as that.
    pub lifetime: Duration,
    /// The longest chain of actors, ourselves included.
    pub max_depth: usize,
}

impl Default for AssertionSettings {
    fn default() -> Self {
        Self { issuer: None, key: None, lifetime: DEFAULT_LIFETIME, max_depth: DEFAULT_MAX_DEPTH }
    }
}

/// A grant that says two things at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Nobody but the client can be meant.
    #[error("client_credentials is the client itself: it has no user's subject")]
    UserOfClientCredentials,
    /// There is no place for it.
    #[error("{0} sends no actor_token: remove `actor`")]
    Actor(&'static str),
    /// Nothing names it.
    #[error("`audience` must be given for a user's token that is not an id_token")]
    NoAudience,
    /// Nowhere to get keys.
    #[error("a user's token of this server cannot be verified: its `endpoints` name no `jwks`")]
    NoKeys,
    /// There is nothing to refuse by.
    #[error("`max_depth` must be at least 1: this workload is an actor itself")]
    NoDepth,
}

/// A grant's identity in caches: equal for grants that are asked of the same server, by one name, and that it cannot tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantDigest(pub [u8; 32]);

impl Flow {
    /// The configuration's word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ClientCredentials { .. } => "client_credentials",
            Self::SelfIssued { .. } => "self_issued",
            Self::IdJag { .. } => "id_jag",
            Self::TokenExchange { .. } => "token_exchange",
            Self::JwtBearer { .. } => "jwt_bearer",
        }
    }
}

impl Grant {
    /// The server that issues the access token.
    pub fn server(&self) -> &Arc<AuthorizationServer> {
        match &self.flow {
            Flow::ClientCredentials { server }
            | Flow::SelfIssued { server, .. }
            | Flow::IdJag { server, .. }
            | Flow::TokenExchange { server }
            | Flow::JwtBearer { server } => server,
        }
    }

    /// Every server that takes part.
    pub fn servers(&self) -> impl Iterator<Item = &Arc<AuthorizationServer>> {
        let idp = match &self.flow {
            Flow::IdJag { idp, .. } => Some(idp),
            _ => None,
        };
        let users = match &self.subject {
            Subject::User(rule) => Some(&rule.server),
            Subject::Own => None,
        };
        std::iter::once(self.server()).chain(idp).chain(users)
    }

    /// Whether it cannot be had without the workload's identity.
    pub fn needs_identity(&self) -> bool {
        let speaks_for_itself = match &self.flow {
            Flow::ClientCredentials { .. } => false,
            Flow::SelfIssued { .. } => true,
            Flow::IdJag { .. } | Flow::TokenExchange { .. } | Flow::JwtBearer { .. } => !self.is_delegated(),
        };
        let idp = if let Flow::IdJag { idp, .. } = &self.flow { Some(idp) } else { None };
        speaks_for_itself
            || self.actor.is_some()
            || self.server().uses_identity()
            || idp.is_some_and(|idp| idp.uses_identity())
            || matches!(&self.subject, Subject::User(rule) if rule.needs_identity())
    }

    /// Whether it is asked for in a user's name.
    pub fn is_delegated(&self) -> bool {
        matches!(self.subject, Subject::User(_))
    }

    /// Whether it means one thing; nothing is sent for a grant that does not.
    pub fn check(&self) -> Result<(), GrantError> {
        match &self.flow {
            Flow::ClientCredentials { .. } if self.is_delegated() => return Err(GrantError::UserOfClientCredentials),
            Flow::IdJag { .. } | Flow::TokenExchange { .. } => {}
            flow if self.actor.is_some() => return Err(GrantError::Actor(flow.name())),
            _ => {}
        }
        if self.assertion.max_depth == 0 {
            return Err(GrantError::NoDepth);
        }
        let Subject::User(rule) = &self.subject else { return Ok(()) };
        if rule.audience.is_empty() && rule.kind != TokenKind::IdToken {
            return Err(GrantError::NoAudience);
        }
        match rule.server.endpoints {
            Endpoints::Explicit { jwks: None, .. } => Err(GrantError::NoKeys),
            _ => Ok(()),
        }
    }

    /// A digest of everything that a server decides on, and of why it is believed: whom we take for it, and whose keys a user's
    /// token is verified with. Nothing that rotates is in it: no key, no secret, no SVID. The SPIFFE ID and the user's token are not
    /// part of a grant.
    pub fn digest(&self) -> GrantDigest {
        let mut digest = Digest(Context::new(&SHA256));
        digest.text(self.flow.name());
        match &self.flow {
            Flow::SelfIssued { grant, .. } => digest.flag(*grant == SelfIssuedGrant::TokenExchange),
            Flow::IdJag { idp, .. } => digest.server(idp),
            _ => {}
        }
        digest.server(self.server());
        if let Subject::User(rule) = &self.subject {
            digest.text("user");
            digest.text(match rule.kind {
                TokenKind::IdToken => "id_token",
                TokenKind::AccessToken => "access_token",
                TokenKind::Jwt => "jwt",
            });
            digest.server(&rule.server);
            digest.list(&rule.audience);
        }
        digest.flag(self.actor.is_some());
        for list in [&self.resources, &self.audiences, &self.scopes] {
            digest.list(list);
        }
        digest.optional(self.assertion.issuer.as_deref());
        digest.flag(self.assertion.key.is_some());
        digest.number(self.assertion.lifetime.as_secs());
        digest.number(self.assertion.max_depth as u64);
        GrantDigest(digest.0.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl UserTokenRule {
    /// An ID token's audience is our client id at its issuer, which may be the SPIFFE ID.
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

/// Every part with its length, so that no two lists of parts have one digest.
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

    fn server(&mut self, server: &AuthorizationServer) {
        // Exchanges are counted by the name.
        self.text(&server.name);
        self.text(&server.issuer);
        match &server.endpoints {
            Endpoints::Discovered => self.flag(false),
            Endpoints::Explicit { token, jwks } => {
                self.flag(true);
                self.text(token.as_str());
                self.optional(jwks.as_ref().map(Url::as_str));
            }
        }
        self.0.update(&server.trust.digest());
        self.optional(server.client_id.as_deref());
        self.text(server.client_auth.method());
        let quirks = &server.quirks;
        self.number(quirks.omit.len() as u64);
        quirks.omit.iter().for_each(|parameter| self.text(parameter.as_str()));
        self.number(quirks.extra_parameters.len() as u64);
        for (name, value) in &quirks.extra_parameters {
            self.text(name);
            self.text(value);
        }
        self.text(&format!("{:?}", quirks.assertion_audience));
    }
}

#[cfg(test)]
mod tests;

//! The requests of each flow: the parameters, the server that gets them, the subject and the actor.
use super::client_auth::authenticate;
use super::context::Context;
use super::error::{ExchangeError, Failure};
use super::form::Form;
use super::grant::{ActorToken, Flow, Grant, SelfIssuedGrant};
use super::metrics::Leg;
use super::principal::{Principal, User};
use super::response::{self, Expected, IssuedToken, SentRequest};
use crate::assertion::{Actor, ID_JAG_TYP, IdJag, new_jti};
use crate::clock::Timestamp;
use crate::issuer::{Issuer, IssuerError};
use crate::jose::{SigningKey, TokenKind};
use crate::secret::Secret;

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const ID_JAG: &str = "urn:ietf:params:oauth:token-type:id-jag";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// The request, or the two requests, for the token of one grant.
pub(super) struct TokenRequest<'a> {
    pub(super) context: &'a Context,
    pub(super) grant: &'a Grant,
    pub(super) principal: &'a Principal<'a>,
}

/// One request of a flow.
#[derive(Clone, Copy)]
enum RequestKind<'a> {
    /// Asks the identity provider for an ID-JAG. `audience` is the issuer identifier of the server
    /// that will accept it.
    IdJag { audience: &'a str },
    /// Asks for the access token with an ID-JAG.
    Redeem { id_jag: &'a Secret },
    /// Asks for the access token in a flow of one request.
    Access,
}

impl TokenRequest<'_> {
    /// Asks for the access token.
    pub(super) async fn access_token(&self) -> Result<IssuedToken, ExchangeError> {
        let server = self.context.issuers.get(self.grant.server());
        let Flow::IdJag { idp, .. } = &self.grant.flow else {
            return self.request(&server, RequestKind::Access).await;
        };
        let idp = self.context.issuers.get(idp);
        let id_jag = self.id_jag(&idp, &server).await?;
        match self.request(&server, RequestKind::Redeem { id_jag: &id_jag }).await {
            // The server may accept a new ID-JAG where it refused this one, for example as expired
            // or used already. If it refuses the second one, too, there is another cause
            // (draft-ietf-oauth-identity-assertion-authz-grant §4.4).
            Err(error) if error.is_code("invalid_grant") => {
                let id_jag = self.id_jag(&idp, &server).await?;
                self.request(&server, RequestKind::Redeem { id_jag: &id_jag }).await
            }
            result => result,
        }
    }

    async fn id_jag(&self, idp: &Issuer, server: &Issuer) -> Result<Secret, ExchangeError> {
        let issued = self.request(idp, RequestKind::IdJag { audience: &server.server().issuer }).await?;
        if issued.expires_at <= self.context.workload().now() {
            return Err(ExchangeError::new(&idp.server().name, Failure::Expired));
        }
        Ok(issued.token)
    }

    /// Sends one request and reads the response, counted and timed.
    async fn request(&self, issuer: &Issuer, kind: RequestKind<'_>) -> Result<IssuedToken, ExchangeError> {
        let exchange = async {
            let endpoint = issuer.token_endpoint().await?;
            let audience = issuer.assertion_audience(&endpoint);
            let mut form = match kind {
                RequestKind::IdJag { audience: resource_server } => {
                    self.id_jag_form(resource_server, &audience).await?
                }
                // Scope and resource are in the ID-JAG
                // (draft-ietf-oauth-identity-assertion-authz-grant §4.4).
                RequestKind::Redeem { id_jag } => bearer_grant(id_jag.expose()),
                RequestKind::Access => self.access_form(issuer, &audience).await?,
            };
            authenticate(&mut form, issuer, &audience).await?;
            let secrets = std::mem::take(&mut form.secrets);
            let sent = SentRequest { secrets, delegated: self.grant.is_delegated() };
            let request = form.into_request(&endpoint, &issuer.server().quirks);
            let request = request.map_err(|_| IssuerError::Configuration(format!("{endpoint} is not an HTTP URL")))?;
            let asked_at = self.context.workload().now();
            let answer = issuer.send(request).await?;
            if let Some(busy) = answer.busy(self.context.workload().now()) {
                return Err(busy.into());
            }
            match response::oauth_error(&answer, &sent) {
                Some(error) => Err(Failure::Refused(error)),
                None => response::token(&answer, self.expected(kind), asked_at, &self.grant.scopes),
            }
        };
        let leg = if matches!(kind, RequestKind::IdJag { .. }) { Leg::IdJag } else { Leg::Access };
        self.context.counted(issuer, leg, Box::pin(exchange)).await
    }

    fn expected<'s>(&self, kind: RequestKind<'s>) -> Expected<'s> {
        match kind {
            RequestKind::IdJag { audience } => Expected::IdJag { audience },
            RequestKind::Redeem { .. } | RequestKind::Access => Expected::AccessToken(self.grant.flow.facts().response),
        }
    }

    /// The request for an ID-JAG (draft-ietf-oauth-identity-assertion-authz-grant §4.3).
    async fn id_jag_form(&self, resource_server: &str, audience: &str) -> Result<Form, Failure> {
        let mut form = Form::new(TOKEN_EXCHANGE);
        form.set("requested_token_type", ID_JAG);
        match &self.grant.audiences[..] {
            [] => form.set("audience", resource_server),
            aliases => form.set_each("audience", aliases),
        }
        form.set_each("resource", &self.grant.resources);
        form.set("scope", &self.grant.scopes.join(" "));
        self.set_subject_and_actor(&mut form, audience).await?;
        Ok(form)
    }

    /// The request for an access token in a flow of one request.
    async fn access_form(&self, issuer: &Issuer, audience: &str) -> Result<Form, Failure> {
        let mut form = match &self.grant.flow {
            Flow::ClientCredentials { .. } => Form::new("client_credentials"),
            Flow::SelfIssued { grant, .. } => {
                let assertion = self.own_assertion(issuer, audience)?;
                match grant {
                    SelfIssuedGrant::TokenExchange => {
                        let mut form = Form::new(TOKEN_EXCHANGE);
                        form.set_secret("subject_token", &assertion);
                        form.set("subject_token_type", JWT);
                        form
                    }
                    SelfIssuedGrant::JwtBearer => bearer_grant(&assertion),
                }
            }
            Flow::TokenExchange { .. } => {
                let mut form = Form::new(TOKEN_EXCHANGE);
                self.set_subject_and_actor(&mut form, audience).await?;
                form
            }
            Flow::JwtBearer { .. } | Flow::IdJag { .. } => match self.principal.user() {
                None => bearer_grant(self.context.workload().jwt_svid(audience).await?.expose()),
                Some(user) => bearer_grant(user.token.expose()),
            },
        };
        form.set_each("audience", &self.grant.audiences);
        form.set_each("resource", &self.grant.resources);
        form.set("scope", &self.grant.scopes.join(" "));
        Ok(form)
    }

    /// Sets the subject's and the actor's token (RFC 8693 §2.1).
    async fn set_subject_and_actor(&self, form: &mut Form, audience: &str) -> Result<(), Failure> {
        let workload = self.context.workload();
        match self.principal.user() {
            Some(user) => {
                form.set_secret("subject_token", user.token.expose());
                form.set("subject_token_type", token_type(user.kind));
            }
            None => {
                form.set_secret("subject_token", workload.jwt_svid(audience).await?.expose());
                form.set("subject_token_type", JWT);
            }
        }
        if self.grant.actor == Some(ActorToken::JwtSvid) {
            form.set_secret("actor_token", workload.jwt_svid(audience).await?.expose());
            form.set("actor_token_type", JWT);
        }
        Ok(())
    }

    /// Signs an ID-JAG ourselves. It expires no later than the signing certificate or the user's
    /// token.
    fn own_assertion(&self, issuer: &Issuer, audience: &str) -> Result<String, Failure> {
        let workload = self.context.workload();
        let own = workload.spiffe_id()?;
        let settings = &self.grant.assertion;
        let now = workload.now();
        let signer = match &settings.key {
            Some(key) => Signer { key: key.clone(), expires_at: Timestamp::FAR_FUTURE },
            None => self.svid_signer()?,
        };
        let (sub, act, subject_expires_at) = match self.principal.user() {
            None => (own.clone(), None, Timestamp::FAR_FUTURE),
            Some(user) => {
                let act = actor_chain(&own, user, settings.max_depth)?;
                (user.verified.subject.clone(), Some(act), user.verified.expires_at)
            }
        };
        let claims = IdJag {
            iss: settings.issuer.clone().unwrap_or(own),
            sub,
            aud: audience.to_owned(),
            client_id: Some(issuer.client_id()?),
            jti: new_jti(),
            iat: now,
            exp: now.plus(settings.bounded_lifetime()).min(signer.expires_at).min(subject_expires_at),
            resource: self.grant.resources.clone(),
            scope: Some(self.grant.scopes.join(" ")).filter(|scope| !scope.is_empty()),
            act,
        };
        let signed = signer.key.sign(ID_JAG_TYP, &claims);
        Ok(signed.map_err(|error| IssuerError::Configuration(error.to_string()))?)
    }

    /// The SVID's key, with the SVID's certificate chain.
    fn svid_signer(&self) -> Result<Signer, IssuerError> {
        let snapshot = self.context.workload().snapshot()?;
        let chain = snapshot.svid.chain.iter().map(|certificate| certificate.to_vec()).collect();
        let key = SigningKey::from_pkcs8_der(snapshot.svid.key_pkcs8(), None, Some(chain));
        let key = key.map_err(|error| IssuerError::Configuration(format!("the SVID's key {error}")))?;
        Ok(Signer { key, expires_at: snapshot.svid.not_after })
    }
}

/// A key that signs assertions, and when the certificate that vouches for it expires.
struct Signer {
    key: SigningKey,
    expires_at: Timestamp,
}

/// The chain of actors: this workload, around those that acted for the user before.
fn actor_chain(own: &str, user: &User<'_>, max_depth: usize) -> Result<Actor, Failure> {
    let before = user.verified.claims.get("act").map(|act| Actor::parse(act, max_depth)).transpose();
    before.and_then(|before| Actor::wrap(own, before, max_depth)).map_err(Failure::Actors)
}

/// A request with an assertion as the grant (RFC 7523 §2.1).
fn bearer_grant(assertion: &str) -> Form {
    let mut form = Form::new(JWT_BEARER);
    form.set_secret("assertion", assertion);
    form
}

/// The `subject_token_type` of a user's token (RFC 8693 §3).
fn token_type(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::IdToken => "urn:ietf:params:oauth:token-type:id_token",
        TokenKind::AccessToken => "urn:ietf:params:oauth:token-type:access_token",
        TokenKind::Jwt => JWT,
    }
}

#[cfg(test)]
mod tests;

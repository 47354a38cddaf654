//! The requests of each flow: what is sent where (the table "Who is the subject, who the actor" of the configuration's page).
use super::client_auth::{authenticate, jwt_svid};
use super::error::{ExchangeError, Failure};
use super::exchanger::{Exchanger, Principal};
use super::form::Form;
use super::grant::{ActorToken, Flow, Grant, SelfIssuedGrant, Subject};
use super::issuer::runtime::{Peer, spiffe_id};
use super::metrics::Leg;
use super::response::{self, Expected, Issued};
use crate::assertion::{Actor, ID_JAG_TYP, IdJag, new_jti};
use crate::clock::Timestamp;
use crate::jose::{SigningKey, UserTokenKind, Verified};
use crate::secret::Secret;

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const ID_JAG: &str = "urn:ietf:params:oauth:token-type:id-jag";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// One grant being asked for.
pub(super) struct Asking<'a> {
    pub(super) exchanger: &'a Exchanger,
    pub(super) grant: &'a Grant,
    pub(super) principal: &'a Principal<'a>,
}

impl Asking<'_> {
    /// The access token, from `server`.
    pub(super) async fn access_token(&self, server: &Peer) -> Result<Issued, ExchangeError> {
        let expected = match &self.grant.flow {
            Flow::TokenExchange { .. } | Flow::SelfIssued { grant: SelfIssuedGrant::TokenExchange, .. } => {
                Expected::Exchanged
            }
            _ => Expected::AccessToken,
        };
        let Flow::IdJag { idp, .. } = &self.grant.flow else {
            return self.ask(server, Leg::Access, expected, None).await;
        };
        let idp = self.exchanger.peer(idp);
        let id_jag = self.id_jag(&idp, server).await?;
        match self.ask(server, Leg::Access, expected, Some(&id_jag)).await {
            // A new one may be taken where this one was not; after that it is no accident (draft §4.4, A4).
            Err(error) if error.is_code("invalid_grant") => {
                let id_jag = self.id_jag(&idp, server).await?;
                self.ask(server, Leg::Access, expected, Some(&id_jag)).await
            }
            result => result,
        }
    }

    async fn id_jag(&self, idp: &Peer, server: &Peer) -> Result<Secret, ExchangeError> {
        let expected = Expected::IdJag { audience: &server.server.issuer };
        let issued = self.ask(idp, Leg::IdJag, expected, None).await?;
        if issued.expires_at <= self.exchanger.around().clock.now() {
            return Err(idp.error(Failure::Expired));
        }
        Ok(issued.token)
    }

    /// One request and its answer, counted.
    async fn ask(
        &self,
        peer: &Peer,
        leg: Leg,
        expected: Expected<'_>,
        id_jag: Option<&Secret>,
    ) -> Result<Issued, ExchangeError> {
        let around = self.exchanger.around();
        let request = async {
            let endpoint = peer.token_endpoint(around).await?;
            let audience = peer.audience(&endpoint);
            let mut form = match (leg, id_jag) {
                (Leg::IdJag, _) => self.id_jag_form(expected, &audience).await?,
                // Scope and resource stand in the ID-JAG (draft §4.4).
                (Leg::Access, Some(id_jag)) => bearer_grant(id_jag.expose()),
                (Leg::Access, None) => self.access_form(peer, &audience).await?,
            };
            authenticate(&mut form, peer, &audience, around).await?;
            let secrets = std::mem::take(&mut form.secrets);
            let request = form.into_request(&endpoint, &peer.server.quirks);
            let request = request.map_err(|_| Failure::Configuration(format!("{endpoint} is no URL of HTTP")))?;
            let asked_at = around.clock.now();
            let answer = peer.send(request, around).await?;
            if let Some(failure) = response::busy(&answer, around.clock.now()) {
                return Err(failure);
            }
            match response::refusal(&answer, &secrets, self.grant.is_delegated()) {
                Some(failure) => Err(failure),
                None => response::token(&answer, expected, asked_at),
            }
        };
        self.exchanger.counted(peer, leg, Box::pin(request)).await
    }

    /// Leg 1 of `id_jag` (draft §4.3).
    async fn id_jag_form(&self, expected: Expected<'_>, audience: &str) -> Result<Form, Failure> {
        let mut form = Form::new(TOKEN_EXCHANGE);
        form.set("requested_token_type", ID_JAG);
        match (&self.grant.audiences[..], expected) {
            ([], Expected::IdJag { audience }) => form.set("audience", audience),
            (aliases, _) => form.set_each("audience", aliases),
        }
        form.set_each("resource", &self.grant.resources);
        form.set("scope", &self.grant.scopes.join(" "));
        self.subject_and_actor(&mut form, audience).await?;
        Ok(form)
    }

    /// The request for an access token in every flow of one leg.
    async fn access_form(&self, peer: &Peer, audience: &str) -> Result<Form, Failure> {
        let mut form = match &self.grant.flow {
            Flow::ClientCredentials { .. } => Form::new("client_credentials"),
            Flow::SelfIssued { grant, .. } => {
                let assertion = self.own_assertion(peer, audience)?;
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
                self.subject_and_actor(&mut form, audience).await?;
                form
            }
            Flow::JwtBearer { .. } | Flow::IdJag { .. } => match self.principal {
                Principal::Own => bearer_grant(jwt_svid(audience, self.exchanger.around()).await?.expose()),
                Principal::User { token, .. } => bearer_grant(token.expose()),
            },
        };
        form.set_each("audience", &self.grant.audiences);
        form.set_each("resource", &self.grant.resources);
        form.set("scope", &self.grant.scopes.join(" "));
        Ok(form)
    }

    /// RFC 8693 §2.1: who it is for, and who acts.
    async fn subject_and_actor(&self, form: &mut Form, audience: &str) -> Result<(), Failure> {
        let around = self.exchanger.around();
        match (self.principal, &self.grant.subject) {
            (Principal::User { token, .. }, Subject::User(rule)) => {
                form.set_secret("subject_token", token.expose());
                form.set("subject_token_type", token_type(rule.kind));
            }
            _ => {
                form.set_secret("subject_token", jwt_svid(audience, around).await?.expose());
                form.set("subject_token_type", JWT);
            }
        }
        if self.grant.actor == Some(ActorToken::JwtSvid) {
            form.set_secret("actor_token", jwt_svid(audience, around).await?.expose());
            form.set("actor_token_type", JWT);
        }
        Ok(())
    }

    /// The ID-JAG that we sign ourselves.
    fn own_assertion(&self, peer: &Peer, audience: &str) -> Result<String, Failure> {
        let around = self.exchanger.around();
        let own = spiffe_id(around)?;
        let settings = &self.grant.assertion;
        let now = around.clock.now();
        let (key, key_ends) = match &settings.key {
            Some(key) => (key.clone(), Timestamp::FAR_FUTURE),
            None => self.svid_key()?,
        };
        let (sub, act, subject_ends) = match self.principal {
            Principal::Own => (own.clone(), None, Timestamp::FAR_FUTURE),
            Principal::User { verified, .. } => {
                (verified.subject.clone(), Some(acting(&own, verified, settings.max_depth)?), verified.expires_at)
            }
        };
        let claims = IdJag {
            iss: settings.issuer.clone().unwrap_or(own),
            sub,
            aud: audience.to_owned(),
            client_id: Some(peer.client_id(around)?),
            jti: new_jti(),
            iat: now,
            exp: now.plus(settings.bounded_lifetime()).min(key_ends).min(subject_ends),
            resource: self.grant.resources.clone(),
            scope: Some(self.grant.scopes.join(" ")).filter(|scope| !scope.is_empty()),
            act,
        };
        key.sign(ID_JAG_TYP, &claims).map_err(|error| Failure::Configuration(error.to_string()))
    }

    /// The SVID's key, with the SVID beside it, and when the SVID ends.
    fn svid_key(&self) -> Result<(SigningKey, Timestamp), Failure> {
        let identity = self
            .exchanger
            .around()
            .identity
            .ok_or_else(|| Failure::Identity("no source of one is configured".to_owned()))?;
        let snapshot = identity.current().map_err(|missing| Failure::Identity(missing.to_string()))?;
        let chain = snapshot.svid.chain.iter().map(|certificate| certificate.to_vec()).collect();
        let key = SigningKey::from_pkcs8_der(snapshot.svid.key_pkcs8(), None, Some(chain));
        let key = key.map_err(|error| Failure::Configuration(format!("the SVID's key {error}")))?;
        Ok((key, snapshot.svid.not_after))
    }
}

/// This workload, around whoever acted for the user before.
fn acting(own: &str, user: &Verified, max_depth: usize) -> Result<Actor, Failure> {
    let before = user.claims.get("act").map(|act| Actor::parse(act, max_depth)).transpose();
    before.and_then(|before| Actor::wrap(own, before, max_depth)).map_err(Failure::Actors)
}

/// RFC 7523 §2.1.
fn bearer_grant(assertion: &str) -> Form {
    let mut form = Form::new(JWT_BEARER);
    form.set_secret("assertion", assertion);
    form
}

/// RFC 8693 §3.
fn token_type(kind: UserTokenKind) -> &'static str {
    match kind {
        UserTokenKind::IdToken => "urn:ietf:params:oauth:token-type:id_token",
        UserTokenKind::AccessToken => "urn:ietf:params:oauth:token-type:access_token",
        UserTokenKind::Jwt => JWT,
    }
}

#[cfg(test)]
mod tests;

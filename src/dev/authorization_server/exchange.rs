//! Token exchange (RFC 8693).
use super::IssuerState;
use super::issue::{Principal, RequestedAccess};
use super::presented::{Presented, Signer};
use super::record::Form;
use super::refusal::{Outcome, Refusal};
use super::registry::{Authentication, Client, Registry};
use super::request::{ID_JAG, ID_JAG_TYP};
use crate::clock::Timestamp;
use crate::dev::jwt;
use serde_json::{Value, json};

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

impl IssuerState {
    pub(super) async fn token_exchange(
        &self,
        registry: &Registry,
        client: Option<Client>,
        form: &Form,
        requested: &RequestedAccess,
    ) -> Outcome<Value> {
        let missing = |name: &str| Refusal::invalid_request(format!("{name} is missing"));
        let subject_token = form.value("subject_token").ok_or_else(|| missing("subject_token"))?;
        let kind = form.value("subject_token_type").ok_or_else(|| missing("subject_token_type"))?;
        let presented = self.verify(registry, subject_token).await;
        let presented = presented.map_err(|error| Refusal::invalid_grant(format!("subject_token: {error:#}")))?;
        let client = responsible_client(registry, client, &presented)?;
        let mut principal = self.subject(registry, &client, kind, &presented)?;
        match (form.value("actor_token"), form.value("actor_token_type")) {
            (None, None) => {}
            (Some(token), Some(_)) => {
                let actor = self.actor(registry, &client, token).await?;
                principal.act = Some(match principal.act.take() {
                    Some(inner) => json!({ "sub": actor, "act": inner }),
                    None => json!({ "sub": actor }),
                });
            }
            _ => return Err(Refusal::invalid_request("actor_token and actor_token_type go together (RFC 8693 §2.1)")),
        }
        principal.check_delegation(registry, &client)?;
        match form.value("requested_token_type") {
            Some(ID_JAG) => self.id_jag(registry, &client, requested, principal),
            None | Some(ACCESS_TOKEN) => {
                let mut answer = self.access_token(registry, &client, requested, principal)?;
                answer["issued_token_type"] = json!(ACCESS_TOKEN);
                Ok(answer)
            }
            Some(other) => Err(Refusal::invalid_request(format!("tokens of type {other} are not issued here"))),
        }
    }

    fn subject(&self, registry: &Registry, client: &Client, kind: &str, token: &Presented) -> Outcome<Principal> {
        match (&token.signer, kind) {
            (Signer::Agent(_), JWT) => self.self_issued(registry, client, token),
            (Signer::Workload(id), JWT) => self.workload(client, id, token),
            (Signer::Issuer { user_tokens: true, .. }, ID_TOKEN) => {
                // The ID token must have been issued to this client (ID-JAG §4.3.3).
                user(token, &["jwt", ""], &[&client.id])
            }
            (Signer::Issuer { user_tokens: true, .. }, ACCESS_TOKEN | JWT) => {
                let endpoint = self.token_endpoint();
                user(token, &["at+jwt", "jwt", ""], &[&self.issuer, &endpoint, &client.id])
            }
            _ => Err(Refusal::invalid_request(format!("this token is not accepted as {kind}"))),
        }
    }

    /// The principal of an assertion that the agent signed itself: `sub` is the agent, or a user
    /// for whom it acts.
    pub(super) fn self_issued(&self, registry: &Registry, client: &Client, token: &Presented) -> Outcome<Principal> {
        self.check_id_jag(registry, client, token, token.claim("client_id").is_some())?;
        let subject = token.claim("sub").ok_or_else(|| Refusal::invalid_grant("sub is missing"))?;
        let act = token.token.claims.get("act").cloned();
        let actor = act.as_ref().and_then(|act| act["sub"].as_str());
        match actor {
            None if client.is_named(subject) => {}
            None => return Err(Refusal::invalid_grant(format!("{} speaks for {subject} without act", client.id))),
            Some(actor) if client.is_named(actor) => {}
            Some(actor) => {
                return Err(Refusal::invalid_grant(format!(
                    "signed by {}, but the current actor is {actor}",
                    client.id
                )));
            }
        }
        Ok(Principal { subject: subject.to_owned(), act })
    }

    /// Checks the rules for every ID-JAG (ID-JAG §4.4.1): `typ`, the sole audience, the client if
    /// it names one, `cnf`, and single use.
    pub(super) fn check_id_jag(
        &self,
        registry: &Registry,
        client: &Client,
        presented: &Presented,
        names_client: bool,
    ) -> Outcome<()> {
        let claims = &presented.token.claims;
        if !jwt::has_typ(&presented.token, ID_JAG_TYP) {
            let typ = &presented.token.header["typ"];
            return Err(Refusal::invalid_grant(format!("typ is {typ}, not {ID_JAG_TYP}")));
        }
        let audiences = jwt::audiences(claims);
        if audiences != [self.issuer.as_str()] {
            return Err(Refusal::invalid_grant(format!("aud is {audiences:?}, not this issuer alone")));
        }
        if names_client && presented.claim("client_id") != Some(client.id.as_str()) {
            let named = &claims["client_id"];
            return Err(Refusal::invalid_grant(format!("issued to the client {named}, not to {}", client.id)));
        }
        if claims.get("cnf").is_some() {
            return Err(Refusal::invalid_grant("bound to a key whose possession was not proved"));
        }
        let jti = presented.claim("jti").ok_or_else(|| Refusal::invalid_grant("jti is missing"))?;
        let expiry = Timestamp::from_unix_seconds(claims["exp"].as_u64().unwrap_or(0));
        let first = self.first_use(&format!("assertion {} {jti}", claims["iss"]), expiry);
        if registry.policy.single_use_assertions && !first {
            return Err(Refusal::invalid_grant(format!("the assertion {jti} was used before")));
        }
        Ok(())
    }

    /// The principal of a JWT-SVID: the workload itself.
    pub(super) fn workload(&self, client: &Client, id: &str, token: &Presented) -> Outcome<Principal> {
        self.check_workload_audience(token)?;
        if !client.is_named(id) {
            return Err(Refusal::invalid_grant(format!("{id} is not the client {}", client.id)));
        }
        Ok(Principal { subject: id.to_owned(), act: None })
    }

    async fn actor(&self, registry: &Registry, client: &Client, jwt: &str) -> Outcome<String> {
        let presented = self.verify(registry, jwt).await;
        let presented = presented.map_err(|error| Refusal::invalid_grant(format!("actor_token: {error:#}")))?;
        let Signer::Workload(id) = &presented.signer else {
            return Err(Refusal::invalid_grant("the actor_token must be a JWT-SVID"));
        };
        self.check_workload_audience(&presented)?;
        if client.is_named(id) {
            Ok(id.clone())
        } else {
            Err(Refusal::invalid_grant(format!("the actor {id} is another client")))
        }
    }

    /// Checks that the issuer or the token endpoint is the only audience, as
    /// draft-ietf-oauth-rfc7523bis requires for grants.
    fn check_workload_audience(&self, token: &Presented) -> Outcome<()> {
        match jwt::audiences(&token.token.claims)[..] {
            [only] if only == self.issuer || only == self.token_endpoint() => Ok(()),
            ref other => {
                Err(Refusal::invalid_grant(format!("aud of the JWT-SVID is {other:?}, not this server alone")))
            }
        }
    }
}

/// The principal of a user's token from a trusted issuer. `typ` and `aud` must have one of these
/// values. Its chain of actors is kept.
pub(super) fn user(presented: &Presented, types: &[&str], audiences: &[&str]) -> Outcome<Principal> {
    let typ = presented.token.header["typ"].as_str().unwrap_or("");
    if !types.iter().any(|known| jwt::has_typ(&presented.token, known)) {
        return Err(Refusal::invalid_grant(format!("typ {typ:?} is not accepted for this kind of token")));
    }
    let claims = &presented.token.claims;
    if !jwt::audiences(claims).iter().any(|audience| audiences.contains(audience)) {
        let aud = &claims["aud"];
        return Err(Refusal::invalid_grant(format!("aud of the user's token is {aud}, expected one of {audiences:?}")));
    }
    let subject = presented.claim("sub").ok_or_else(|| Refusal::invalid_grant("sub is missing"))?;
    Ok(Principal { subject: subject.to_owned(), act: claims.get("act").cloned() })
}

/// The authenticated client, or the agent that signed if it is registered without client
/// authentication.
pub(super) fn responsible_client(registry: &Registry, client: Option<Client>, token: &Presented) -> Outcome<Client> {
    let signer = match &token.signer {
        Signer::Agent(agent) => Some(agent.as_ref()),
        Signer::Workload(id) => registry.agent(id),
        Signer::Issuer { .. } => None,
    };
    match (client, signer) {
        (Some(client), Some(agent)) if client.id != agent.id => {
            Err(Refusal::invalid_grant(format!("{} presents an assertion of {}", client.id, agent.id)))
        }
        (Some(client), _) => Ok(client),
        (None, Some(agent)) if matches!(agent.authentication, Authentication::None) => Ok(agent.clone()),
        (None, Some(agent)) => Err(Refusal::invalid_client(format!("{} must authenticate", agent.id))),
        (None, None) => match &token.signer {
            Signer::Workload(id) => {
                Err(Refusal::new("unauthorized_client", format!("the agent {id} is not registered")))
            }
            _ => Err(Refusal::invalid_client("no client authentication")),
        },
    }
}

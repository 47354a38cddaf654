//! The JWT bearer grant (RFC 7523 §2.1).
use super::IssuerState;
use super::exchange::{responsible_client, user};
use super::issue::{Principal, RequestedAccess, words};
use super::presented::{Presented, Signer};
use super::record::Form;
use super::refusal::{Outcome, Refusal};
use super::registry::{Client, Registry};
use super::request::ID_JAG_TYP;
use crate::dev::jwt;
use serde_json::{Value, json};

impl IssuerState {
    pub(super) async fn jwt_bearer(
        &self,
        registry: &Registry,
        client: Option<Client>,
        form: &Form,
        requested: &RequestedAccess,
    ) -> Outcome<Value> {
        let assertion = form.value("assertion").ok_or_else(|| Refusal::invalid_request("assertion is missing"))?;
        let presented = self.verify(registry, assertion).await;
        // An invalid assertion makes the grant invalid (ID-JAG §4.4.1, RFC 7521 §5.2).
        let presented = presented.map_err(|error| Refusal::invalid_grant(format!("assertion: {error:#}")))?;
        let client = responsible_client(registry, client, &presented)?;
        let is_id_jag = jwt::has_typ(&presented.token, ID_JAG_TYP);
        let principal = match &presented.signer {
            Signer::Issuer { id_jags: true, .. } if is_id_jag => {
                return self.redeem(registry, &client, requested, &presented);
            }
            Signer::Issuer { user_tokens: true, .. } if !is_id_jag => {
                let endpoint = self.token_endpoint();
                user(&presented, &["jwt", "at+jwt", ""], &[&self.issuer, &endpoint, &client.id])?
            }
            Signer::Issuer { .. } => {
                return Err(Refusal::invalid_grant("tokens of this issuer are not accepted as a grant"));
            }
            Signer::Agent(_) => self.self_issued(registry, &client, &presented)?,
            Signer::Workload(id) => self.workload(&client, id, &presented)?,
        };
        principal.check_delegation(registry, &client)?;
        self.access_token(registry, &client, requested, principal)
    }

    /// Redeems an identity provider's ID-JAG, leg 2 (ID-JAG §4.4.1). Who may act for whom is the
    /// identity provider's decision.
    fn redeem(
        &self,
        registry: &Registry,
        client: &Client,
        requested: &RequestedAccess,
        id_jag: &Presented,
    ) -> Outcome<Value> {
        self.check_id_jag(registry, client, id_jag, true)?;
        let claims = &id_jag.token.claims;
        let subject = id_jag.claim("sub").ok_or_else(|| Refusal::invalid_grant("sub is missing"))?.to_owned();
        let principal = Principal { subject, act: claims.get("act").cloned() };
        principal.check_chain(&registry.policy)?;
        // The request may narrow what the ID-JAG grants, but not widen it (ID-JAG §4.4.1).
        let allowed = id_jag.claim("scope").map(words);
        let scopes = match (&requested.scopes, allowed) {
            (Some(requested), Some(allowed)) => {
                if let Some(scope) = requested.iter().find(|scope| !allowed.contains(scope)) {
                    return Err(Refusal::new("invalid_scope", format!("the ID-JAG does not have the scope {scope}")));
                }
                Some(requested.clone())
            }
            (Some(requested), None) => Some(requested.clone()),
            (None, allowed) => allowed,
        };
        let resources = match &claims["resource"] {
            Value::String(one) => vec![one.clone()],
            Value::Array(many) => many.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
            _ => requested.resources.clone(),
        };
        let granted = RequestedAccess { scopes, resources: resources.clone(), audiences: Vec::new() };
        let mut answer = self.access_token(registry, client, &granted, principal)?;
        if !resources.is_empty() {
            answer["resource"] = json!(resources);
        }
        Ok(answer)
    }
}

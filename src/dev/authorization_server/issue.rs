//! Decides whether a request is allowed, and issues the tokens.
use super::IssuerState;
use super::record::Form;
use super::refusal::{Outcome, Refusal};
use super::registry::{Client, Policy, Registry, matches};
use super::request::{ID_JAG, ID_JAG_TYP};
use serde_json::{Value, json};

/// The access that a request asks for.
#[derive(Clone, Debug)]
pub(super) struct RequestedAccess {
    /// The scopes; `None` without a `scope` parameter.
    pub(super) scopes: Option<Vec<String>>,
    /// The resources (RFC 8707).
    pub(super) resources: Vec<String>,
    /// The audiences (RFC 8693).
    pub(super) audiences: Vec<String>,
}

/// The subject of a token, and its actors as `act` nests them: the current one is outermost (RFC
/// 8693 §4.1).
#[derive(Clone, Debug)]
pub(super) struct Principal {
    pub(super) subject: String,
    pub(super) act: Option<Value>,
}

impl RequestedAccess {
    pub(super) fn new(form: &Form) -> Outcome<Self> {
        let all = |name: &str| form.values(name).into_iter().map(str::to_owned).collect::<Vec<_>>();
        let resources = all("resource");
        // RFC 8707 §2: an absolute URI without a fragment.
        if let Some(bad) = resources.iter().find(|uri| url::Url::parse(uri).is_err() || uri.contains('#')) {
            return Err(Refusal::new(
                "invalid_target",
                format!("resource {bad:?} is not an absolute URI without a fragment"),
            ));
        }
        Ok(Self { scopes: form.value("scope").map(words), resources, audiences: all("audience") })
    }
}

impl Principal {
    /// The actors, the current (outermost) one first.
    fn actors(&self) -> Outcome<Vec<&str>> {
        let mut actors = Vec::new();
        let mut next = self.act.as_ref();
        while let Some(act) = next {
            let actor = act["sub"].as_str().ok_or_else(|| Refusal::invalid_grant("an act without sub"))?;
            if actors.contains(&actor) {
                return Err(Refusal::new("access_denied", format!("{actor} is in the act chain twice")));
            }
            actors.push(actor);
            next = act.get("act");
        }
        Ok(actors)
    }

    /// Checks that every actor, or the client if there is none, may act for the subject.
    pub(super) fn check_delegation(&self, registry: &Registry, client: &Client) -> Outcome<()> {
        self.check_chain(&registry.policy)?;
        let actors = self.actors()?;
        let may_act = |actor: &str| {
            registry
                .policy
                .delegations
                .iter()
                .any(|rule| matches(&rule.actor, actor) && matches(&rule.subject, &self.subject))
        };
        let denied = |actor: &str| Refusal::new("access_denied", format!("{actor} may not act for {}", self.subject));
        if let Some(actor) = actors.iter().find(|actor| !may_act(actor)) {
            return Err(denied(actor));
        }
        let as_itself = client.is_named(&self.subject);
        let is_allowed = client.spiffe_id.as_deref().is_some_and(may_act) || may_act(&client.id);
        if actors.is_empty() && !as_itself && !is_allowed { Err(denied(&client.id)) } else { Ok(()) }
    }

    /// Checks that the chain is not too long and has no loop.
    pub(super) fn check_chain(&self, policy: &Policy) -> Outcome<()> {
        let actors = self.actors()?.len();
        if actors <= policy.max_actors {
            return Ok(());
        }
        let reason = format!("the act chain has {actors} actors, at most {} are allowed", policy.max_actors);
        Err(Refusal::new("access_denied", reason))
    }
}

impl IssuerState {
    /// Issues an access token (RFC 9068) and returns the answer (RFC 6749 §5.1).
    pub(super) fn access_token(
        &self,
        registry: &Registry,
        client: &Client,
        requested: &RequestedAccess,
        principal: Principal,
    ) -> Outcome<Value> {
        let scope = granted_scopes(client, &registry.policy, requested)?.join(" ");
        let targets = targets(client, requested)?;
        let audience = match targets.as_slice() {
            [] => json!(registry.policy.default_audience),
            [one] => json!(one),
            many => json!(many),
        };
        let mut claims = json!({
            "iss": self.issuer, "sub": principal.subject, "aud": audience, "client_id": client.id, "scope": scope,
        });
        if let Some(act) = principal.act {
            claims["act"] = act;
        }
        let ttl = registry.policy.access_token_ttl;
        let token = self.keys.mint("at+jwt", ttl, claims).map_err(|error| server_error(&error))?;
        Ok(json!({ "access_token": token, "token_type": "Bearer", "expires_in": ttl.as_secs(), "scope": scope }))
    }

    /// Issues an ID-JAG (ID-JAG §3.1) and returns the answer (ID-JAG §4.3.4).
    pub(super) fn id_jag(
        &self,
        registry: &Registry,
        client: &Client,
        requested: &RequestedAccess,
        principal: Principal,
    ) -> Outcome<Value> {
        let [audience] = requested.audiences.as_slice() else {
            return Err(Refusal::invalid_request("an ID-JAG has exactly one audience"));
        };
        let served = registry.policy.id_jag_audiences.iter().find(|served| served.issuer == *audience);
        let Some(served) = served.filter(|served| served.issuer != self.issuer) else {
            return Err(Refusal::new("invalid_target", format!("ID-JAGs for {audience} are not issued here")));
        };
        let client_id_at_audience = served.client_ids.iter().find(|(here, _)| *here == client.id).map(|(_, id)| id);
        let scope = granted_scopes(client, &registry.policy, requested)?.join(" ");
        let mut claims = json!({
            "iss": self.issuer, "sub": principal.subject, "aud": audience, "scope": scope,
            "client_id": client_id_at_audience.unwrap_or(&client.id),
        });
        if let Some(act) = principal.act {
            claims["act"] = act;
        }
        match requested.resources.as_slice() {
            [] => {}
            [one] => claims["resource"] = json!(one),
            many => claims["resource"] = json!(many),
        }
        let ttl = registry.policy.id_jag_ttl;
        let token = self.keys.mint(ID_JAG_TYP, ttl, claims).map_err(|error| server_error(&error))?;
        Ok(json!({
            "access_token": token, "issued_token_type": ID_JAG, "token_type": "N_A",
            "expires_in": ttl.as_secs(), "scope": scope,
        }))
    }
}

/// Without a `scope` parameter, grants every scope of the client's list that is not a pattern,
/// because a pattern cannot be enumerated. Otherwise grants the requested scopes; a scope that the
/// client may not have is an error, or is left out if `narrow_scopes` is set.
fn granted_scopes(client: &Client, policy: &Policy, requested: &RequestedAccess) -> Outcome<Vec<String>> {
    let Some(scopes) = &requested.scopes else {
        return Ok(client.scopes.iter().filter(|scope| !scope.ends_with('*')).cloned().collect());
    };
    let may_have = |scope: &String| client.scopes.iter().any(|pattern| matches(pattern, scope));
    match scopes.iter().find(|scope| !may_have(scope)) {
        Some(scope) if !policy.narrow_scopes => {
            Err(Refusal::new("invalid_scope", format!("{} may not have the scope {scope}", client.id)))
        }
        _ => Ok(scopes.iter().filter(|scope| may_have(scope)).cloned().collect()),
    }
}

fn targets(client: &Client, requested: &RequestedAccess) -> Outcome<Vec<String>> {
    let targets: Vec<String> = requested.resources.iter().chain(&requested.audiences).cloned().collect();
    match targets.iter().find(|target| !client.targets.is_empty() && !client.targets.contains(target)) {
        Some(target) => Err(Refusal::new("invalid_target", format!("{} may not request {target}", client.id))),
        None => Ok(targets),
    }
}

/// Splits a space-separated list.
pub(super) fn words(text: &str) -> Vec<String> {
    text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

pub(super) fn server_error(error: &anyhow::Error) -> Refusal {
    Refusal::new("server_error", format!("{error:#}"))
}

//! What was asked, who it is for, whether they may, and the tokens that come of it.
use super::State;
use super::record::Form;
use super::refusal::{Outcome, Refusal};
use super::registry::{Client, Policy, Registry, matches};
use super::request::{ID_JAG, ID_JAG_TYP};
use serde_json::{Value, json};

/// The access that a request names.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// `None`: no `scope` parameter.
    pub(super) scopes: Option<Vec<String>>,
    /// RFC 8707.
    pub(super) resources: Vec<String>,
    /// RFC 8693.
    pub(super) audiences: Vec<String>,
}

/// In whose name: `sub`, and the chain of `act`, outermost first, as in a token.
#[derive(Clone, Debug)]
pub(super) struct Principal {
    pub(super) subject: String,
    pub(super) act: Option<Value>,
}

impl Asked {
    pub(super) fn new(form: &Form) -> Outcome<Self> {
        let all = |name: &str| form.values(name).into_iter().map(str::to_owned).collect::<Vec<_>>();
        let resources = all("resource");
        // RFC 8707 §2: absolute, without a fragment.
        if let Some(bad) = resources.iter().find(|uri| url::Url::parse(uri).is_err() || uri.contains('#')) {
            return Err(Refusal::new(
                "invalid_target",
                format!("resource {bad:?} is no absolute URI without fragment"),
            ));
        }
        Ok(Self { scopes: form.value("scope").map(words), resources, audiences: all("audience") })
    }
}

impl Principal {
    /// The actors, outermost (the current one) first.
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

    /// Every actor, or without one the client, must be allowed to act for the subject.
    pub(super) fn check_delegation(&self, registry: &Registry, client: &Client) -> Outcome<()> {
        self.check_chain(&registry.policy)?;
        let actors = self.actors()?;
        let may = |actor: &str| {
            registry
                .policy
                .delegations
                .iter()
                .any(|rule| matches(&rule.actor, actor) && matches(&rule.subject, &self.subject))
        };
        let denied = |actor: &str| Refusal::new("access_denied", format!("{actor} may not act for {}", self.subject));
        if let Some(actor) = actors.iter().find(|actor| !may(actor)) {
            return Err(denied(actor));
        }
        let as_itself = client.is_named(&self.subject);
        let known = client.spiffe_id.as_deref().is_some_and(may) || may(&client.id);
        if actors.is_empty() && !as_itself && !known { Err(denied(&client.id)) } else { Ok(()) }
    }

    /// The chain is not too long and has no loop.
    pub(super) fn check_chain(&self, policy: &Policy) -> Outcome<()> {
        let actors = self.actors()?.len();
        if actors <= policy.max_actors {
            return Ok(());
        }
        let reason = format!("the act chain has {actors} actors, at most {} are allowed", policy.max_actors);
        Err(Refusal::new("access_denied", reason))
    }
}

impl State {
    /// An access token (RFC 9068) and the answer around it (RFC 6749 §5.1).
    pub(super) fn access_token(
        &self,
        registry: &Registry,
        client: &Client,
        asked: &Asked,
        principal: Principal,
    ) -> Outcome<Value> {
        let scope = granted(client, &registry.policy, asked)?.join(" ");
        let targets = targets(client, asked)?;
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

    /// An ID-JAG (§3.1 of the draft) and the answer around it (§4.3.4).
    pub(super) fn id_jag(
        &self,
        registry: &Registry,
        client: &Client,
        asked: &Asked,
        principal: Principal,
    ) -> Outcome<Value> {
        let [audience] = asked.audiences.as_slice() else {
            return Err(Refusal::invalid_request("an ID-JAG has exactly one audience"));
        };
        let known = registry.policy.id_jag_audiences.iter().find(|known| known.issuer == *audience);
        let Some(known) = known.filter(|known| known.issuer != self.issuer) else {
            return Err(Refusal::new("invalid_target", format!("no ID-JAGs for {audience} here")));
        };
        let there = known.client_ids.iter().find(|(here, _)| *here == client.id).map(|(_, there)| there);
        let scope = granted(client, &registry.policy, asked)?.join(" ");
        let mut claims = json!({
            "iss": self.issuer, "sub": principal.subject, "aud": audience, "scope": scope,
            "client_id": there.unwrap_or(&client.id),
        });
        if let Some(act) = principal.act {
            claims["act"] = act;
        }
        match asked.resources.as_slice() {
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

/// The scopes that the client gets: what it asks for, if it may; without asking, all that it may.
fn granted(client: &Client, policy: &Policy, asked: &Asked) -> Outcome<Vec<String>> {
    let Some(scopes) = &asked.scopes else {
        return Ok(client.scopes.iter().filter(|scope| !scope.ends_with('*')).cloned().collect());
    };
    let may = |scope: &String| client.scopes.iter().any(|pattern| matches(pattern, scope));
    match scopes.iter().find(|scope| !may(scope)) {
        Some(scope) if !policy.narrow_scopes => {
            Err(Refusal::new("invalid_scope", format!("{} may not have the scope {scope}", client.id)))
        }
        _ => Ok(scopes.iter().filter(|scope| may(scope)).cloned().collect()),
    }
}

fn targets(client: &Client, asked: &Asked) -> Outcome<Vec<String>> {
    let targets: Vec<String> = asked.resources.iter().chain(&asked.audiences).cloned().collect();
    match targets.iter().find(|target| !client.targets.is_empty() && !client.targets.contains(target)) {
        Some(target) => Err(Refusal::new("invalid_target", format!("{} may not ask for {target}", client.id))),
        None => Ok(targets),
    }
}

/// The words of a space-separated list.
pub(super) fn words(text: &str) -> Vec<String> {
    text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

pub(super) fn server_error(error: &anyhow::Error) -> Refusal {
    Refusal::new("server_error", format!("{error:#}"))
}

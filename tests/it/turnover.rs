//! Tokens are discarded when the identity that they were issued to changes, both in the slot that
//! all workers read and in each worker's own cache.
use super::agent::Http1;
use super::world::{Proxy, RESOURCE, World, until, within};
use bytes::Bytes;
use http_body_util::Full;
use idjag_proxy::dev::authorization_server::{Authentication, Client, Delegation, Leg};
use idjag_proxy::dev::ca::SvidRequest;
use idjag_proxy::dev::faults::{Fault, Gate};
use idjag_proxy::dev::resource_server::ResourceServer;
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// A proxy whose authorization server knows two identities, with an agent's connection to each
/// worker.
struct Fixture {
    world: World,
    api: ResourceServer,
    proxy: Proxy,
    agents: [Http1<Full<Bytes>>; 2],
    next: String,
    alice: String,
}

/// The key `token` of a route for users whose ID tokens were issued to one of these.
fn for_user(audiences: &[String]) -> String {
    format!(
        "token: {{ flow: {{ self_issued: {{ server: corp, grant: token_exchange }} }}, resource: {RESOURCE}, \
         scopes: [read], subject: {{ header: {{ name: x-user-token, server: corp, type: id_token, \
         audience: {audiences:?} }} }} }}"
    )
}

impl Fixture {
    async fn start() -> Self {
        let world = World::start().await;
        let next = world.domain.workload("agent-next");
        world.corp.register(Client::agent(&next, Authentication::SpiffeJwt).scopes(&["read", "write"]));
        world.corp.policy(|policy| {
            policy.access_token_ttl = HOUR;
            policy.delegations.push(Delegation { actor: next.clone(), subject: "user:alice".to_owned() });
        });
        // Alice's token stays the same, so it is issued to both identities.
        let ids = [world.agent_id(), next.clone()];
        let alice = world.user_token(&json!({ "sub": "user:alice", "aud": ids, "azp": ids[0] }), HOUR);
        let (api, routes) = world.http2_api().await;
        let proxy = world.proxy_with(&routes.replace("token: for-user", &for_user(&ids))).await;
        let agents = proxy.each_worker(&api).await;
        Self { world, api, proxy, agents, next, alice }
    }

    /// Fails unless every worker acts as `id`, both for itself and for alice.
    async fn assert_acts_as(&mut self, id: &str) {
        let fields = [("x-user-token", self.alice.as_str())];
        for agent in &mut self.agents {
            for _ in 0..2 {
                let reply = agent.get("http://api.test/x", &[]).await;
                assert_eq!(reply.json()["claims"]["sub"], id);
                let reply = agent.get("http://user.test/x", &fields).await;
                let claims = &reply.json()["claims"];
                assert_eq!((&claims["sub"], &claims["act"]["sub"]), (&json!("user:alice"), &json!(id)));
            }
        }
    }

    /// The number of tokens that were minted for the agent itself, and for alice.
    fn minted(&self) -> (usize, usize) {
        (self.world.corp.count(Leg::ClientCredentials), self.world.corp.count(Leg::SelfIssued))
    }

    async fn switch_to(&self, id: &str) {
        self.world.workload_api.set_identities(&[SvidRequest::new(id)]).expect("issued");
        until(async || self.proxy.status().await["identity"]["spiffe_id"] == id, id).await;
    }

    /// Every credential that the API has received.
    fn credentials(&self) -> HashSet<String> {
        let seen = self.api.requests();
        seen.iter().filter_map(|seen| Some(seen.headers.get("authorization")?.to_str().ok()?.to_owned())).collect()
    }
}

#[tokio::test]
async fn changed_spiffe_id_gets_only_tokens_of_its_own() {
    let mut fixture = Fixture::start().await;
    let (first, next) = (fixture.world.agent_id(), fixture.next.clone());
    fixture.assert_acts_as(&first).await;
    assert_eq!(fixture.minted(), (1, 1));
    fixture.switch_to(&next).await;
    fixture.assert_acts_as(&next).await;
    assert_eq!(fixture.minted(), (2, 2));
    // The tokens of the first identity were not kept.
    fixture.switch_to(&first).await;
    fixture.assert_acts_as(&first).await;
    assert_eq!(fixture.minted(), (3, 3));
    assert_eq!(fixture.credentials().len(), 6);
}

#[tokio::test]
async fn token_minted_during_an_identity_change_is_not_used() {
    let fixture = Fixture::start().await;
    let ids = [fixture.world.agent_id(), fixture.next.clone()];
    let calls = [("http://api.test/x", "/claims/sub"), ("http://user.test/x", "/claims/act/sub")];
    for (round, (url, actor)) in calls.into_iter().enumerate() {
        let after = &ids[1 - round];
        let gate = Gate::default();
        fixture.world.corp.faults().token.next(Fault::Hold(gate.clone()));
        let change = async {
            within(gate.wait_for_arrivals(1), "the exchange").await;
            fixture.switch_to(after).await;
            gate.open();
        };
        let (reply, ()) = tokio::join!(fixture.proxy.get_for(&fixture.alice, url), change);
        assert_eq!(reply.json().pointer(actor), Some(&json!(after)), "{url}");
    }
    assert_eq!(fixture.minted(), (2, 2), "tokens of the earlier identity were discarded");
}

#[tokio::test]
async fn withdrawn_identity_discards_its_tokens() {
    let mut fixture = Fixture::start().await;
    let id = fixture.world.agent_id();
    fixture.assert_acts_as(&id).await;
    let old = fixture.credentials();
    let proxy = &fixture.proxy;
    let cached_tokens = "token_cache_entries{tier=\"access\"}";
    proxy.until_metric(cached_tokens, |count| count == 2.0).await;
    fixture.world.workload_api.withdraw();
    until(async || proxy.probe("/readyz").await.status == 503, "the withdrawal is known").await;
    let fields = [("x-user-token", fixture.alice.as_str())];
    for agent in &mut fixture.agents {
        for url in ["http://api.test/x", "http://user.test/x"] {
            agent.get(url, &fields).await.assert_refusal(503, "identity_missing");
        }
    }
    proxy.until_metric(cached_tokens, |count| count == 0.0).await;
    fixture.world.workload_api.restore();
    fixture.proxy.until_ready().await;
    fixture.assert_acts_as(&id).await;
    assert_eq!(fixture.minted(), (2, 2));
    assert_eq!(fixture.credentials().len(), 2 * old.len(), "an old token was sent again");
}

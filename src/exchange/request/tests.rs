//! What each flow sends, for each subject and actor. JWT-SVIDs, which need a Workload API, are
//! tested in `tests/it`.
use crate::exchange::testing::{Fixture, Reply, ScriptedServer, client_credentials, grant, json, token};
use crate::exchange::{AssertionSettings, Flow, GrantSpec, SelfIssuedGrant, Subject, UserTokenRule};
use crate::identity::testing::{Authority, IdentityFixture};
use crate::issuer::{AuthorizationServer, ClientAuth, Fault};
use crate::jose::TokenKind;
use crate::jose::vectors::{ES256_KEY, eddsa_pkcs8, es256_pkcs8};
use crate::jose::{SigningKey, Unverified};
use serde_json::{Value, json as value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const AGENT: &str = "spiffe://example.org/agent/worker";
const ID_JAG_TYPE: &str = "urn:ietf:params:oauth:token-type:id-jag";

fn corp_key() -> SigningKey {
    SigningKey::from_pkcs8_der(&es256_pkcs8(), Some("corp".into()), None).expect("a key")
}

fn jwks() -> Reply {
    let mut jwk: Value = serde_json::from_str(ES256_KEY).expect("a JWK");
    jwk.as_object_mut().expect("an object").remove("d");
    jwk["kid"] = value!("corp");
    json(200, value!({ "keys": [jwk] }).to_string())
}

/// Issues tokens at `/token`, and publishes the identity provider's keys at `/jwks`.
async fn server() -> ScriptedServer {
    ScriptedServer::start(|seen| if seen.head.uri.path() == "/jwks" { jwks() } else { token() }).await
}

/// An agent with an SVID.
fn agent() -> (Fixture, IdentityFixture) {
    let identity = IdentityFixture::with(&Authority::new("example.org"), AGENT);
    (Fixture::at(Some(identity.identity.clone()), identity.clock.clone()), identity)
}

fn alice(fixture: &Fixture, issuer: &str, changes: &Value) -> String {
    let now = fixture.clock.now().unix_seconds();
    let mut claims = value!({"iss": issuer, "sub": "alice", "aud": "agent", "iat": now, "exp": now + 600});
    for (name, change) in changes.as_object().expect("claims") {
        claims[name] = change.clone();
    }
    corp_key().sign("JWT", &claims).expect("a signature")
}

fn user_of(server: &Arc<AuthorizationServer>) -> Subject {
    Subject::User(UserTokenRule { server: Arc::clone(server), kind: TokenKind::IdToken, audience: Vec::new() })
}

fn self_issued(server: &Arc<AuthorizationServer>, kind: SelfIssuedGrant, subject: Subject) -> GrantSpec {
    GrantSpec { subject, ..grant(Flow::SelfIssued { server: Arc::clone(server), grant: kind }) }
}

fn form(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn self_issued_assertion_of_the_agent_is_signed_with_the_svid() {
    let server = server().await;
    let (fixture, _identity) = agent();
    let described = Arc::new(server.described());
    let mut asked = self_issued(&described, SelfIssuedGrant::TokenExchange, Subject::Own);
    asked.resources = vec!["https://api.example/".into()];
    fixture.mint(&asked).await.expect("a token");
    let mut sent = server.last_form();
    let assertion = sent.remove("subject_token").expect("an assertion");
    assert_eq!(
        sent,
        form(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("resource", "https://api.example/"),
            ("scope", "a b"),
            ("client_id", "agent"),
            ("client_secret", "hunter2-canary"),
        ])
    );
    let assertion = Unverified::parse(&assertion).expect("a JWT");
    assert_eq!((assertion.header_text("typ"), assertion.header_text("alg")), (Some("oauth-id-jag+jwt"), Some("ES256")));
    assert_eq!(assertion.header["x5c"].as_array().expect("a chain").len(), 1);
    let claims = &assertion.claims;
    assert_eq!(
        (&claims["iss"], &claims["sub"], &claims["client_id"]),
        (&value!(AGENT), &value!(AGENT), &value!("agent"))
    );
    assert_eq!((&claims["aud"], &claims["scope"]), (&value!(server.origin), &value!("a b")));
    assert_eq!(claims["resource"], "https://api.example/");
    assert_eq!(claims["exp"].as_u64().zip(claims["iat"].as_u64()).map(|(exp, iat)| exp - iat), Some(300));
    assert!(claims.contains_key("jti") && !claims.contains_key("act"));
}

#[tokio::test]
async fn self_issued_assertion_with_a_published_key_names_its_issuer() {
    let server = server().await;
    let (fixture, _identity) = agent();
    let described = Arc::new(server.described());
    let mut asked = self_issued(&described, SelfIssuedGrant::JwtBearer, Subject::Own);
    let key = SigningKey::from_pkcs8_der(&eddsa_pkcs8(), Some("2026-11".into()), None).expect("a key");
    asked.assertion = AssertionSettings {
        issuer: Some("https://agents.example.com/calendar".into()),
        key: Some(key),
        lifetime: Duration::from_secs(86_400),
        ..AssertionSettings::default()
    };
    fixture.mint(&asked).await.expect("a token");
    let sent = server.last_form();
    assert_eq!(sent["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    let assertion = Unverified::parse(&sent["assertion"]).expect("a JWT");
    assert_eq!((assertion.header_text("alg"), assertion.header_text("kid")), (Some("EdDSA"), Some("2026-11")));
    assert!(!assertion.header.contains_key("x5c"));
    assert_eq!(
        (&assertion.claims["iss"], &assertion.claims["sub"]),
        (&value!("https://agents.example.com/calendar"), &value!(AGENT))
    );
    let lived = assertion.claims["exp"].as_u64().expect("exp") - assertion.claims["iat"].as_u64().expect("iat");
    assert_eq!(lived, 3600, "a day is more than an assertion may live");
}

#[tokio::test]
async fn self_issued_assertion_for_a_user_wraps_the_earlier_actors() {
    let server = server().await;
    let (fixture, _identity) = agent();
    let described = Arc::new(server.described());
    let asked = self_issued(&described, SelfIssuedGrant::TokenExchange, user_of(&described));
    let act = value!({"sub": "spiffe://example.org/agent/orchestrator"});
    let user = alice(&fixture, &server.origin, &value!({"act": act, "exp": fixture.clock.now().unix_seconds() + 30}));
    let minted = fixture.mint_for(&asked, &user).await.expect("a token");
    let sent = server.last_form();
    let assertion = Unverified::parse(&sent["subject_token"]).expect("a JWT");
    assert_eq!(assertion.claims["sub"], "alice");
    assert_eq!(assertion.claims["act"], value!({"sub": AGENT, "act": act}));
    let user_ends = fixture.clock.now().unix_seconds() + 30;
    assert!(assertion.claims["exp"].as_u64().expect("exp") <= user_ends, "no longer than the user's token");
    assert!(minted.expires_at.unix_seconds() <= user_ends, "nor does the access token");
}

#[tokio::test]
async fn chain_that_is_too_long_or_a_loop_sends_nothing() {
    let server = server().await;
    let (fixture, _identity) = agent();
    let described = Arc::new(server.described());
    let asked = self_issued(&described, SelfIssuedGrant::TokenExchange, user_of(&described));
    for act in [
        value!({"sub": "c", "act": {"sub": "b", "act": {"sub": "a"}}}),
        value!({"sub": "b", "act": {"sub": AGENT}}),
        value!("b"),
        value!(null),
    ] {
        let error = fixture
            .mint_for(&asked, &alice(&fixture, &server.origin, &value!({ "act": act })))
            .await
            .expect_err("refused");
        assert_eq!((error.kind(), error.fault()), ("actors", Fault::Agent), "{error}");
    }
    assert!(server.received().iter().all(|seen| seen.head.uri.path() == "/jwks"), "nothing was asked for");
}

#[tokio::test]
async fn user_token_that_is_invalid_sends_nothing() {
    let server = server().await;
    let (fixture, _identity) = agent();
    let described = Arc::new(server.described());
    let now = fixture.clock.now().unix_seconds();
    let asked =
        GrantSpec { subject: user_of(&described), ..grant(Flow::TokenExchange { server: Arc::clone(&described) }) };
    for changes in [
        value!({"aud": "another"}),
        value!({"iss": "https://evil"}),
        value!({"exp": now - 5}),
        value!({"exp": now - 500}),
    ] {
        let error = fixture.mint_for(&asked, &alice(&fixture, &server.origin, &changes)).await.expect_err("refused");
        assert_eq!((error.kind(), error.fault()), ("user_token", Fault::User), "{error}");
    }
    assert!(server.received().iter().all(|seen| seen.head.uri.path() == "/jwks"));
}

#[tokio::test]
async fn user_token_is_sent_with_its_type() {
    let server = server().await;
    let (fixture, _identity) = agent();
    let described = Arc::new(server.described());
    let mut asked =
        GrantSpec { subject: user_of(&described), ..grant(Flow::TokenExchange { server: Arc::clone(&described) }) };
    asked.audiences = vec!["x".into(), "y".into()];
    let user = alice(&fixture, &server.origin, &value!({}));
    fixture.mint_for(&asked, &user).await.expect("a token");
    let sent = server.last_form();
    assert_eq!((&sent["subject_token"], &sent["audience"]), (&user, &"x,y".to_owned()));
    assert_eq!(sent["subject_token_type"], "urn:ietf:params:oauth:token-type:id_token");
    assert!(!sent.contains_key("actor_token") && !sent.contains_key("requested_token_type"));

    asked.flow = Flow::JwtBearer { server: described };
    fixture.mint_for(&asked, &user).await.expect("a token");
    assert_eq!(server.last_form()["assertion"], user);
}

/// An identity provider whose ID-JAGs are for `audience`. They are numbered.
async fn idp(audience: String) -> ScriptedServer {
    let issued = AtomicUsize::new(0);
    ScriptedServer::start(move |seen| {
        if seen.head.uri.path() == "/jwks" {
            return jwks();
        }
        let number = issued.fetch_add(1, Ordering::Relaxed);
        let claims = value!({"iss": "idp", "sub": "alice", "aud": audience, "exp": 4_000_000_000_u64, "jti": number});
        let id_jag = corp_key().sign("oauth-id-jag+jwt", &claims).expect("a signature");
        // No `expires_in`, like the provider of the MCP conformance suite.
        json(200, value!({"access_token": id_jag, "issued_token_type": ID_JAG_TYPE, "token_type": "N_A"}).to_string())
    })
    .await
}

fn across(idp: &ScriptedServer, resource: &ScriptedServer) -> GrantSpec {
    let idp = Arc::new(AuthorizationServer { name: "idp".into(), ..idp.described() });
    let server = Arc::new(AuthorizationServer { client_id: Some("agent-at-ras".into()), ..resource.described() });
    let subject = user_of(&idp);
    GrantSpec { subject, resources: vec!["https://api.example/".into()], ..grant(Flow::IdJag { idp, server }) }
}

#[tokio::test]
async fn id_jag_flow_redeems_the_id_jag_at_the_resource_server() {
    let resource = ScriptedServer::start(|_| token()).await;
    let idp = idp(resource.origin.clone()).await;
    let (fixture, _identity) = agent();
    let user = alice(&fixture, &idp.origin, &value!({}));
    let minted = fixture.mint_for(&across(&idp, &resource), &user).await.expect("a token");
    assert_eq!(minted.token.expose(), "t0ken");
    assert_eq!(
        idp.last_form(),
        form(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("requested_token_type", ID_JAG_TYPE),
            ("audience", &resource.origin),
            ("resource", "https://api.example/"),
            ("scope", "a b"),
            ("subject_token", &user),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:id_token"),
            ("client_id", "agent"),
            ("client_secret", "hunter2-canary"),
        ])
    );
    let mut sent = resource.last_form();
    let id_jag = sent.remove("assertion").expect("an ID-JAG");
    assert_eq!(Unverified::parse(&id_jag).expect("a JWT").header_text("typ"), Some("oauth-id-jag+jwt"));
    assert_eq!(
        sent,
        form(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("client_id", "agent-at-ras"),
            ("client_secret", "hunter2-canary"),
        ])
    );
}

#[tokio::test]
async fn id_jag_that_is_refused_is_replaced_once() {
    for (refusals, code, works, asked) in [
        (1, "invalid_grant", true, 2),
        (2, "invalid_grant", false, 2),
        (1, "invalid_scope", false, 1),
        (1, "access_denied", false, 1),
    ] {
        let refused = AtomicUsize::new(0);
        let resource = ScriptedServer::start(move |_| {
            if refused.fetch_add(1, Ordering::Relaxed) < refusals {
                json(400, format!(r#"{{"error":"{code}"}}"#))
            } else {
                token()
            }
        })
        .await;
        let idp = idp(resource.origin.clone()).await;
        let (fixture, _identity) = agent();
        let result = fixture.mint_for(&across(&idp, &resource), &alice(&fixture, &idp.origin, &value!({}))).await;
        assert_eq!(result.is_ok(), works, "{code}");
        let assertions: Vec<_> = resource.received().iter().map(|seen| seen.form()["assertion"].clone()).collect();
        assert_eq!(assertions.len(), asked);
        assert!(assertions.windows(2).all(|pair| pair[0] != pair[1]), "never the same one twice");
    }
}

#[tokio::test]
async fn id_jag_for_another_audience_is_not_sent() {
    let resource = ScriptedServer::start(|_| token()).await;
    let idp = idp("https://another.example".into()).await;
    let (fixture, _identity) = agent();
    let error = fixture
        .mint_for(&across(&idp, &resource), &alice(&fixture, &idp.origin, &value!({})))
        .await
        .expect_err("refused");
    assert_eq!((error.kind(), error.server()), ("response", "idp"));
    assert!(resource.received().is_empty());
}

#[tokio::test]
async fn missing_identity_sends_nothing() {
    let server = server().await;
    let described = Arc::new(server.described());
    for client_auth in [ClientAuth::SpiffeJwt, ClientAuth::SpiffeX509, ClientAuth::JwtSvidBearer] {
        let described = AuthorizationServer { client_auth, ..server.described() };
        let error = Fixture::new(None).mint(&client_credentials(described)).await.expect_err("no identity");
        assert!(matches!(error.fault(), Fault::Identity | Fault::Operator), "{error}");
    }
    let asked = self_issued(&described, SelfIssuedGrant::TokenExchange, Subject::Own);
    assert_eq!(Fixture::new(None).mint(&asked).await.expect_err("no identity").fault(), Fault::Identity);
    let (fixture, mut identity) = agent();
    identity.withdraw();
    assert_eq!(fixture.mint(&asked).await.expect_err("withdrawn").fault(), Fault::Identity);
    assert!(server.received().is_empty());
}

use super::*;
use crate::exchange::testing::{Fixture, ReceivedRequest, ScriptedServer, client_credentials, token};
use crate::issuer::{AssertionAudience, AuthorizationServer};
use crate::jose::vectors::eddsa_pkcs8;
use crate::jose::{SigningKey, Unverified};
use serde_json::json as value;
use std::collections::BTreeMap;

fn form(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn basic_form_encodes_both_halves() {
    let header = basic("spiffe://acme.example/agent", &Secret::new("p:a+s s/%".into())).expect("a header");
    assert_eq!(header, "Basic c3BpZmZlJTNBJTJGJTJGYWNtZS5leGFtcGxlJTJGYWdlbnQ6cCUzQWElMkJzK3MlMkYlMjU=");
    assert!(header.is_sensitive());
}

async fn authenticated(
    client_auth: ClientAuth,
    change: impl FnOnce(&mut AuthorizationServer),
) -> (ScriptedServer, ReceivedRequest) {
    let server = ScriptedServer::start(|_| token()).await;
    let mut described = AuthorizationServer { client_auth, ..server.described() };
    change(&mut described);
    Fixture::new(None).mint(&client_credentials(described)).await.expect("a token");
    let seen = server.received().pop().expect("a request");
    (server, seen)
}

#[tokio::test]
async fn request_carries_one_client_authentication() {
    let secret = || Secret::new("s/%".into());
    let (_, seen) = authenticated(ClientAuth::ClientSecretBasic(secret()), |_| {}).await;
    assert_eq!(seen.head.headers["authorization"], "Basic YWdlbnQ6cyUyRiUyNQ==");
    assert_eq!(seen.form(), form(&[("grant_type", "client_credentials"), ("scope", "a b")]));

    let (_, seen) = authenticated(ClientAuth::None, |_| {}).await;
    assert_eq!(seen.form(), form(&[("grant_type", "client_credentials"), ("scope", "a b"), ("client_id", "agent")]));
    let (_, seen) = authenticated(ClientAuth::None, |server| server.client_id = None).await;
    assert!(!seen.form().contains_key("client_id"), "there is no ID to send");
}

#[tokio::test]
async fn client_assertion_audience_follows_the_setting() {
    let key = || SigningKey::from_pkcs8_der(&eddsa_pkcs8(), Some("c1".into()), None).expect("a key");
    for audience in
        [AssertionAudience::Issuer, AssertionAudience::TokenEndpoint, AssertionAudience::Explicit("https://old".into())]
    {
        let configured = audience.clone();
        let (server, seen) = authenticated(ClientAuth::PrivateKeyJwt(key()), move |server| {
            server.quirks.assertion_audience = configured;
        })
        .await;
        let sent = seen.form();
        assert_eq!(sent["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
        let assertion = Unverified::parse(&sent["client_assertion"]).expect("a JWT");
        assert_eq!(
            (assertion.header_text("typ"), assertion.header_text("kid")),
            (Some("client-authentication+jwt"), Some("c1"))
        );
        let expected = match audience {
            AssertionAudience::Issuer => server.origin.clone(),
            AssertionAudience::TokenEndpoint => format!("{}/token", server.origin),
            AssertionAudience::Explicit(text) => text,
        };
        assert_eq!(
            (&assertion.claims["aud"], &assertion.claims["iss"], &assertion.claims["sub"]),
            (&value!(expected), &value!("agent"), &value!("agent"))
        );
    }
}

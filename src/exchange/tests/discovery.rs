//! Discovery of metadata and keys: the locations, the checks, and how long documents are used.
use crate::exchange::testing::{
    Fixture, ReceivedRequest, Reply, ScriptedServer, client_credentials, grant, json, token,
};
use crate::exchange::{Flow, GrantSpec, Subject, UserTokenRule};
use crate::issuer::{AuthorizationServer, Endpoints, Fault};
use crate::jose::SigningKey;
use crate::jose::TokenKind;
use crate::jose::vectors::{EDDSA_KEY, ES256_KEY, eddsa_pkcs8, es256_pkcs8};
use futures_util::future::join_all;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, HOST, RETRY_AFTER};
use serde_json::{Value, json as value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const RFC_8414: &str = "/.well-known/oauth-authorization-server";

fn origin(seen: &ReceivedRequest) -> String {
    format!("http://{}", seen.head.headers[HOST].to_str().expect("text"))
}

fn metadata(seen: &ReceivedRequest, path: &str) -> Value {
    let origin = origin(seen);
    value!({"issuer": format!("{origin}{path}"), "token_endpoint": format!("{origin}/token"), "jwks_uri": format!("{origin}/jwks")})
}

fn discovered(server: &ScriptedServer, path: &str) -> AuthorizationServer {
    AuthorizationServer {
        issuer: format!("{}{path}", server.origin),
        endpoints: Endpoints::Discovered,
        ..server.described()
    }
}

fn paths(server: &ScriptedServer) -> Vec<String> {
    server.received().iter().map(|seen| seen.head.uri.path().to_owned()).collect()
}

fn count(server: &ScriptedServer, path: &str) -> usize {
    paths(server).iter().filter(|seen| *seen == path).count()
}

/// Serves metadata at one path, tokens at `/token`, and 404 elsewhere.
async fn at(path: &'static str, issuer_path: &'static str) -> ScriptedServer {
    ScriptedServer::start(move |seen| match seen.head.uri.path() {
        "/token" => token(),
        found if found == path => json(200, metadata(seen, issuer_path).to_string()),
        _ => json(404, "no"),
    })
    .await
}

#[tokio::test]
async fn well_known_locations_are_tried_in_order() {
    for (place, issuer_path, tried) in [
        (RFC_8414, "", 1),
        (RFC_8414, "/", 1),
        ("/.well-known/openid-configuration", "", 2),
        ("/.well-known/oauth-authorization-server/realms/r", "/realms/r", 1),
        ("/.well-known/openid-configuration/realms/r", "/realms/r", 2),
        ("/realms/r/.well-known/openid-configuration", "/realms/r", 3),
    ] {
        let server = at(place, issuer_path).await;
        Fixture::new(None).mint(&client_credentials(discovered(&server, issuer_path))).await.expect(place);
        assert_eq!(server.received().len(), tried + 1, "{:?}", paths(&server));
    }
}

type Patch = fn(&mut Value);

/// Each change makes the document another issuer's or unusable; no credential is sent.
#[tokio::test]
async fn document_of_another_issuer_is_not_used() {
    let patches: [(&str, Patch); 9] = [
        ("is of the issuer", |document| document["issuer"] = value!("https://evil.example")),
        ("is of the issuer", |document| {
            document["issuer"] = value!(format!("{}/", document["issuer"].as_str().expect("text")));
        }),
        ("names no issuer", |document| document["issuer"] = value!(null)),
        ("no `token_endpoint`", |document| document["token_endpoint"] = value!(null)),
        ("not a string", |document| document["token_endpoint"] = value!(7)),
        ("is not https", |document| document["token_endpoint"] = value!("http://192.0.2.1/token")),
        ("is not https", |document| document["jwks_uri"] = value!("http://as.example/jwks")),
        ("not the URL of an endpoint", |document| document["token_endpoint"] = value!("https://u:p@as.example/token")),
        ("not a URL", |document| document["token_endpoint"] = value!("/token")),
    ];
    for (why, patch) in patches {
        let server = ScriptedServer::start(move |seen| {
            let mut document = metadata(seen, "");
            patch(&mut document);
            json(200, document.to_string())
        })
        .await;
        let error = Fixture::new(None).mint(&client_credentials(discovered(&server, ""))).await.expect_err("no token");
        assert_eq!((error.kind(), error.fault()), ("metadata", Fault::Operator));
        assert!(error.to_string().contains(why), "{error}");
        assert!(server.received().iter().all(|seen| seen.body.is_empty()), "nothing was posted");
    }
}

#[tokio::test]
async fn issuer_that_cannot_be_located_is_a_configuration_error() {
    for issuer in ["https://as/?tenant=1", "https://as/#x", "https://u@as/", "urn:as", "as"] {
        let server = at(RFC_8414, "").await;
        let described = AuthorizationServer { issuer: issuer.to_owned(), ..discovered(&server, "") };
        assert_eq!(
            Fixture::new(None).mint(&client_credentials(described)).await.expect_err("no token").kind(),
            "configuration"
        );
    }
    let server = at(RFC_8414, "").await;
    let described = AuthorizationServer { issuer: "http://192.0.2.1".to_owned(), ..discovered(&server, "") };
    assert_eq!(
        Fixture::new(None).mint(&client_credentials(described)).await.expect_err("no token").kind(),
        "plain_http"
    );
}

#[tokio::test]
async fn metadata_is_fetched_once_while_it_is_fresh() {
    let server = ScriptedServer::start(|seen| match seen.head.uri.path() {
        "/token" => token(),
        _ => {
            let mut reply = json(200, metadata(seen, "").to_string());
            reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=1000"));
            reply
        }
    })
    .await;
    let (fixture, grant) = (Fixture::new(None), client_credentials(discovered(&server, "")));
    for result in join_all((0..20).map(|_| fixture.mint(&grant))).await {
        result.expect("a token");
    }
    assert_eq!((count(&server, RFC_8414), count(&server, "/token")), (1, 20));
    fixture.clock.shift(990);
    fixture.mint(&grant).await.expect("a token");
    assert_eq!(count(&server, RFC_8414), 1);
    fixture.clock.shift(20);
    fixture.mint(&grant).await.expect("a token");
    assert_eq!(count(&server, RFC_8414), 2);
}

#[tokio::test]
async fn discovery_failure_is_shared_and_remembered() {
    let server = ScriptedServer::start(|_| json(503, "")).await;
    let (fixture, grant) = (Fixture::new(None), client_credentials(discovered(&server, "")));
    for result in join_all((0..20).map(|_| fixture.mint(&grant))).await {
        assert_eq!(result.expect_err("no token").kind(), "busy");
    }
    assert_eq!(server.received().len(), 2, "each location once");
    fixture.clock.shift(6);
    fixture.mint(&grant).await.expect_err("no token");
    assert_eq!(server.received().len(), 4);
}

#[tokio::test]
async fn location_that_answers_5xx_does_not_hide_the_others() {
    for (place, issuer_path, tried) in
        [("/.well-known/openid-configuration", "", 2), ("/realms/r/.well-known/openid-configuration", "/realms/r", 3)]
    {
        for status in [500, 502, 503, 504] {
            let server = ScriptedServer::start(move |seen| match seen.head.uri.path() {
                "/token" => token(),
                found if found == place => json(200, metadata(seen, issuer_path).to_string()),
                _ => json(status, "no such path"),
            })
            .await;
            Fixture::new(None).mint(&client_credentials(discovered(&server, issuer_path))).await.expect(place);
            assert_eq!(server.received().len(), tried + 1, "{status}: {:?}", paths(&server));
        }
    }
}

#[tokio::test]
async fn discovery_error_lists_every_location() {
    let oidc = "/.well-known/openid-configuration";
    for (one, other, kind, fault) in [
        (502, 404, "busy", Fault::Unavailable),
        (404, 503, "busy", Fault::Unavailable),
        (404, 403, "metadata", Fault::Operator),
    ] {
        let server =
            ScriptedServer::start(move |seen| json(if seen.head.uri.path() == RFC_8414 { one } else { other }, ""))
                .await;
        let error = Fixture::new(None).mint(&client_credentials(discovered(&server, ""))).await.expect_err("no token");
        assert_eq!((error.kind(), error.fault()), (kind, fault), "{error}");
        let text = error.to_string();
        for words in [
            format!("{RFC_8414}: answered {one}"),
            format!("{oidc}: answered {other}"),
            "name its `endpoints` in the configuration".to_owned(),
        ] {
            assert!(text.contains(&words), "{words} in {text}");
        }
    }
}

#[tokio::test]
async fn server_that_asks_for_time_is_not_asked_at_other_locations() {
    for (status, wait) in [(503, Some("7")), (429, Some("7")), (429, None)] {
        let server = ScriptedServer::start(move |_| {
            let mut reply = json(status, "");
            reply.headers_mut().extend(wait.map(|wait| (RETRY_AFTER, HeaderValue::from_static(wait))));
            reply
        })
        .await;
        let error = Fixture::new(None).mint(&client_credentials(discovered(&server, ""))).await.expect_err("no token");
        assert_eq!(error.kind(), "busy");
        assert_eq!(error.retry_after(), wait.map(|_| Duration::from_secs(7)));
        assert_eq!(paths(&server), [RFC_8414], "{status}");
    }
}

#[tokio::test]
async fn stale_metadata_is_used_while_the_server_fails() {
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = Arc::clone(&broken);
    let server = ScriptedServer::start(move |seen| match seen.head.uri.path() {
        "/token" => token(),
        _ if is_broken.load(Ordering::Relaxed) => json(503, ""),
        _ => json(200, metadata(seen, "").to_string()),
    })
    .await;
    let (fixture, grant) = (Fixture::new(None), client_credentials(discovered(&server, "")));
    fixture.mint(&grant).await.expect("a token");
    broken.store(true, Ordering::Relaxed);
    fixture.clock.shift(301);
    fixture.mint(&grant).await.expect("a token");
    fixture.mint(&grant).await.expect("a token");
    assert_eq!(count(&server, RFC_8414), 2, "and it is not asked for each time");
}

/// A grant for a user of `server`, at the same server.
fn for_user(server: AuthorizationServer) -> GrantSpec {
    let server = Arc::new(server);
    let rule = UserTokenRule { server: Arc::clone(&server), kind: TokenKind::IdToken, audience: Vec::new() };
    GrantSpec { subject: Subject::User(rule), ..grant(Flow::JwtBearer { server }) }
}

fn user_token(fixture: &Fixture, issuer: &str, key: &SigningKey) -> String {
    let now = fixture.clock.now().unix_seconds();
    let claims = value!({"iss": issuer, "sub": "alice", "aud": "agent", "iat": now, "exp": now + 600});
    key.sign("JWT", &claims).expect("a signature")
}

fn keys(jwks: &[(&str, &str)]) -> Reply {
    let keys: Vec<_> = jwks
        .iter()
        .map(|(kid, jwk)| {
            let mut jwk: Value = serde_json::from_str(jwk).expect("a JWK");
            jwk.as_object_mut().expect("an object").remove("d");
            jwk["kid"] = value!(kid);
            jwk
        })
        .collect();
    json(200, value!({ "keys": keys }).to_string())
}

#[tokio::test]
async fn unknown_key_refreshes_the_key_set_at_most_once_per_interval() {
    let rotated = Arc::new(AtomicBool::new(false));
    let is_rotated = Arc::clone(&rotated);
    let server = ScriptedServer::start(move |seen| match seen.head.uri.path() {
        "/jwks" if is_rotated.load(Ordering::Relaxed) => keys(&[("old", ES256_KEY), ("new", EDDSA_KEY)]),
        "/jwks" => keys(&[("old", ES256_KEY)]),
        _ => token(),
    })
    .await;
    let (fixture, grant) = (Fixture::new(None), for_user(server.described()));
    let old = SigningKey::from_pkcs8_der(&es256_pkcs8(), Some("old".into()), None).expect("a key");
    let new = SigningKey::from_pkcs8_der(&eddsa_pkcs8(), Some("new".into()), None).expect("a key");
    fixture.mint_for(&grant, &user_token(&fixture, &server.origin, &old)).await.expect("a token");
    assert_eq!(count(&server, "/jwks"), 1);

    let rotated_token = user_token(&fixture, &server.origin, &new);
    for _ in 0..5 {
        let error = fixture.mint_for(&grant, &rotated_token).await.expect_err("unknown");
        assert_eq!((error.kind(), error.fault()), ("user_token", Fault::User));
    }
    assert_eq!(count(&server, "/jwks"), 2, "once, however often it is asked for");
    rotated.store(true, Ordering::Relaxed);
    fixture.clock.shift(11);
    fixture.mint_for(&grant, &rotated_token).await.expect("a token");
    fixture.mint_for(&grant, &rotated_token).await.expect("a token");
    assert_eq!(count(&server, "/jwks"), 3);
}

#[tokio::test]
async fn stale_keys_are_used_for_an_hour_while_the_issuer_fails() {
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = Arc::clone(&broken);
    let server = ScriptedServer::start(move |seen| match seen.head.uri.path() {
        "/jwks" if is_broken.load(Ordering::Relaxed) => json(503, ""),
        "/jwks" => keys(&[("k", ES256_KEY)]),
        _ => token(),
    })
    .await;
    let (fixture, grant) = (Fixture::new(None), for_user(server.described()));
    let key = SigningKey::from_pkcs8_der(&es256_pkcs8(), Some("k".into()), None).expect("a key");
    let mint = async || fixture.mint_for(&grant, &user_token(&fixture, &server.origin, &key)).await;
    mint().await.expect("a token");
    broken.store(true, Ordering::Relaxed);
    fixture.clock.shift(301);
    mint().await.expect("a token");
    mint().await.expect("a token");
    assert_eq!(count(&server, "/jwks"), 2, "and they are not asked for each time");
    fixture.clock.shift(50 * 60);
    mint().await.expect("a token");
    fixture.clock.shift(10 * 60);
    assert_eq!(mint().await.expect_err("the hour has ended").kind(), "busy");
    broken.store(false, Ordering::Relaxed);
    fixture.clock.shift(6);
    mint().await.expect("a token");
}

#[tokio::test]
async fn missing_keys_are_not_the_fault_of_the_user() {
    for (status, body, kind, fault) in [
        (503, "", "busy", Fault::Unavailable),
        (404, "", "metadata", Fault::Operator),
        (200, "[]", "metadata", Fault::Operator),
    ] {
        let server = ScriptedServer::start(move |_| json(status, body)).await;
        let fixture = Fixture::new(None);
        let key = SigningKey::from_pkcs8_der(&es256_pkcs8(), None, None).expect("a key");
        let error = fixture.mint_for(&for_user(server.described()), &user_token(&fixture, &server.origin, &key)).await;
        let error = error.expect_err("no token");
        assert_eq!((error.kind(), error.fault()), (kind, fault), "{error}");
        assert_eq!(paths(&server), ["/jwks"], "no token request");
    }
}

#[tokio::test]
async fn text_that_is_not_a_token_causes_no_request() {
    let server = ScriptedServer::start(|_| keys(&[])).await;
    let (fixture, grant) = (Fixture::new(None), for_user(server.described()));
    let huge = "a".repeat(1 << 20);
    for garbage in ["", "opaque", "a.b.c", "..", &huge] {
        let error = fixture.mint_for(&grant, garbage).await.expect_err("no token");
        assert_eq!((error.kind(), error.fault()), ("user_token", Fault::User));
        assert!(garbage.is_empty() || !error.to_string().contains(garbage));
    }
    assert_eq!(fixture.mint(&grant).await.expect_err("none given").fault(), Fault::User);
    assert!(server.received().is_empty());
}

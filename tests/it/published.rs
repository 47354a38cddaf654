//! The keys that verify this workload's assertions, as served by the listener and printed by the
//! command.
use super::agent::{self, full, request};
use super::binary::BINARY;
use super::world::{Proxy, World, within};
use http::Method;
use idjag_proxy::dev::authorization_server::{Authentication, Client, KeySource};
use idjag_proxy::dev::jwt;
use idjag_proxy::jose::SigningKey;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;
use tokio::process::Command;

const ISSUER: &str = "https://agents.test/agent";

/// Returns a configuration that signs with `current.pem` and has retired `old.pem`, and the retired
/// private key.
fn signing(world: &World) -> (String, SigningKey) {
    let pem = |algorithm| rcgen::KeyPair::generate_for(algorithm).expect("a key").serialize_pem();
    let old = pem(&rcgen::PKCS_ED25519);
    world.write("current.pem", &pem(&rcgen::PKCS_ECDSA_P256_SHA256));
    world.write("old.pem", &old);
    let assertion = format!(
        "identity: {{ assertion: {{ issuer: \"{ISSUER}\", key_file: current.pem, kid: \"2\", \
         retired: [{{ key_file: old.pem, kid: \"1\" }}] }}, workload_api:"
    );
    let config = (listening(world) + &world.routes()).replace("identity: { workload_api:", &assertion);
    (config, SigningKey::from_pem(old.as_bytes(), Some("1".to_owned())).expect("a key"))
}

fn listening(world: &World) -> String {
    world.preamble().replace("listen: {", "listen: { jwks: [\"127.0.0.1:0\"],")
}

async fn start(world: &World, config: &str) -> (Proxy, String) {
    let proxy = Proxy::start(&world.write("proxy.yaml", config), &world.clock);
    proxy.until_ready().await;
    let url = format!("http://{}", proxy.jwks.expect("a listener"));
    (proxy, url)
}

/// Fetches the keys from the listener.
async fn published(proxy: &Proxy, url: &str) -> Value {
    let reply = agent::get(proxy.jwks.expect("a listener"), url, &[]).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/jwk-set+json"));
    reply.json()
}

async fn by_command(file: &Path) -> Output {
    let running = Command::new(BINARY).arg("jwks").arg(file).output();
    within(running, "the command").await.expect("run")
}

#[tokio::test]
async fn published_keys_verify_assertions_of_current_and_retired_keys() {
    let world = World::start().await;
    let (config, old) = signing(&world);
    let (proxy, url) = start(&world, &config).await;
    let keys = published(&proxy, &format!("{url}/jwks")).await;
    assert_eq!(published(&proxy, &format!("{url}/.well-known/jwks.json")).await, keys);
    let names: Vec<&Value> = keys["keys"].as_array().expect("a list").iter().map(|key| &key["kid"]).collect();
    assert_eq!(names, ["2", "1"], "including the retired key");
    for key in keys["keys"].as_array().expect("a list") {
        let public = ["kty", "crv", "x", "y", "alg", "use", "kid"];
        let members = key.as_object().expect("a key");
        assert!(members.keys().all(|name| public.contains(&name.as_str())), "{key}");
        assert_eq!(key["use"], "sig");
    }

    // The authorization server knows only the URL of the keys.
    let agent = Client::agent(&world.agent_id(), Authentication::SpiffeJwt).scopes(&["read"]);
    world.corp.register(agent.assertions(ISSUER, KeySource::Url(format!("{url}/jwks"))));
    let reply = proxy.get_for(&world.id_token("alice"), "http://user.test/x").await;
    assert_eq!(reply.json()["claims"]["sub"], "user:alice");
    let assertion =
        world.corp.last_request().and_then(|asked| asked.form.token("subject_token")).expect("an assertion");
    assert_eq!((&assertion.header["kid"], &assertion.claims["iss"]), (&json!("2"), &json!(ISSUER)));

    // An assertion signed with the retired key is still accepted.
    let claims = json!({ "iss": ISSUER, "sub": "user:alice" });
    let of_old = old.sign("oauth-id-jag+jwt", &claims).expect("signed");
    assert_eq!(jwt::verify_with_jwks(&of_old, &keys, "sig").expect("verified").claims, claims);

    let output = by_command(&world.directory.path().join("proxy.yaml")).await;
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).expect("JSON"), keys);
}

#[tokio::test]
async fn keys_listener_serves_nothing_else() {
    let world = World::with_open_api().await;
    let (proxy, url) = start(&world, &signing(&world).0).await;
    let listener = proxy.jwks.expect("a listener");
    for path in ["/", "/metrics", "/readyz", "/status", "/jwks/", "/current.pem"] {
        let reply = agent::get(listener, &format!("{url}{path}"), &[]).await;
        assert_eq!(reply.status, 404, "{path}: {}", reply.text());
    }
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let ask = request(&method, &format!("{url}/jwks"), &[]).body(full("")).expect("request");
        assert_eq!(agent::send(listener, ask).await.status, 405, "{method}");
    }
    // The listener cannot be used as a proxy either.
    assert_eq!(agent::get(listener, "http://open.test/x", &[]).await.status, 404);
    assert_eq!(world.api.arrivals(), 0);
}

#[tokio::test]
async fn configuration_without_key_file_publishes_an_empty_set() {
    let world = World::with_open_api().await;
    let (proxy, url) = start(&world, &(listening(&world) + &world.routes())).await;
    assert_eq!(published(&proxy, &format!("{url}/jwks")).await, json!({ "keys": [] }));
    let output = by_command(&world.directory.path().join("proxy.yaml")).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).expect("JSON"), json!({ "keys": [] }));
    assert!(String::from_utf8_lossy(&output.stderr).contains("There is no key to publish"), "{output:?}");
    let output = by_command(&world.write("bad.yaml", "lisen: {}\n")).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(78), 0), "{output:?}");
}

//! Exchanges with servers that refuse, rotate keys, fall silent or go down.
use super::*;
use idjag_proxy::dev::faults::{Fault, Gate};
use idjag_proxy::issuer::Fault as Whose;

#[tokio::test]
async fn refusal_names_who_is_at_fault() {
    let fixture = Fixture::start().await;
    let (idp, server) = fixture.servers(&spiffe_jwt());
    let asked = for_a_user(Flow::TokenExchange { server: Arc::clone(&server) }, &idp);
    let asked = GrantSpec { actor: Some(ActorToken::JwtSvid), ..asked };
    let error = fixture.mint_for(&asked, fixture.alice(&json!({}))).await.expect_err("nobody may act for alice");
    assert_eq!((error.fault(), error.oauth_code()), (Whose::Agent, Some("access_denied")), "{error}");

    let wide = GrantSpec {
        scopes: vec!["mail:send".into()],
        ..grant(Flow::ClientCredentials { server: Arc::clone(&server) })
    };
    let error = fixture.mint(&wide).await.expect_err("not this agent's scope");
    assert_eq!((error.fault(), error.oauth_code()), (Whose::Agent, Some("invalid_scope")), "{error}");

    fixture.ras.unregister(BOT);
    let error = fixture.mint(&grant(Flow::ClientCredentials { server })).await.expect_err("unknown");
    assert_eq!((error.fault(), error.oauth_code()), (Whose::Operator, Some("invalid_client")), "{error}");
    assert!(error.negative_ttl() >= Duration::from_secs(10));

    let forged = fixture.ras.keys().mint(
        "JWT",
        Duration::from_secs(60),
        json!({"iss": fixture.idp.issuer(), "sub": "user:alice", "aud": BOT}),
    );
    let arrivals = fixture.ras.arrivals();
    let error = fixture.mint_for(&asked, forged.expect("a token")).await.expect_err("not the identity provider's");
    assert_eq!((error.fault(), error.server()), (Whose::User, "idp"), "{error}");
    assert_eq!(fixture.ras.arrivals(), arrivals, "nothing was sent");
}

#[tokio::test]
async fn rotated_key_of_the_issuer_is_found() {
    let fixture = Fixture::start().await;
    fixture.may_act(BOT);
    let (idp, server) = fixture.servers(&spiffe_jwt());
    let asked = for_a_user(Flow::SelfIssued { server, grant: SelfIssuedGrant::JwtBearer }, &idp);
    fixture.mint_for(&asked, fixture.alice(&json!({}))).await.expect("a token");
    fixture.idp.keys().rotate().expect("a key");
    fixture.mint_for(&asked, fixture.alice(&json!({}))).await.expect("a token under the next key");
}

#[tokio::test]
async fn id_jag_that_is_refused_as_replayed_is_replaced() {
    let fixture = Fixture::start().await;
    let (idp, server) = fixture.servers(&spiffe_jwt());
    let asked = grant(Flow::IdJag { idp, server });
    for _ in 0..3 {
        fixture.mint(&asked).await.expect("a token");
    }
    assert_eq!((fixture.idp.count(Leg::IdJagIssue), fixture.ras.count(Leg::IdJagRedeem)), (3, 3), "one for each");
    fixture.ras.faults().token.next(Fault::oauth_error(http::StatusCode::BAD_REQUEST, "invalid_grant"));
    fixture.mint(&asked).await.expect("a token at the second try");
    assert_eq!(fixture.idp.count(Leg::IdJagIssue), 5);
}

#[tokio::test]
async fn retry_after_of_a_busy_server_is_honoured() {
    let fixture = Fixture::start().await;
    let (_, server) = fixture.servers(&spiffe_jwt());
    let asked = grant(Flow::ClientCredentials { server: Arc::clone(&server) });
    let busy = Fault::status(http::StatusCode::SERVICE_UNAVAILABLE);
    fixture.ras.faults().token.next(busy.header(http::header::RETRY_AFTER, http::HeaderValue::from_static("7")));
    let error = fixture.mint(&asked).await.expect_err("busy");
    assert_eq!((error.fault(), error.retry_after()), (Whose::Unavailable, Some(Duration::from_secs(7))));

    let gate = Gate::default();
    fixture.ras.faults().token.next(Fault::Hold(gate.clone()));
    let hasty = Deadlines { total: Duration::from_millis(100), ..Deadlines::default() };
    let hasty = AuthorizationServer { deadlines: hasty, ..(*server).clone() };
    let error = fixture.mint(&grant(Flow::ClientCredentials { server: Arc::new(hasty) })).await.expect_err("silent");
    assert_eq!(error.kind(), "timeout");
    gate.open();

    fixture.ras.stop().await;
    let error = fixture.mint(&asked).await.expect_err("gone");
    assert_eq!((error.fault(), error.kind()), (Whose::Unavailable, "unreachable"), "{error}");
    fixture.ras.restart().await.expect("the same port");
    fixture.mint(&asked).await.expect("a token");
}

/// A pooled connection was authenticated with an earlier SVID.
#[tokio::test]
async fn rotated_svid_is_presented_on_a_new_connection() {
    let fixture = Fixture::start().await;
    let (_, server) = fixture.servers(&method(ClientAuth::SpiffeX509, Authentication::SpiffeX509));
    let asked = grant(Flow::ClientCredentials { server });
    fixture.mint(&asked).await.expect("a token");
    let connections = fixture.ras.connections();
    fixture.mint(&asked).await.expect("a token");
    assert_eq!(fixture.ras.connections(), connections, "kept while nothing has changed");
    let before = fixture.identity.current().expect("an SVID").revision;
    fixture.spire_agent.rotate().expect("another SVID");
    let _ = fixture.identity.changes().wait_for(|revision| *revision > before).await;
    fixture.mint(&asked).await.expect("a token");
    assert_eq!(fixture.ras.connections(), connections + 1);
    assert_eq!(fixture.ras.last_request().expect("a request").certificate_id.as_deref(), Some(BOT));
}

/// A client that authenticates by TLS uses the endpoint alias for it (RFC 8705 §5).
#[tokio::test]
async fn mtls_endpoint_alias_is_used_by_mtls_clients_alone() {
    let fixture = Fixture::start().await;
    let other = server(&fixture.ca, &fixture.domain, &fixture.clock).await;
    fixture.ras.patch_metadata(json!({"mtls_endpoint_aliases": {"token_endpoint": other.token_endpoint()}}));
    let (_, by_tls) = fixture.servers(&method(ClientAuth::SpiffeX509, Authentication::SpiffeX509));
    fixture.mint(&grant(Flow::ClientCredentials { server: by_tls })).await.expect_err("nobody knows us there");
    assert_eq!((other.arrivals(), fixture.ras.arrivals()), (1, 0));
    let (_, by_jwt) = fixture.servers(&spiffe_jwt());
    fixture.mint(&grant(Flow::ClientCredentials { server: by_jwt })).await.expect("a token");
    assert_eq!((other.arrivals(), fixture.ras.arrivals()), (1, 1));
}

#[tokio::test]
async fn no_request_is_sent_after_the_identity_is_withdrawn() {
    let fixture = Fixture::start().await;
    let (idp, server) = fixture.servers(&spiffe_jwt());
    let asked = grant(Flow::IdJag { idp, server });
    fixture.mint(&asked).await.expect("a token");
    let arrivals = (fixture.idp.arrivals(), fixture.ras.arrivals());
    fixture.spire_agent.withdraw();
    let _ = fixture.identity.changes().wait_for(|_| !fixture.identity.is_valid()).await;
    let error = fixture.mint(&asked).await.expect_err("no identity");
    assert_eq!((error.fault(), error.kind()), (Whose::Identity, "identity"));
    assert_eq!((fixture.idp.arrivals(), fixture.ras.arrivals()), arrivals);
    let text = fixture.registrar.encode().expect("text");
    assert!(text.contains(r#"idjag_proxy_exchanges_total{leg="id_jag",outcome="identity",server="idp"} 1"#), "{text}");
}

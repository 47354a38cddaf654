//! Exchanges that succeed, with all subjects, actors and keys.
use super::*;

#[tokio::test]
async fn agent_obtains_a_token_with_every_flow_and_authentication() {
    let fixture = Fixture::start().await;
    for method in methods() {
        let name = method.ours.method();
        let (idp, server) = fixture.servers(&method);
        let at = || Arc::clone(&server);
        let flows = [
            (Flow::ClientCredentials { server: at() }, Leg::ClientCredentials),
            (Flow::SelfIssued { server: at(), grant: SelfIssuedGrant::TokenExchange }, Leg::SelfIssued),
            (Flow::SelfIssued { server: at(), grant: SelfIssuedGrant::JwtBearer }, Leg::SelfIssued),
            (Flow::TokenExchange { server: at() }, Leg::TokenExchange),
            (Flow::JwtBearer { server: at() }, Leg::JwtBearer),
            (Flow::IdJag { idp, server: at() }, Leg::IdJagRedeem),
        ];
        for (flow, leg) in flows {
            // A public client cannot use client credentials (RFC 6749 §4.4).
            if (leg, name) == (Leg::ClientCredentials, "none") {
                continue;
            }
            let asked = grant(flow);
            let label = format!("{} with {name}", asked.flow.facts().name);
            let minted = fixture.mint(&asked).await;
            let minted =
                minted.unwrap_or_else(|error| panic!("{label}: {error}; {} {}", why(&fixture.idp), why(&fixture.ras)));
            let claims = claims(&minted);
            assert_eq!(
                (&claims["sub"], &claims["scope"], &claims["aud"]),
                (&json!(BOT), &json!("calendar:read"), &json!(API)),
                "{label}"
            );
            assert!(claims.get("act").is_none(), "{label}");
            assert_eq!(minted.scopes, ["calendar:read"]);
            assert!(minted.expires_at > fixture.clock.now());
            let request = fixture.ras.last_request().expect("a request");
            assert_eq!((request.leg, request.client.as_deref()), (leg, Some(BOT)), "{label}");
        }
    }
}

#[tokio::test]
async fn user_obtains_a_token_with_every_flow_and_authentication() {
    let fixture = Fixture::start().await;
    fixture.may_act(BOT);
    for method in methods() {
        let name = method.ours.method();
        let (idp, server) = fixture.servers(&method);
        let at = || Arc::clone(&server);
        let flows = [
            // The actor: we write it ourselves, a token names it to the server, or there is none.
            (Flow::SelfIssued { server: at(), grant: SelfIssuedGrant::TokenExchange }, None, true),
            (Flow::SelfIssued { server: at(), grant: SelfIssuedGrant::JwtBearer }, None, true),
            (Flow::IdJag { idp: Arc::clone(&idp), server: at() }, Some(ActorToken::JwtSvid), true),
            (Flow::TokenExchange { server: at() }, Some(ActorToken::JwtSvid), true),
            (Flow::JwtBearer { server: at() }, None, false),
        ];
        for (flow, actor, acts) in flows {
            let asked = GrantSpec { actor, ..for_a_user(flow, &idp) };
            let label = format!("{} with {name}", asked.flow.facts().name);
            let minted = fixture.mint_for(&asked, fixture.alice(&json!({}))).await;
            let minted =
                minted.unwrap_or_else(|error| panic!("{label}: {error}; {} {}", why(&fixture.idp), why(&fixture.ras)));
            let claims = claims(&minted);
            assert_eq!(claims["sub"], "user:alice", "{label}");
            assert_eq!(claims.get("act"), acts.then(|| json!({ "sub": BOT })).as_ref(), "{label}");
            assert!(
                minted.expires_at <= fixture.clock.now().plus(Duration::from_secs(120)),
                "not longer than alice's token"
            );
        }
    }
}

#[tokio::test]
async fn assertion_signed_with_any_kind_of_svid_is_accepted() {
    for kind in [KeyType::P256, KeyType::P384, KeyType::Rsa2048] {
        let fixture = Fixture::with_key(kind).await;
        let (_, server) = fixture.servers(&method(ClientAuth::None, Authentication::None));
        let asked = grant(Flow::SelfIssued { server, grant: SelfIssuedGrant::TokenExchange });
        let minted =
            fixture.mint(&asked).await.unwrap_or_else(|error| panic!("{kind:?}: {error}; {}", why(&fixture.ras)));
        assert_eq!(claims(&minted)["sub"], BOT);
    }
}

#[tokio::test]
async fn assertion_signed_with_a_published_key_is_accepted() {
    let fixture = Fixture::start().await;
    let issuer = "https://agents.example.com/calendar";
    for algorithm in
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256]
    {
        let pair = rcgen::KeyPair::generate_for(algorithm).expect("a key");
        let key = SigningKey::from_pem(pair.serialize_pem().as_bytes(), Some("2026-11".into())).expect("a key");
        let published = KeySource::Jwks(idjag_proxy::jose::jwks([&key]));
        let client = Client::agent(BOT, Authentication::None).scopes(&["calendar:*"]).assertions(issuer, published);
        fixture.ras.register(client);
        let server = Arc::new(fixture.described("ras", &fixture.ras, ClientAuth::None));
        let mut asked = grant(Flow::SelfIssued { server, grant: SelfIssuedGrant::TokenExchange });
        asked.assertion =
            AssertionSettings { issuer: Some(issuer.into()), key: Some(key), ..AssertionSettings::default() };
        let minted = fixture.mint(&asked).await.unwrap_or_else(|error| panic!("{error}; {}", why(&fixture.ras)));
        assert_eq!(claims(&minted)["sub"], BOT);
    }
}

/// Alice delegates to the orchestrator, and the orchestrator to this worker.
#[tokio::test]
async fn chain_of_actors_is_extended() {
    let fixture = Fixture::start().await;
    fixture.may_act("spiffe://example.org/*");
    let (idp, server) = fixture.servers(&spiffe_jwt());
    let before = json!({"act": {"sub": ORCHESTRATOR}});
    for flow in [
        Flow::SelfIssued { server: Arc::clone(&server), grant: SelfIssuedGrant::TokenExchange },
        Flow::IdJag { idp: Arc::clone(&idp), server: Arc::clone(&server) },
    ] {
        let actor = matches!(flow, Flow::IdJag { .. }).then_some(ActorToken::JwtSvid);
        let asked = GrantSpec { actor, ..for_a_user(flow, &idp) };
        let minted = fixture.mint_for(&asked, fixture.alice(&before)).await;
        let minted = minted.unwrap_or_else(|error| panic!("{error}; {} {}", why(&fixture.idp), why(&fixture.ras)));
        assert_eq!(claims(&minted)["act"], json!({"sub": BOT, "act": {"sub": ORCHESTRATOR}}));
    }
    let asked = for_a_user(Flow::SelfIssued { server, grant: SelfIssuedGrant::TokenExchange }, &idp);
    let around = fixture.alice(&json!({"act": {"sub": ORCHESTRATOR, "act": {"sub": BOT}}}));
    assert_eq!(fixture.mint_for(&asked, around).await.expect_err("a loop").kind(), "actors");
}

/// The identity provider may sign with another algorithm than the other parties.
#[tokio::test]
async fn user_token_is_verified_with_every_algorithm() {
    let fixture = Fixture::start().await;
    fixture.may_act(BOT);
    for algorithm in [JwtAlgorithm::Es256, JwtAlgorithm::Rs256] {
        let tls = ServerTls::new(fixture.ca.server_certificate(&["127.0.0.1"]).expect("a certificate"));
        let setup = Setup { tls: Some(tls), algorithm, path: "/realms/agents".into(), ..Setup::default() };
        let corp = Server::start(&setup, &fixture.clock).await.expect("a server");
        let issuer = Arc::new(fixture.described("corp", &corp, ClientAuth::None));
        let (_, server) = fixture.servers(&spiffe_jwt());
        let asked = for_a_user(Flow::SelfIssued { server, grant: SelfIssuedGrant::TokenExchange }, &issuer);
        let user = json!({"iss": corp.issuer(), "sub": "user:alice", "aud": BOT});
        let user = corp.keys().mint("JWT", Duration::from_secs(60), user).expect("a token");
        let minted =
            fixture.mint_for(&asked, user).await.unwrap_or_else(|error| panic!("{error}; {}", why(&fixture.ras)));
        assert_eq!(claims(&minted)["sub"], "user:alice");
    }
}

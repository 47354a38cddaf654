//! Tests over real sockets, with forms like those of any client.
use super::*;
use crate::dev::ca::{SvidRequest, WebCa};
use crate::dev::faults::{Fault, Gate};
use crate::dev::http::ClientCertificates;
use crate::dev::jwt;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use std::time::Duration;

const BOT: &str = "spiffe://example.org/calendar-bot";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";
const CLIENT_JWT: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// An authorization server with one registered client, and the trust domain of its clients.
struct Fixture {
    clock: Clock,
    domain: TrustDomain,
    server: AuthorizationServer,
}

impl Fixture {
    async fn start() -> Self {
        let clock = Clock::shiftable();
        let domain = TrustDomain::new("example.org", &clock).unwrap();
        let server = AuthorizationServer::start(&Setup::default(), &clock).await.unwrap();
        server.trust_domain(&domain);
        server.register(Client::agent(BOT, Authentication::None).scopes(&["calendar:*"]));
        Self { clock, domain, server }
    }

    fn may(&self, actor: &str, subject: &str) {
        let rule = Delegation { actor: actor.to_owned(), subject: subject.to_owned() };
        self.server.policy(|policy| policy.delegations.push(rule));
    }

    async fn post(&self, form: &[(&str, &str)]) -> (StatusCode, Value) {
        self.post_as(None, form).await
    }

    async fn post_as(&self, authorization: Option<&str>, form: &[(&str, &str)]) -> (StatusCode, Value) {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let mut request = Request::post(self.server.token_endpoint());
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let client = HttpClient::builder(TokioExecutor::new()).build_http();
        let response = client.request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Signs an assertion with the agent's SVID.
    fn assertion(&self, id: &str, claims: &Value) -> String {
        let svid = self.domain.x509.issue(&SvidRequest::new(id)).unwrap();
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.typ = Some("oauth-id-jag+jwt".to_owned());
        header.x5c = Some(svid.chain.iter().map(|der| STANDARD.encode(der)).collect());
        let now = self.clock.now().unix_seconds();
        let mut all = json!({
            "iss": id, "aud": self.server.issuer(), "iat": now, "exp": now + 60, "jti": format!("{}", fastrand::u64(..)),
        });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        jsonwebtoken::encode(&header, &all, &jsonwebtoken::EncodingKey::from_ec_der(&svid.key)).unwrap()
    }

    async fn exchange(&self, assertion: &str) -> (StatusCode, Value) {
        let form = [("grant_type", EXCHANGE), ("subject_token", assertion), ("subject_token_type", JWT)];
        self.post(&form).await
    }

    fn reason(&self) -> String {
        self.server.last_request().and_then(|request| request.refusal).map(|(_, reason)| reason).unwrap_or_default()
    }
}

fn claims(answer: &Value) -> Value {
    jwt::decode(answer["access_token"].as_str().unwrap()).unwrap().claims
}

#[tokio::test]
async fn agent_exchanges_its_own_assertion() {
    let fixture = Fixture::start().await;
    let assertion = fixture.assertion(BOT, &json!({ "sub": BOT }));
    let form = [
        ("grant_type", EXCHANGE),
        ("subject_token", assertion.as_str()),
        ("subject_token_type", JWT),
        ("scope", "calendar:read"),
        ("resource", "https://api.calendar.example/"),
    ];
    let (status, answer) = fixture.post(&form).await;
    assert_eq!(status, 200, "{answer}");
    let claims = claims(&answer);
    assert_eq!((&claims["sub"], &claims["scope"]), (&json!(BOT), &json!("calendar:read")));
    assert_eq!(claims["aud"], "https://api.calendar.example/");
    assert_eq!(fixture.server.count(Leg::SelfIssued), 1);
    assert_eq!(fixture.post(&form).await.1["error"], "invalid_grant", "a replay");
}

#[tokio::test]
async fn delegation_needs_permission_and_a_short_chain() {
    let fixture = Fixture::start().await;
    let alice = json!({ "sub": "user:alice", "act": { "sub": BOT } });
    let (status, answer) = fixture.exchange(&fixture.assertion(BOT, &alice)).await;
    assert_eq!((status.as_u16(), &answer["error"]), (400, &json!("access_denied")));
    fixture.may(BOT, "user:alice");
    let (_, answer) = fixture.exchange(&fixture.assertion(BOT, &alice)).await;
    assert_eq!(claims(&answer)["act"]["sub"], BOT);

    let chain =
        json!({ "sub": "user:alice", "act": { "sub": BOT, "act": { "sub": "spiffe://example.org/orchestrator" } } });
    assert_eq!(fixture.exchange(&fixture.assertion(BOT, &chain)).await.1["error"], "access_denied");
    fixture.may("spiffe://example.org/*", "user:*");
    assert_eq!(fixture.exchange(&fixture.assertion(BOT, &chain)).await.0, 200);
    fixture.server.policy(|policy| policy.max_actors = 1);
    assert_eq!(fixture.exchange(&fixture.assertion(BOT, &chain)).await.1["error"], "access_denied");
    let loops = json!({ "sub": "user:alice", "act": { "sub": BOT, "act": { "sub": BOT } } });
    fixture.server.policy(|policy| policy.max_actors = 9);
    assert_eq!(fixture.exchange(&fixture.assertion(BOT, &loops)).await.1["error"], "access_denied");
}

#[tokio::test]
async fn assertion_that_violates_a_rule_is_refused() {
    let fixture = Fixture::start().await;
    fixture.may("*", "*");
    let wrong = [
        (json!({ "sub": BOT, "aud": "https://elsewhere.example" }), "not this issuer alone"),
        (json!({ "sub": BOT, "aud": [fixture.server.issuer(), "https://elsewhere.example"] }), "not this issuer alone"),
        (json!({ "sub": BOT, "client_id": "someone" }), "issued to the client"),
        (json!({ "sub": BOT, "cnf": { "jkt": "x" } }), "bound to a key"),
        (json!({ "sub": BOT, "exp": 1000 }), "expired"),
        (json!({ "sub": "user:alice" }), "without act"),
        (json!({ "sub": "user:alice", "act": { "sub": "spiffe://example.org/other" } }), "current actor"),
        (json!({ "sub": BOT, "iss": "spiffe://example.org/other" }), "but iss is"),
    ];
    for (claims, why) in wrong {
        let (status, answer) = fixture.exchange(&fixture.assertion(BOT, &claims)).await;
        assert_eq!((status.as_u16(), &answer["error"]), (400, &json!("invalid_grant")), "{why}");
        assert!(fixture.reason().contains(why), "{why}: {}", fixture.reason());
    }
    let stranger =
        fixture.assertion("spiffe://example.org/stranger", &json!({ "sub": "spiffe://example.org/stranger" }));
    assert_eq!(fixture.exchange(&stranger).await.1["error"], "invalid_grant");
    assert!(fixture.reason().contains("not registered"));
}

#[tokio::test]
async fn id_jag_of_one_server_is_redeemed_at_another() {
    let fixture = Fixture::start().await;
    let idp = &fixture.server;
    let resource = AuthorizationServer::start(&Setup::default(), &fixture.clock).await.unwrap();
    resource.register(Client::new("bot-there", Authentication::SecretPost("s".into())).scopes(&["calendar:read"]));
    resource.trust_issuer(TrustedIssuer {
        issuer: idp.issuer().to_owned(),
        keys: KeySource::Url(idp.jwks_uri()),
        id_jags: true,
        user_tokens: false,
    });
    let audience = IdJagAudience {
        issuer: resource.issuer().to_owned(),
        client_ids: vec![(BOT.to_owned(), "bot-there".to_owned())],
    };
    idp.policy(|policy| policy.id_jag_audiences.push(audience));
    idp.register(Client::agent(BOT, Authentication::SpiffeJwt).scopes(&["calendar:*"]));
    fixture.may(BOT, "alice");
    let user = json!({ "iss": idp.issuer(), "sub": "alice", "aud": BOT });
    let user = idp.keys().mint("JWT", Duration::from_secs(60), user).unwrap();
    let svid = fixture.domain.jwt.jwt_svid(BOT, &[idp.issuer().to_owned()], Duration::from_secs(60)).unwrap();
    let (_, leg1) = fixture
        .post(&[
            ("grant_type", EXCHANGE),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:id-jag"),
            ("audience", resource.issuer()),
            ("resource", "https://api.calendar.example/"),
            ("scope", "calendar:read"),
            ("subject_token", &user),
            ("subject_token_type", ID_TOKEN),
            ("actor_token", &svid),
            ("actor_token_type", JWT),
            ("client_id", BOT),
            ("client_assertion_type", JWT_SPIFFE),
            ("client_assertion", &svid),
        ])
        .await;
    assert_eq!(leg1["token_type"], "N_A", "{leg1} {}", fixture.reason());
    let id_jag = claims(&leg1);
    assert_eq!((&id_jag["client_id"], &id_jag["act"]["sub"]), (&json!("bot-there"), &json!(BOT)));

    let rig2 = Fixture { clock: fixture.clock.clone(), domain: fixture.domain.clone(), server: resource };
    let assertion = leg1["access_token"].as_str().unwrap();
    let form = [("grant_type", BEARER), ("assertion", assertion), ("client_id", "bot-there"), ("client_secret", "s")];
    let (_, leg2) = rig2.post(&form).await;
    assert_eq!(claims(&leg2)["sub"], "alice", "{leg2}");
    assert_eq!(leg2["resource"], json!(["https://api.calendar.example/"]));
    rig2.server.register(Client::new("other", Authentication::SecretPost("s".into())).scopes(&["calendar:read"]));
    let stolen = [form[0], form[1], ("client_id", "other"), form[3]];
    assert_eq!(rig2.post(&stolen).await.1["error"], "invalid_grant");
    assert!(rig2.reason().contains("issued to the client"));
    assert_eq!(rig2.post(&form).await.1["error"], "invalid_grant", "a replay");
    let as_grant = [form[0], ("assertion", user.as_str()), form[2], form[3]];
    assert_eq!(rig2.post(&as_grant).await.1["error"], "invalid_grant", "an ID token is not an ID-JAG");
}

#[tokio::test]
async fn client_authentication_is_checked_for_every_method() {
    let fixture = Fixture::start().await;
    let issuer = fixture.server.issuer().to_owned();
    let credentials = ("grant_type", "client_credentials");
    // client_secret_basic, with an id that has to be form-encoded.
    fixture.server.register(Client::agent(BOT, Authentication::SecretBasic("p:w d".into())).scopes(&["a"]));
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let field = |id: &str, secret: &str| format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
    let good = field(&encoded(BOT), &encoded("p:w d"));
    assert_eq!(fixture.post_as(Some(&good), &[credentials]).await.0, 200);
    assert_eq!(fixture.post_as(Some(&field(BOT, "p:w d")), &[credentials]).await.0, 401, "not form-encoded");
    let twice = [credentials, ("client_id", BOT), ("client_secret", "p:w d")];
    assert_eq!(fixture.post_as(Some(&good), &twice).await.1["error"], "invalid_request", "two methods");
    // spiffe_jwt
    fixture.server.register(Client::agent(BOT, Authentication::SpiffeJwt).scopes(&["a"]));
    let minute = Duration::from_secs(60);
    let svid = |audience: &[String]| fixture.domain.jwt.jwt_svid(BOT, audience, minute).unwrap();
    assert_eq!(fixture.spiffe(JWT_SPIFFE, &svid(std::slice::from_ref(&issuer))).await, 200);
    assert_eq!(fixture.spiffe(JWT_SPIFFE, &svid(&[issuer.clone(), "https://b".into()])).await, 401, "another audience");
    assert_eq!(fixture.spiffe(CLIENT_JWT, &svid(std::slice::from_ref(&issuer))).await, 401, "another assertion type");
    fixture.server.register(Client::agent(BOT, Authentication::JwtSvidBearer).scopes(&["a"]));
    assert_eq!(fixture.spiffe(CLIENT_JWT, &svid(std::slice::from_ref(&issuer))).await, 200);
    // private_key_jwt
    let keys = JwtAuthority::new(JwtAlgorithm::Rs256, &fixture.clock).unwrap();
    let method = Authentication::PrivateKeyJwt(KeySource::Authority(keys.clone()));
    fixture.server.register(Client::new("k", method).scopes(&["a"]));
    let mint = |claims: Value| keys.mint("client-authentication+jwt", minute, claims).unwrap();
    let good = mint(json!({ "iss": "k", "sub": "k", "aud": issuer }));
    assert_eq!(fixture.spiffe(CLIENT_JWT, &good).await, 200);
    assert_eq!(fixture.spiffe(CLIENT_JWT, &good).await, 401, "a replayed jti");
    let endpoint = mint(json!({ "iss": "k", "sub": "k", "aud": fixture.server.token_endpoint() }));
    assert_eq!(fixture.spiffe(CLIENT_JWT, &endpoint).await, 401, "the token endpoint as audience");
    assert_eq!(
        fixture.spiffe(CLIENT_JWT, &mint(json!({ "iss": "z", "sub": "k", "aud": issuer }))).await,
        401,
        "another issuer"
    );
}

impl Fixture {
    async fn spiffe(&self, kind: &str, assertion: &str) -> u16 {
        let form =
            [("grant_type", "client_credentials"), ("client_assertion_type", kind), ("client_assertion", assertion)];
        self.post(&form).await.0.as_u16()
    }
}

#[tokio::test]
async fn metadata_and_keys_are_served_and_faults_injected() {
    let fixture = Fixture::start().await;
    let url = format!("{}/.well-known/oauth-authorization-server", fixture.server.issuer());
    let client = HttpClient::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let fetch = |url: String| {
        let client = client.clone();
        async move {
            let response = client.get(url.parse().unwrap()).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            serde_json::from_slice::<Value>(&body).unwrap_or_default()
        }
    };
    assert_eq!(fetch(url.clone()).await["issuer"], fixture.server.issuer());
    fixture.server.patch_metadata(json!({ "issuer": "https://evil.example", "jwks_uri": null }));
    let patched = fetch(url).await;
    assert_eq!((&patched["issuer"], patched.get("jwks_uri")), (&json!("https://evil.example"), None));
    fixture.server.faults().jwks.next(Fault::status(StatusCode::BAD_GATEWAY));
    assert_eq!(fetch(fixture.server.jwks_uri()).await, Value::Null);
    assert_eq!(fetch(fixture.server.jwks_uri()).await, fixture.server.keys().jwks());

    fixture.server.faults().token.next(Fault::Patch(json!({ "token_type": "mac", "expires_in": null })));
    let (_, answer) = fixture.exchange(&fixture.assertion(BOT, &json!({ "sub": BOT }))).await;
    assert_eq!((&answer["token_type"], answer.get("expires_in")), (&json!("mac"), None));
    let gate = Gate::default();
    fixture.server.faults().token.next(Fault::Hold(gate.clone()));
    let assertion = fixture.assertion(BOT, &json!({ "sub": BOT }));
    let (answer, ()) = tokio::join!(fixture.exchange(&assertion), async {
        gate.wait_for_arrivals(1).await;
        gate.open();
    });
    assert_eq!(answer.0, 200);
    fixture.server.stop().await;
    fixture.server.restart().await.unwrap();
    assert_eq!(fixture.exchange(&fixture.assertion(BOT, &json!({ "sub": BOT }))).await.0, 200);
}

#[tokio::test]
async fn client_certificate_authenticates() {
    let clock = Clock::system();
    let domain = TrustDomain::new("example.org", &clock).unwrap();
    let ca = WebCa::new(&clock).unwrap();
    let tls = ServerTls::new(ca.server_certificate(&["127.0.0.1"]).unwrap())
        .clients(ClientCertificates::Optional(domain.x509.bundle()));
    let setup = Setup { tls: Some(tls), ..Setup::default() };
    let server = AuthorizationServer::start(&setup, &clock).await.unwrap();
    server.trust_domain(&domain);
    server.register(Client::agent(BOT, Authentication::SpiffeX509).scopes(&["a"]));
    for (id, expected) in [(BOT, 200), ("spiffe://example.org/other", 401)] {
        let svid = domain.x509.issue(&SvidRequest::new(id)).unwrap();
        let form = format!("grant_type=client_credentials&client_id={BOT}");
        assert_eq!(post_by_tls(&server, &ca, &svid, &form).await, expected, "{id}");
    }
    assert_eq!(server.last_request().unwrap().certificate_id.unwrap(), "spiffe://example.org/other");
}

async fn post_by_tls(server: &AuthorizationServer, ca: &WebCa, svid: &crate::dev::ca::Svid, form: &str) -> u16 {
    use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.certificate()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(svid.chain.clone(), PrivatePkcs8KeyDer::from(svid.key.clone()).into())
        .unwrap();
    let stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = hyper_util::rt::TokioIo::new(connector.connect(name, stream).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    let request = Request::post("/token").body(Full::new(Bytes::from(form.to_owned()))).unwrap();
    let exchange = async { sender.send_request(request).await.unwrap().status().as_u16() };
    tokio::select! {
        status = exchange => status,
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

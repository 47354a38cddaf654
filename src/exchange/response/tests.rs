use super::*;
use crate::exchange::error::ExchangeError;
use crate::exchange::testing;
use crate::issuer::Fault;
use crate::jose::SigningKey;
use crate::jose::vectors::es256_pkcs8;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde_json::json;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_767_225_600);
const RAS: &str = "https://as.chat.example";

fn answer(status: u16, body: &str) -> Answer {
    let status = StatusCode::from_u16(status).expect("a status");
    Answer { status, headers: HeaderMap::new(), body: Bytes::from(body.to_owned()) }
}

/// Reads the answer to a request for the scope `requested`.
fn read(answer: &Answer, expected: Expected<'_>) -> Result<IssuedToken, Failure> {
    token(answer, expected, NOW, &["requested".to_owned()])
}

fn read_with(changes: &Value) -> Result<IssuedToken, Failure> {
    let mut body = json!({"access_token": "t0ken", "token_type": "Bearer", "expires_in": 60});
    for (name, value) in changes.as_object().expect("members") {
        body[name] = value.clone();
    }
    read(&answer(200, &body.to_string()), Expected::AccessToken(TokenResponse::OAuth))
}

fn unusable(result: &Result<IssuedToken, Failure>) -> bool {
    matches!(result, Err(Failure::Issuer(IssuerError::Response(_))))
}

fn signed(typ: &str, claims: &Value) -> String {
    SigningKey::from_pkcs8_der(&es256_pkcs8(), None, None).expect("a key").sign(typ, claims).expect("a signature")
}

#[test]
fn success_needs_200_and_an_object_with_all_members() {
    let good = read_with(&json!({})).expect("good");
    assert_eq!((good.token.expose(), good.expires_at), ("t0ken", NOW.plus(Duration::from_secs(60))));
    for (status, body) in [
        (201, r#"{"access_token":"t","token_type":"Bearer"}"#),
        (204, ""),
        (302, r#"{"access_token":"t","token_type":"Bearer"}"#),
        (200, ""),
        (200, "<html>"),
        (200, r#"["t"]"#),
        (200, r#"{"access_token":"t","access_token":"u","token_type":"Bearer"}"#),
        (200, r#"{"token_type":"Bearer"}"#),
        (200, r#"{"access_token":"t"}"#),
        (200, r#"{"access_token":"","token_type":"Bearer"}"#),
        (200, r#"{"access_token":{"a":1},"token_type":"Bearer"}"#),
    ] {
        assert!(unusable(&read(&answer(status, body), Expected::AccessToken(TokenResponse::OAuth))), "{status} {body}");
    }
}

#[test]
fn access_token_must_be_a_bearer_token() {
    for typ in ["bearer", "BEARER", "Bearer"] {
        assert!(read_with(&json!({ "token_type": typ })).is_ok());
    }
    for typ in [json!("DPoP"), json!("N_A"), json!("mac"), json!("Bearer "), json!(1)] {
        assert!(unusable(&read_with(&json!({ "token_type": typ }))));
    }
}

#[test]
fn access_token_must_be_a_token68() {
    for good in ["a", "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU", "a+/==", "eyJ.eyJ.x"] {
        assert!(read_with(&json!({ "access_token": good })).is_ok(), "{good}");
    }
    for bad in
        ["a b", "a\r\nx-admin: 1", "a\n", "a\u{0}", "ü", "=", "a=b", "a,b", "\"a\"", &"a".repeat(MAX_ACCESS_TOKEN + 1)]
    {
        assert!(unusable(&read_with(&json!({ "access_token": bad }))), "{bad}");
    }
}

#[test]
fn expires_in_accepts_numbers_fractions_and_text() {
    for (expires_in, seconds) in [
        (json!(null), 300),
        (json!(3600), 3600),
        (json!(59.9), 59),
        (json!("3600"), 3600),
        (json!(1e40), 86_400),
        (json!(u64::MAX), 86_400),
    ] {
        let issued = read_with(&json!({ "expires_in": expires_in })).expect("a lifetime");
        assert_eq!(issued.expires_at, NOW.plus(Duration::from_secs(seconds)), "{expires_in}");
    }
    let absent = read(
        &answer(200, r#"{"access_token":"t","token_type":"Bearer"}"#),
        Expected::AccessToken(TokenResponse::OAuth),
    );
    assert_eq!(absent.expect("a default").expires_at, NOW.plus(DEFAULT_LIFETIME));
    for over in [json!(0), json!(-1), json!(-1e40), json!(0.5), json!("0")] {
        assert_eq!(read_with(&json!({ "expires_in": over })).err(), Some(Failure::Expired), "{over}");
    }
    for nonsense in [json!("soon"), json!("-5"), json!(""), json!(true), json!([60]), json!({})] {
        assert!(unusable(&read_with(&json!({ "expires_in": nonsense }))), "{nonsense}");
    }
}

#[test]
fn exp_of_the_token_counts_if_it_is_earlier() {
    let at = |seconds| json!({ "access_token": signed("at+jwt", &json!({ "exp": NOW.unix_seconds() + seconds })) });
    assert_eq!(read_with(&at(30)).expect("good").expires_at, NOW.plus(Duration::from_secs(30)));
    assert_eq!(read_with(&at(3600)).expect("good").expires_at, NOW.plus(Duration::from_secs(60)));
    for exp in [json!("soon"), json!(-5), json!(null)] {
        let token = signed("at+jwt", &json!({ "exp": exp }));
        assert_eq!(
            read_with(&json!({ "access_token": token })).expect("opaque").expires_at,
            NOW.plus(Duration::from_secs(60))
        );
    }
}

#[test]
fn granted_scopes_are_sorted_and_checked() {
    let scopes = |scope: Value| read_with(&json!({ "scope": scope })).expect("good").scopes;
    assert_eq!(scopes(json!("b a  b")), ["a", "b"]);
    assert!(scopes(json!("")).is_empty());
    assert_eq!(scopes(json!(null)), ["requested"]);
    assert_eq!(read_with(&json!({})).expect("good").scopes, ["requested"]);
    for scope in [json!(["a"]), json!("a\"b"), json!("a\\b"), json!("a\tb"), json!("ä")] {
        assert!(unusable(&read_with(&json!({ "scope": scope }))));
    }
}

#[test]
fn exchanged_token_needs_an_issued_token_type() {
    let exchanged = |issued: &Value| {
        let body = json!({"access_token": "t", "token_type": "Bearer", "issued_token_type": issued});
        read(&answer(200, &body.to_string()), Expected::AccessToken(TokenResponse::TokenExchange))
    };
    for issued in [ACCESS_TOKEN_TYPE, JWT_TYPE] {
        assert!(exchanged(&json!(issued)).is_ok());
    }
    for issued in [
        json!(null),
        json!("access_token"),
        json!("urn:ietf:params:oauth:token-type:refresh_token"),
        json!(ID_JAG_TYPE),
    ] {
        assert!(unusable(&exchanged(&issued)));
    }
}

fn id_jag(members: &Value, typ: &str, claims: &Value) -> Result<IssuedToken, Failure> {
    let mut own = json!({"iss": "https://idp", "sub": "alice", "aud": RAS, "exp": NOW.unix_seconds() + 120});
    for (name, value) in claims.as_object().expect("claims") {
        own[name] = value.clone();
    }
    let mut body = json!({"access_token": signed(typ, &own), "token_type": "N_A", "issued_token_type": ID_JAG_TYPE});
    for (name, value) in members.as_object().expect("members") {
        body[name] = value.clone();
    }
    read(&answer(200, &body.to_string()), Expected::IdJag { audience: RAS })
}

#[test]
fn id_jag_must_have_its_types_and_the_audience() {
    let none = &json!({});
    let typ = "oauth-id-jag+jwt";
    assert_eq!(id_jag(none, typ, none).expect("good").expires_at, NOW.plus(Duration::from_secs(120)));
    assert!(id_jag(&json!({"token_type": "n_a"}), "application/oauth-id-jag+jwt", &json!({"aud": [RAS]})).is_ok());
    // `issued_token_type` is exact.
    for issued in
        [json!(null), json!(ACCESS_TOKEN_TYPE), json!(JWT_TYPE), json!("URN:ietf:params:oauth:token-type:id-jag")]
    {
        assert!(unusable(&id_jag(&json!({ "issued_token_type": issued }), typ, none)));
    }
    // The server ignored `requested_token_type`.
    assert!(unusable(&id_jag(&json!({"token_type": "Bearer"}), typ, none)));
    // `typ`, `aud` and `exp` of the ID-JAG.
    assert!(unusable(&id_jag(none, "JWT", none)));
    for aud in [
        json!("https://as.chat.example/"),
        json!([RAS, "https://other"]),
        json!([]),
        json!(null),
        json!("https://other"),
    ] {
        assert!(unusable(&id_jag(none, typ, &json!({ "aud": aud }))), "{aud}");
    }
    assert!(unusable(&id_jag(none, typ, &json!({"exp": null}))));
    assert!(unusable(&id_jag(&json!({"access_token": "opaque"}), typ, none)));
}

fn sent(secrets: &[&str]) -> SentRequest {
    SentRequest { secrets: secrets.iter().map(|secret| (*secret).to_owned()).collect(), delegated: false }
}

fn refused(status: u16, body: &str) -> Option<ExchangeError> {
    oauth_error(&answer(status, body), &sent(&[])).map(|error| ExchangeError::new("as", Failure::Refused(error)))
}

#[test]
fn error_is_classified_by_its_code_and_not_by_its_status() {
    for (code, fault) in [
        ("invalid_grant", Fault::Agent),
        ("access_denied", Fault::Agent),
        ("invalid_scope", Fault::Agent),
        ("invalid_target", Fault::Agent),
        ("insufficient_user_authentication", Fault::Agent),
        ("invalid_client", Fault::Operator),
        ("unauthorized_client", Fault::Operator),
        ("unsupported_grant_type", Fault::Operator),
        ("invalid_request", Fault::Operator),
        ("what_is_this", Fault::Operator),
        ("temporarily_unavailable", Fault::Unavailable),
    ] {
        for status in [400, 401, 403] {
            let error = refused(status, &json!({ "error": code }).to_string()).expect("an error");
            assert_eq!((error.fault(), error.oauth_code(), error.kind()), (fault, Some(code), "refused"), "{code}");
        }
    }
    let delegated =
        oauth_error(&answer(400, r#"{"error":"invalid_request"}"#), &SentRequest { delegated: true, ..sent(&[]) })
            .expect("an error");
    assert_eq!(
        ExchangeError::new("as", Failure::Refused(delegated)).fault(),
        Fault::Agent,
        "`invalid_request` may mean that the subject token is invalid (RFC 8693 §2.2.2)"
    );
    let later = refused(400, r#"{"error":"temporarily_unavailable"}"#).expect("an error");
    assert!(later.advice().contains("Try again later") && later.negative_ttl().as_secs() <= 5);
    let permanent = refused(400, r#"{"error":"invalid_client"}"#).expect("an error").negative_ttl();
    assert!((10..=30).contains(&permanent.as_secs()));
}

#[test]
fn body_that_is_not_an_oauth_error_is_not_a_refusal() {
    for body in
        ["", "<html>", "[]", "{}", r#"{"error":7}"#, r#"{"error":""}"#, r#"{"error":"a b"}"#, "{\"error\":\"a\\nb\"}"]
    {
        assert_eq!(refused(400, body), None, "{body}");
    }
    assert_eq!(refused(400, &json!({ "error": "a".repeat(65) }).to_string()), None);
    assert_eq!(refused(200, r#"{"error":"invalid_grant"}"#), None);
}

#[test]
fn description_is_logged_without_credentials() {
    let long = format!("eyJ{}", "a".repeat(60));
    let body = json!({
        "error": "invalid_grant",
        "error_description": format!("no\r\n\u{1b}[31m: hunter2-canary or {long} of user {}", "word ".repeat(200)),
    });
    let error = oauth_error(&answer(400, &body.to_string()), &sent(&["hunter2-canary"])).expect("an error");
    let error = ExchangeError::new("as", Failure::Refused(error));
    let (log, advice) = (error.to_string(), error.advice());
    assert!(log.contains("invalid_grant: no   [31m: [redacted] or [redacted] of user word"), "{log}");
    assert!(!log.contains(char::is_control) && log.len() < 400);
    assert!(!advice.contains("word") && advice.contains("invalid_grant"), "{advice}");
    assert!(!format!("{error:?}").contains("canary"));
}

/// The tests above parse answers directly; here the answer comes from a server.
#[tokio::test]
async fn error_keeps_its_kind_through_a_socket() {
    for (status, body, kind) in [
        (400, r#"{"error":"invalid_scope"}"#, "refused"),
        (400, "nope", "response"),
        (302, "", "response"),
        (500, r#"{"error":"invalid_scope"}"#, "busy"),
        (200, "{}", "response"),
        (200, r#"{"access_token":"t","token_type":"Bearer","expires_in":0}"#, "expired"),
    ] {
        let server = testing::ScriptedServer::start(move |_| testing::json(status, body)).await;
        let fixture = testing::Fixture::new(None);
        let error = fixture.mint(&testing::client_credentials(server.described())).await.expect_err("no token");
        assert_eq!(error.kind(), kind, "{error}");
    }
}

proptest::proptest! {
    /// A header can carry any token that is accepted, and its lifetime is at most a day.
    #[test]
    fn hostile_answers_never_panic(body in ".{0,300}", text in ".{0,60}", number in proptest::num::f64::ANY) {
        for value in [json!(text), json!(number), json!([text]), Value::Null] {
            for name in ["access_token", "token_type", "expires_in", "scope", "issued_token_type", "error", "error_description"] {
                if let Ok(issued) = read_with(&json!({ name: value })) {
                    let header = format!("Bearer {}", issued.token.expose());
                    proptest::prop_assert!(HeaderValue::try_from(header).is_ok());
                    proptest::prop_assert!(issued.expires_at <= NOW.plus(MAX_LIFETIME));
                }
                let error = json!({"error": "invalid_grant", name: value}).to_string();
                if let Some(error) = refused(400, &error) {
                    proptest::prop_assert!(!error.to_string().contains(char::is_control));
                    proptest::prop_assert!(!error.advice().contains(char::is_control));
                }
            }
        }
        let _ = read(&answer(200, &body), Expected::AccessToken(TokenResponse::TokenExchange));
        let _ = refused(400, &body);
    }
}

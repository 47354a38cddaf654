use super::*;
use crate::jose::SigningKey;
use crate::jose::vectors::{self, C3, CHAINING, EDDSA_KEY, ES256_KEY, T0, es256_pkcs8, key_set};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

const AUDIENCE: &str = "https://as.chat.example";

fn now() -> Timestamp {
    Timestamp::from_unix_seconds(T0 + 10)
}

fn keys() -> KeySet {
    key_set(&[("k", ES256_KEY), ("ed", EDDSA_KEY)])
}

fn claims() -> Value {
    json!({"iss": "https://idp", "sub": "alice", "aud": AUDIENCE, "iat": T0, "exp": T0 + 300})
}

/// A token with this `typ` and these claims, signed with the key `k`.
fn signed(typ: &str, claims: &Value) -> String {
    SigningKey::from_pkcs8_der(&es256_pkcs8(), Some("k".into()), None)
        .expect("a key")
        .sign(typ, claims)
        .expect("a signature")
}

fn check_as(kind: TokenKind, token: &str) -> Result<Verified, InvalidToken> {
    let audiences = [AUDIENCE.to_owned()];
    let rules = Rules { kind, issuer: "https://idp", audiences: &audiences, leeway: Duration::from_secs(30) };
    verify(token, &keys(), &rules, now())
}

fn check(token: &str) -> Option<InvalidToken> {
    check_as(TokenKind::IdToken, token).err()
}

fn check_with_claim(name: &str, value: Value) -> Option<InvalidToken> {
    let mut changed = claims();
    changed[name] = value;
    check(&signed("JWT", &changed))
}

#[test]
fn example_of_the_chaining_draft_is_valid_under_its_key() {
    let audiences = ["https://as.b.example/auth".to_owned()];
    let mut rules = Rules {
        kind: TokenKind::Jwt,
        issuer: "https://as.a.example/auth",
        audiences: &audiences,
        leeway: Duration::ZERO,
    };
    let keys = key_set(&[("2813308004", vectors::CHAINING_KEY)]);
    let at = Timestamp::from_unix_seconds(1_695_287_700);
    assert_eq!(verify(CHAINING, &keys, &rules, at).expect("valid").subject, "johndoe@a.example");
    assert_eq!(
        verify(CHAINING, &keys, &rules, Timestamp::from_unix_seconds(1_695_287_752)).err(),
        Some(InvalidToken::Expired)
    );
    rules.kind = TokenKind::AccessToken;
    assert_eq!(verify(CHAINING, &keys, &rules, at).err(), Some(InvalidToken::Typ));

    // RFC 7515 A.3 and RFC 8037 A.4 sign payloads that are not claims sets: the signature is valid,
    // and the claims are not.
    rules.kind = TokenKind::Jwt;
    let keys = key_set(&[("es256", ES256_KEY), ("eddsa", EDDSA_KEY)]);
    assert_eq!(verify(vectors::ES256_JWS, &keys, &rules, at).err(), Some(InvalidToken::Issuer));
    let parts = vectors::EDDSA_JWS.rsplit_once('.').expect("parts");
    let signature = URL_SAFE_NO_PAD.decode(parts.1).expect("base64url");
    assert_eq!(keys.check("EdDSA", None, parts.0.as_bytes(), &signature), Ok(()));
}

#[test]
fn token_of_another_kind_is_refused() {
    let keys = key_set(&[("idp-1", ES256_KEY), ("idp-2", EDDSA_KEY), ("client-1", ES256_KEY), ("td-jwt-1", ES256_KEY)]);
    let audiences = [AUDIENCE.to_owned()];
    for kind in [TokenKind::IdToken, TokenKind::AccessToken, TokenKind::Jwt] {
        let rules = Rules { kind, issuer: "https://idp.acme.example", audiences: &audiences, leeway: Duration::ZERO };
        for token in [vectors::C1, vectors::C2, vectors::C4, vectors::WIT] {
            assert_eq!(verify(token, &keys, &rules, now()).err(), Some(InvalidToken::Typ));
        }
        assert_eq!(
            verify(C3, &keys, &rules, now()).err(),
            Some(InvalidToken::Claim("iss")),
            "a JWT-SVID has no issuer"
        );
    }
    // Their signatures are valid: only the kind was wrong.
    let wit = key_set(&[("June 5", vectors::WIT_KEY)]);
    let token = Unverified::parse(vectors::WIT).expect("a JWS");
    assert_eq!(wit.check("ES256", Some("June 5"), token.signing_input.as_bytes(), &token.signature), Ok(()));
    for (token, kid, alg) in
        [(vectors::C1, "idp-1", "ES256"), (vectors::C2, "idp-2", "EdDSA"), (vectors::C4, "client-1", "ES256")]
    {
        let token = Unverified::parse(token).expect("a JWS");
        assert_eq!(keys.check(alg, Some(kid), token.signing_input.as_bytes(), &token.signature), Ok(()));
    }
}

#[test]
fn valid_token_passes_and_a_changed_one_is_refused() {
    let token = signed("JWT", &claims());
    let verified = check_as(TokenKind::IdToken, &token).expect("valid");
    assert_eq!((verified.subject.as_str(), verified.expires_at), ("alice", Timestamp::from_unix_seconds(T0 + 300)));
    let (rest, signature) = token.rsplit_once('.').expect("parts");
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    bytes[40] ^= 1;
    assert_eq!(check(&format!("{rest}.{}", URL_SAFE_NO_PAD.encode(&bytes))), Some(InvalidToken::Signature));
    // The DER form of an ECDSA signature is not JWS's (RFC 7518 §3.4).
    bytes[40] ^= 1;
    let integer = |part: &[u8]| [&[2, 33, 0], part].concat();
    let both = [integer(&bytes[..32]), integer(&bytes[32..])].concat();
    let der = [vec![0x30, u8::try_from(both.len()).expect("short")], both].concat();
    assert_eq!(check(&format!("{rest}.{}", URL_SAFE_NO_PAD.encode(der))), Some(InvalidToken::Signature));
    // Somebody else's claims under this signature.
    let mut other = claims();
    other["sub"] = json!("mallory");
    let forged = format!(
        "{}.{}.{signature}",
        rest.split('.').next().expect("a header"),
        URL_SAFE_NO_PAD.encode(other.to_string())
    );
    assert_eq!(check(&forged), Some(InvalidToken::Signature));
}

fn with_header(header: &Value) -> Option<InvalidToken> {
    let input =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims().to_string()));
    let pair = aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &es256_pkcs8(),
    );
    let signature =
        pair.expect("a key").sign(&aws_lc_rs::rand::SystemRandom::new(), input.as_bytes()).expect("a signature");
    check(&format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[test]
fn header_cannot_choose_what_the_key_does_not_allow() {
    assert_eq!(with_header(&json!({"alg": "ES256", "kid": "k"})), None);
    assert_eq!(with_header(&json!({"alg": "ES256"})), None, "one key of the set takes ES256");
    for alg in ["none", "None", "HS256", "RS256", "ES384", "EdDSA", "Ed25519"] {
        assert_eq!(with_header(&json!({"alg": alg, "kid": "k"})), Some(InvalidToken::Algorithm), "{alg}");
    }
    assert_eq!(with_header(&json!({"kid": "k"})), Some(InvalidToken::Algorithm));
    assert_eq!(with_header(&json!({"alg": "ES256", "kid": "x"})), Some(InvalidToken::UnknownKey));
    assert_eq!(
        with_header(&json!({"alg": "ES256", "kid": 7})),
        Some(InvalidToken::Malformed("has a `kid` that is not a string"))
    );
    assert_eq!(
        with_header(&json!({"alg": "ES256", "kid": "k", "crit": ["exp"], "exp": 1})),
        Some(InvalidToken::Critical)
    );
    assert_eq!(
        with_header(&json!({"alg": "ES256", "kid": "k", "b64": false})),
        Some(InvalidToken::Malformed("has an unencoded payload"))
    );
    // A key in the header proves nothing: it is ignored, and the key that `kid` names decides.
    let jwk: Value = serde_json::from_str(EDDSA_KEY).expect("a JWK");
    assert_eq!(with_header(&json!({"alg": "EdDSA", "kid": "ed", "jwk": jwk})), Some(InvalidToken::Signature));
}

#[test]
fn hmac_with_the_public_key_is_refused() {
    let jwk: Value = serde_json::from_str(ES256_KEY).expect("a JWK");
    let public = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().expect("x")).expect("base64url");
    let input = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"k"}"#),
        URL_SAFE_NO_PAD.encode(claims().to_string())
    );
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &public);
    let tag = aws_lc_rs::hmac::sign(&key, input.as_bytes());
    assert_eq!(check(&format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag))), Some(InvalidToken::Algorithm));
}

#[test]
fn kid_shared_by_keys_of_different_kinds_is_accepted() {
    let shared = key_set(&[("k", EDDSA_KEY), ("k", ES256_KEY)]);
    let audiences = [AUDIENCE.to_owned()];
    let rules = Rules {
        kind: TokenKind::IdToken,
        issuer: "https://idp",
        audiences: &audiences,
        leeway: Duration::from_secs(30),
    };
    assert_eq!(verify(&signed("JWT", &claims()), &shared, &rules, now()).expect("valid").subject, "alice");
    assert_eq!(shared.check("EdDSA", Some("k"), b"x", &[0; 64]), Err(InvalidToken::Signature));
    assert_eq!(shared.check("RS256", Some("k"), b"x", &[0; 64]), Err(InvalidToken::Algorithm));
    assert_eq!(shared.check("ES256", Some("other"), b"x", &[0; 64]), Err(InvalidToken::UnknownKey));
}

#[test]
fn ambiguous_key_and_narrowed_algorithm_are_refused() {
    let two = key_set(&[("a", ES256_KEY), ("b", vectors::CHAINING_KEY)]);
    let refused = |kid| two.check("ES256", kid, b"x", &[0; 64]);
    assert_eq!(refused(None), Err(InvalidToken::AmbiguousKey));
    assert_eq!(refused(Some("a")), Err(InvalidToken::Signature));
    let twice = key_set(&[("a", ES256_KEY), ("a", vectors::CHAINING_KEY)]);
    assert_eq!(twice.check("ES256", Some("a"), b"x", &[0; 64]), Err(InvalidToken::AmbiguousKey));
    let mut jwk: Value = serde_json::from_str(ES256_KEY).expect("a JWK");
    jwk.as_object_mut().expect("an object").remove("d");
    jwk["kid"] = json!("k");
    jwk["alg"] = json!("ES384");
    let narrowed = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).expect("a set");
    assert_eq!(narrowed.check("ES256", Some("k"), b"x", &[0; 64]), Err(InvalidToken::Algorithm));
}

#[test]
fn typ_must_match_the_kind() {
    use TokenKind::{AccessToken, IdToken, Jwt};
    for (typ, kinds) in [
        ("JWT", vec![IdToken, AccessToken, Jwt]),
        ("application/jwt", vec![IdToken, AccessToken, Jwt]),
        ("at+jwt", vec![AccessToken]),
        ("application/at+jwt", vec![AccessToken]),
        ("oauth-id-jag+jwt", vec![]),
        ("logout+jwt", vec![]),
        ("", vec![]),
    ] {
        for kind in [IdToken, AccessToken, Jwt] {
            assert_eq!(check_as(kind, &signed(typ, &claims())).is_ok(), kinds.contains(&kind), "{typ} as {kind:?}");
        }
    }
}

#[test]
fn issuer_and_audience_compare_as_strings() {
    assert_eq!(check_with_claim("iss", json!("https://idp/")), Some(InvalidToken::Issuer));
    assert_eq!(check_with_claim("iss", json!("HTTPS://IDP")), Some(InvalidToken::Issuer));
    assert_eq!(check_with_claim("iss", json!(null)), Some(InvalidToken::Claim("iss")));
    assert_eq!(check_with_claim("aud", json!([AUDIENCE])), None);
    for aud in [json!("https://as.chat.example/"), json!([]), json!("")] {
        assert_eq!(check_with_claim("aud", aud), Some(InvalidToken::Audience));
    }
    for aud in [json!(null), json!(7), json!([AUDIENCE, 7]), json!({"aud": AUDIENCE})] {
        assert_eq!(check_with_claim("aud", aud), Some(InvalidToken::Claim("aud")));
    }
    assert_eq!(check_with_claim("sub", json!("")), Some(InvalidToken::Claim("sub")));
}

#[test]
fn id_token_for_several_audiences_is_accepted_only_if_it_was_issued_to_us() {
    let check_shared = |kind: TokenKind, azp: Option<Value>| {
        let mut shared = claims();
        shared["aud"] = json!(["https://other", AUDIENCE]);
        if let Some(azp) = azp {
            shared["azp"] = azp;
        }
        check_as(kind, &signed("JWT", &shared)).err()
    };
    for azp in [None, Some(json!(null)), Some(json!([AUDIENCE]))] {
        assert_eq!(check_shared(TokenKind::IdToken, azp.clone()), Some(InvalidToken::Claim("azp")), "{azp:?}");
    }
    assert_eq!(check_shared(TokenKind::IdToken, Some(json!(AUDIENCE))), None);
    assert_eq!(check_shared(TokenKind::IdToken, Some(json!("https://other"))), Some(InvalidToken::AuthorizedParty));
    assert_eq!(check_with_claim("azp", json!("https://other")), None, "its only audience is us");
    for kind in [TokenKind::AccessToken, TokenKind::Jwt] {
        for azp in [None, Some(json!("https://other"))] {
            assert_eq!(check_shared(kind, azp), None, "`azp` has a meaning only in ID tokens");
        }
    }
}

#[test]
fn date_must_be_a_number_before_year_10000() {
    assert_eq!(check_with_claim("exp", json!(T0 + 300)), None);
    assert_eq!(check_with_claim("exp", json!(1_767_225_900.75)), None);
    assert_eq!(check_with_claim("exp", json!(T0 - 20)), Some(InvalidToken::Expired), "30 s of leeway end at T0 + 10");
    assert_eq!(check_with_claim("exp", json!(T0 - 19)), None, "one second of leeway is left");
    for exp in
        [json!(null), json!("1767225900"), json!(1e40), json!(-1), json!(u64::MAX), json!(true), json!([T0 + 300])]
    {
        assert_eq!(check_with_claim("exp", exp), Some(InvalidToken::Claim("exp")));
    }
    for name in ["nbf", "iat"] {
        assert_eq!(check_with_claim(name, json!(T0 + 40)), None);
        assert_eq!(check_with_claim(name, json!(T0 + 41)), Some(InvalidToken::NotYet));
    }
    assert_eq!(check_with_claim("nbf", json!("now")), Some(InvalidToken::Claim("nbf")));
    let mut without = claims();
    without.as_object_mut().expect("an object").remove("exp");
    assert_eq!(check(&signed("JWT", &without)), Some(InvalidToken::Claim("exp")));
}

#[test]
fn leeway_is_at_most_a_minute() {
    let audiences = [AUDIENCE.to_owned()];
    let rules = Rules {
        kind: TokenKind::Jwt,
        issuer: "https://idp",
        audiences: &audiences,
        leeway: Duration::from_secs(86_400),
    };
    let token = signed("JWT", &claims());
    assert!(verify(&token, &keys(), &rules, Timestamp::from_unix_seconds(T0 + 359)).is_ok());
    assert_eq!(
        verify(&token, &keys(), &rules, Timestamp::from_unix_seconds(T0 + 360)).err(),
        Some(InvalidToken::Expired)
    );
}

proptest::proptest! {
    /// Parsing ends for any text, and no token without a valid signature is accepted.
    #[test]
    fn hostile_tokens_never_panic(
        header in ".{0,80}",
        claims in ".{0,200}",
        signature in proptest::collection::vec(0_u8.., 0..80),
    ) {
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let token = format!("{}.{}.{}", encoded(header.as_bytes()), encoded(claims.as_bytes()), encoded(&signature));
        for token in [token, header, claims] {
            proptest::prop_assert!(check(&token).is_some());
        }
    }

    /// Claims of any shape are checked, under a valid signature.
    #[test]
    fn hostile_claims_never_panic(
        name in "exp|nbf|iat|aud|iss|sub|azp|act",
        text in ".{0,40}",
        number in proptest::num::f64::ANY,
    ) {
        for value in [json!(text), json!(number), json!([text]), json!({ text.clone(): number }), Value::Null] {
            let mut changed = claims();
            changed[&name] = value;
            let _ = check(&signed("JWT", &changed));
        }
    }

    #[test]
    fn hostile_key_sets_never_panic(text in ".{0,200}", coordinate in ".{0,400}") {
        let _ = KeySet::parse(text.as_bytes());
        for (kty, crv) in [("EC", "P-256"), ("EC", "P-384"), ("OKP", "Ed25519"), ("RSA", "")] {
            let jwk = json!({"kty": kty, "crv": crv, "x": coordinate, "y": text, "n": coordinate, "e": text});
            let _ = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes());
        }
    }
}

//! Test vectors from specifications, and their keys. Sources: draft-ietf-oauth-identity-chaining
//! §2.3.4, RFC 7638 §3.1, RFC 7515 appendix A.3, RFC 8037 appendix A, the WIMSE credentials draft;
//! C1 to C4 were composed with Python's `cryptography`.
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// 2026-01-01T00:00:00Z, when C1 to C4 were issued.
pub(crate) const T0: u64 = 1_767_225_600;
/// An ID-JAG, ES256, key [`ES256_KEY`].
pub(crate) const C1: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImlkcC0xIiwidHlwIjoib2F1dGgtaWQtamFnK2p3dCJ9.eyJpc3MiOiJodHRwczovL2lkcC5hY21lLmV4YW1wbGUiLCJzdWIiOiJVMDE5NDg4MjI3IiwiYXVkIjoiaHR0cHM6Ly9hcy5jaGF0LmV4YW1wbGUiLCJjbGllbnRfaWQiOiJhZ2VudC1jbGllbnQtMSIsImp0aSI6ImlkamFnLTAwMDEiLCJpYXQiOjE3NjcyMjU2MDAsImV4cCI6MTc2NzIyNTkwMCwicmVzb3VyY2UiOiJodHRwczovL2FwaS5jaGF0LmV4YW1wbGUvIiwic2NvcGUiOiJjaGF0LnJlYWQgY2hhdC5oaXN0b3J5In0.KHSvPnklh18EBSQA0HwIdmeiJNBssAgUhkpgAzeSpPcSdxTo0jQCEZoMY3YSXABvsrgPjEx8YAmnuApABYEwSA";
/// An ID-JAG, EdDSA, with a chain of actors, key [`EDDSA_KEY`].
pub(crate) const C2: &str = "eyJhbGciOiJFZERTQSIsImtpZCI6ImlkcC0yIiwidHlwIjoib2F1dGgtaWQtamFnK2p3dCJ9.eyJpc3MiOiJodHRwczovL2lkcC5hY21lLmV4YW1wbGUiLCJzdWIiOiJ1c2VyOmFsaWNlIiwiYXVkIjpbImh0dHBzOi8vYXMuY2hhdC5leGFtcGxlIl0sImNsaWVudF9pZCI6ImFnZW50LWNsaWVudC0xIiwianRpIjoiaWRqYWctMDAwMiIsImlhdCI6MTc2NzIyNTYwMCwiZXhwIjoxNzY3MjI1OTAwLCJhY3QiOnsic3ViIjoic3BpZmZlOi8vYWNtZS5leGFtcGxlL2FnZW50L3dvcmtlciIsImFjdCI6eyJzdWIiOiJzcGlmZmU6Ly9hY21lLmV4YW1wbGUvYWdlbnQvb3JjaGVzdHJhdG9yIn19LCJjbmYiOnsiamt0Ijoib0tJeXd2R1VwVFZUeXhNUTNid0lJZVFVdWRmcl9Da0xNakNFMTlFQ0QtVSJ9fQ.CwWtnFqfzV3yjRpSL5JxlCG3g2SfT8SVLCpD41U2bzCSMDZTU7-qb8AW66O-Q2pSL_SB5lF1dXkKypJQKgGjAA";
/// A JWT-SVID that is signed with ES256.
pub(crate) const C3: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6InRkLWp3dC0xIiwidHlwIjoiSldUIn0.eyJzdWIiOiJzcGlmZmU6Ly9hY21lLmV4YW1wbGUvYWdlbnQvd29ya2VyIiwiYXVkIjpbImh0dHBzOi8vYXMuY2hhdC5leGFtcGxlIl0sImlhdCI6MTc2NzIyNTYwMCwiZXhwIjoxNzY3MjI1OTAwfQ.eySfFUNimXH_vhCIVA1UMeeDXSBKd89iPEAl91Cbi-KT6xwpERjjhXkZBa2wlUYtGQmcStILKppkJ8zsgz9stA";
/// A client assertion, ES256.
pub(crate) const C4: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImNsaWVudC0xIiwidHlwIjoiY2xpZW50LWF1dGhlbnRpY2F0aW9uK2p3dCJ9.eyJpc3MiOiJhZ2VudC1jbGllbnQtMSIsInN1YiI6ImFnZW50LWNsaWVudC0xIiwiYXVkIjoiaHR0cHM6Ly9hcy5jaGF0LmV4YW1wbGUiLCJqdGkiOiJjYS0wMDAxIiwiaWF0IjoxNzY3MjI1NjAwLCJleHAiOjE3NjcyMjU2NjB9.g2OwT2sXkeChAejUgzeQiTm8eooFNuGZvWIL2bkjlHiSTRKNejllaXazajrA75uIYmfZtkrNYM2Y2waeivkDSg";
/// A JWT grant without `typ` and `jti`.
pub(crate) const CHAINING: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjI4MTMzMDgwMDQifQ.eyJpc3MiOiJodHRwczovL2FzLmEuZXhhbXBsZS9hdXRoIiwiZXhwIjoxNjk1Mjg3NzUyLCJpYXQiOjE2OTUyODc2OTIsInN1YiI6ImpvaG5kb2VAYS5leGFtcGxlIiwiYXVkIjoiaHR0cHM6Ly9hcy5iLmV4YW1wbGUvYXV0aCJ9.Li8Rh-c-R0xirbuXlX8x6sQkZRqJIms9U8Rk8cL7uh1Mm232O6mwz1osPEMNef4OFUW-qTfA0C9QdeIl-e0KsA";
/// The key of [`CHAINING`].
pub(crate) const CHAINING_KEY: &str = r#"{"kty":"EC","crv":"P-256","kid":"2813308004","use":"sig","x":"MXfMrj_tgPJHxkfmDAx0m74E-T-DuLYCNdmuqtpfP_E","y":"YX82bI52OPBED1h_1HpsxAyWzrQ7DChAAVX9Q9E8uYQ"}"#;
/// The key of RFC 8037 A.1.
pub(crate) const EDDSA_KEY: &str = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
/// The token of RFC 8037 A.4, whose payload is not JSON.
pub(crate) const EDDSA_JWS: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
/// The key of RFC 7515 A.3.1.
pub(crate) const ES256_KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}"#;
/// The token of RFC 7515 A.3.1.
pub(crate) const ES256_JWS: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
/// The modulus of RFC 7638 §3.1; the exponent is `AQAB`.
pub(crate) const RSA_N: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
/// A workload identity token, `typ` `wit+jwt`.
pub(crate) const WIT: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6Ikp1bmUgNSIsInR5cCI6IndpdCtqd3QifQ.eyJjbmYiOnsiandrIjp7ImFsZyI6IkVkRFNBIiwiY3J2IjoiRWQyNTUxOSIsImt0eSI6Ik9LUCIsIngiOiIxQ1hYdmZsTl9MVlZzSXNZWHNVdkIwM0ptbEdXZUNIcVFWdW91Q0Y5MmJnIn19LCJleHAiOjE3NDU1MTI1MTAsImlhdCI6MTc0NTUwODkxMCwianRpIjoieC1fMUNUTDJjY2EzQ1NFNGN3Yl9sIiwic3ViIjoid2ltc2U6Ly9leGFtcGxlLmNvbS9zcGVjaWZpYy13b3JrbG9hZCJ9.6KraSQUxWdl9dxFQ3Fj6dPY0Vi88OkwFwZpAIOhLeq6AbXAnLLQgOp8U9UDGcBuYF3KiNv6oKQD1ZWAzrMZOJw";
/// The key of its issuer.
pub(crate) const WIT_KEY: &str = r#"{"kty":"EC","kid":"June 5","crv":"P-256","x":"kXqnA2Op7hgd4zRMbw0iFcc_hDxUxhojxOFVGjE2gks","y":"n__VndPMR021-59UAs0b9qDTFT-EZtT6xSNs_xFskLo","d":"NRHs9bfMUcF49AV_NIoeh3UGopW4AXZLfv5G2px1WcY"}"#;

/// The claims of a compact JWS, as text.
pub(crate) fn payload(token: &str) -> String {
    let part = token.split('.').nth(1).expect("three parts");
    String::from_utf8(URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("text")
}

/// A JWKS of private test keys' public halves, each under the `kid` given.
pub(crate) fn key_set(keys: &[(&str, &str)]) -> super::KeySet {
    let keys: Vec<_> = keys
        .iter()
        .map(|(kid, jwk)| {
            let mut jwk: serde_json::Value = serde_json::from_str(jwk).expect("a JWK");
            let members = jwk.as_object_mut().expect("an object");
            members.remove("d");
            members.insert("kid".into(), (*kid).into());
            jwk
        })
        .collect();
    super::KeySet::parse(serde_json::json!({ "keys": keys }).to_string().as_bytes()).expect("a key set")
}

/// PKCS#8 of the Ed25519 key: the fixed prefix of RFC 8410 §7 and the seed.
pub(crate) fn eddsa_pkcs8() -> Vec<u8> {
    let jwk: serde_json::Value = serde_json::from_str(EDDSA_KEY).expect("a JWK");
    let seed = URL_SAFE_NO_PAD.decode(jwk["d"].as_str().expect("d")).expect("base64url");
    [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20][..], &seed].concat()
}

/// PKCS#8 of the P-256 key.
pub(crate) fn es256_pkcs8() -> Vec<u8> {
    let jwk: serde_json::Value = serde_json::from_str(ES256_KEY).expect("a JWK");
    let number = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().expect("text")).expect("base64url");
    let point = [vec![4], number("x"), number("y")].concat();
    let algorithm = &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let pair = aws_lc_rs::signature::EcdsaKeyPair::from_private_key_and_public_key(algorithm, &number("d"), &point);
    pair.expect("a key pair").to_pkcs8v1().expect("PKCS#8").as_ref().to_vec()
}

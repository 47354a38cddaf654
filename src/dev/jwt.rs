//! JWTs from the receiver's point of view. Signatures are checked by jsonwebtoken with the key of a
//! JWK set or of an `x5c` chain; the caller checks the claims.
use crate::clock::Timestamp;
use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

/// How much clocks may differ (RFC 7519 §4.1.4).
const LEEWAY: Duration = Duration::from_secs(5);
/// The longest token that is parsed, in bytes.
const MAX_LENGTH: usize = 32 * 1024;

/// The header and the claims of a compact JWS.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The JOSE header.
    pub header: Value,
    /// The payload, which is always an object.
    pub claims: Value,
}

/// Decodes a token without verifying it, to choose the key or to show its content.
pub fn decode(token: &str) -> anyhow::Result<Token> {
    ensure!(token.len() <= MAX_LENGTH, "the token is longer than {MAX_LENGTH} bytes");
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { bail!("a compact JWS has three parts") };
    ensure!(!signature.is_empty(), "the signature is empty");
    let token = Token { header: part(header)?, claims: part(claims)? };
    ensure!(token.header.is_object() && token.claims.is_object(), "header and payload must be JSON objects");
    ensure!(token.header.get("crit").is_none(), "unknown critical header"); // RFC 7515 §4.1.11
    Ok(token)
}

fn part(text: &str) -> anyhow::Result<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(text).context("not base64url")?;
    serde_json::from_slice(&bytes).context("not JSON")
}

/// Verifies a token with the key that the header's `kid` names (RFC 7515 §4.1.4). Without a `kid`,
/// the set must contain exactly one key.
pub fn verify_with_jwks(token: &str, jwks: &Value, usage: &str) -> anyhow::Result<Token> {
    let decoded = decode(token)?;
    let keys = jwks["keys"].as_array().context("not a JWK set")?;
    let mut usable = keys.iter().filter(|key| key.get("use").is_none_or(|value| value == usage));
    let jwk = match decoded.header["kid"].as_str() {
        Some(kid) => usable.find(|key| key["kid"] == kid).with_context(|| format!("unknown kid {kid:?}"))?,
        None => {
            let only = usable.next().context("there is no key")?;
            ensure!(usable.next().is_none(), "there is no kid, and there are several keys");
            only
        }
    };
    let jwk: Jwk = serde_json::from_value(jwk.clone()).context("unusable JWK")?;
    let algorithms = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => vec![Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => vec![Algorithm::ES384],
        AlgorithmParameters::RSA(_) => vec![Algorithm::RS256, Algorithm::PS256],
        AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
        _ => bail!("unsupported kind of key"),
    };
    check_signature(token, &DecodingKey::from_jwk(&jwk)?, algorithms)?;
    Ok(decoded)
}

/// Whether the header carries a certificate chain.
pub fn has_x5c(token: &Token) -> bool {
    token.header.get("x5c").is_some()
}

/// The SPIFFE ID in the leaf of the header's `x5c`. It is not verified, and only serves to choose
/// the trust domain's bundle.
pub fn x5c_id(token: &Token) -> anyhow::Result<String> {
    spiffe_id(x5c(token)?.first().context("x5c is empty")?)
}

/// Verifies a token with the leaf of the header's `x5c`, whose chain must lead to `bundle`, the
/// trust domain's authorities. Returns the token and the SPIFFE ID of the leaf.
pub fn verify_with_x5c(token: &str, bundle: &[CertificateDer<'_>], now: Timestamp) -> anyhow::Result<(Token, String)> {
    let decoded = decode(token)?;
    let chain = x5c(&decoded)?;
    let id = verify_chain(&chain, bundle, now)?;
    let (_, leaf) = X509Certificate::from_der(&chain[0]).context("unreadable leaf")?;
    let raw = leaf.public_key().subject_public_key.data.as_ref();
    let (key, algorithms) = match leaf.public_key().parsed()? {
        PublicKey::EC(point) if point.key_size() <= 256 => (DecodingKey::from_ec_der(raw), vec![Algorithm::ES256]),
        PublicKey::EC(_) => (DecodingKey::from_ec_der(raw), vec![Algorithm::ES384]),
        PublicKey::RSA(_) => (DecodingKey::from_rsa_der(raw), vec![Algorithm::RS256, Algorithm::PS256]),
        _ if raw.len() == 32 => (DecodingKey::from_ed_der(raw), vec![Algorithm::EdDSA]),
        _ => bail!("unsupported kind of key in the certificate"),
    };
    check_signature(token, &key, algorithms)?;
    Ok((decoded, id))
}

/// Validates the chain of an X.509-SVID (SPIFFE X.509-SVID §5) against its trust domain's
/// authorities. Returns its SPIFFE ID.
pub fn verify_chain(
    chain: &[CertificateDer<'_>],
    bundle: &[CertificateDer<'_>],
    now: Timestamp,
) -> anyhow::Result<String> {
    let mut roots = RootCertStore::empty();
    for authority in bundle {
        roots.add(authority.clone().into_owned())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
    let (leaf, intermediates) = chain.split_first().context("the chain is empty")?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unix_seconds()));
    verifier.verify_client_cert(leaf, intermediates, now).context("the chain does not lead to the trust bundle")?;
    spiffe_id(leaf)
}

/// The SPIFFE ID of a leaf, which is its only URI SAN. A CA certificate is not an SVID (X.509-SVID
/// §2, §4.1).
pub fn spiffe_id(leaf: &CertificateDer<'_>) -> anyhow::Result<String> {
    let (_, leaf) = X509Certificate::from_der(leaf).context("unreadable certificate")?;
    ensure!(!leaf.is_ca(), "a CA certificate is not an SVID");
    let names = leaf.subject_alternative_name()?.context("there is no subjectAltName")?;
    let uris: Vec<&str> = names.value.general_names.iter().filter_map(uri).collect();
    let [id] = uris[..] else { bail!("an SVID has exactly one URI SAN, this has {}", uris.len()) };
    ensure!(trust_domain(id).is_some(), "{id} is not the SPIFFE ID of a workload");
    Ok(id.to_owned())
}

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    if let GeneralName::URI(uri) = name { Some(uri) } else { None }
}

/// The bare name of the trust domain in a workload's SPIFFE ID.
pub fn trust_domain(id: &str) -> Option<&str> {
    let (name, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
    (!name.is_empty() && !path.is_empty()).then_some(name)
}

/// Checks that `exp` is present and in the future, and that `nbf` and `iat` are not in the future
/// (RFC 7519 §4.1.4 to §4.1.6).
pub fn check_times(claims: &Value, now: Timestamp) -> anyhow::Result<()> {
    let at = |name: &str| claims[name].as_u64().map(Timestamp::from_unix_seconds);
    let exp = at("exp").context("there is no exp")?;
    ensure!(exp.plus(LEEWAY) > now, "expired {} s ago", now.since(exp).as_secs());
    for name in ["nbf", "iat"] {
        ensure!(at(name).is_none_or(|instant| instant <= now.plus(LEEWAY)), "{name} is in the future");
    }
    Ok(())
}

/// Compares `typ` as a media type: case does not matter, and `application/` is optional (RFC 7515
/// §4.1.9).
pub fn has_typ(token: &Token, expected: &str) -> bool {
    let typ = token.header["typ"].as_str().unwrap_or("").to_ascii_lowercase();
    typ.strip_prefix("application/").unwrap_or(&typ) == expected.to_ascii_lowercase()
}

/// The values of `aud`, which is a string or an array of strings.
pub fn audiences(claims: &Value) -> Vec<&str> {
    match &claims["aud"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn x5c(token: &Token) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let chain = token.header["x5c"].as_array().context("there is no x5c")?;
    let der = |text: &Value| STANDARD.decode(text.as_str().unwrap_or("")).map(CertificateDer::from);
    chain.iter().map(der).collect::<Result<_, _>>().context("x5c is not standard base64 (RFC 7515 §4.1.6)")
}

fn check_signature(token: &str, key: &DecodingKey, algorithms: Vec<Algorithm>) -> anyhow::Result<()> {
    let mut validation = Validation::new(*algorithms.first().context("there is no algorithm")?);
    validation.algorithms = algorithms;
    // The caller checks the claims, because each kind of token has its own rules, and because time
    // comes from the given clock.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    jsonwebtoken::decode::<Value>(token, key, &validation).context("the signature does not verify")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::dev::ca::{Flaw, JwtAlgorithm, JwtAuthority, KeyType, SvidRequest, TrustDomain};
    use serde_json::json;

    const ID: &str = "spiffe://example.org/agent";

    fn x5c_token(svid: &crate::dev::ca::Svid, key_type: KeyType) -> String {
        use jsonwebtoken::{EncodingKey, Header};
        let (algorithm, key) = match key_type {
            KeyType::P256 => (Algorithm::ES256, EncodingKey::from_ec_der(&svid.key)),
            KeyType::P384 => (Algorithm::ES384, EncodingKey::from_ec_der(&svid.key)),
            KeyType::Ed25519 => (Algorithm::EdDSA, EncodingKey::from_ed_der(&svid.key)),
            KeyType::Rsa2048 => {
                (Algorithm::RS256, EncodingKey::from_rsa_pem(svid.key_pem().as_bytes()).expect("PKCS#8 in PEM"))
            }
        };
        let mut header = Header::new(algorithm);
        header.x5c = Some(svid.chain.iter().map(|der| STANDARD.encode(der)).collect());
        jsonwebtoken::encode(&header, &json!({ "sub": svid.id }), &key).expect("signs")
    }

    #[test]
    fn svid_of_every_key_type_signs() {
        let clock = Clock::system();
        let domain = TrustDomain::new("example.org", &clock).unwrap();
        for key_type in [KeyType::P256, KeyType::P384, KeyType::Rsa2048, KeyType::Ed25519] {
            let svid = domain.x509.issue(&SvidRequest::new(ID).key_type(key_type)).unwrap();
            let token = x5c_token(&svid, key_type);
            let (_, id) = verify_with_x5c(&token, &domain.x509.bundle(), clock.now()).unwrap();
            assert_eq!(id, ID, "{key_type:?}");
        }
    }

    #[test]
    fn flawed_svid_is_refused() {
        let clock = Clock::system();
        let domain = TrustDomain::new("example.org", &clock).unwrap();
        for flaw in
            [Flaw::Expired, Flaw::NotYetValid, Flaw::CaLeaf, Flaw::TwoUriSans, Flaw::NoUriSan, Flaw::KeyMismatch]
        {
            let svid = domain.x509.issue(&SvidRequest::new(ID).flaw(flaw.clone())).unwrap();
            let token = x5c_token(&svid, KeyType::P256);
            assert!(verify_with_x5c(&token, &domain.x509.bundle(), clock.now()).is_err(), "{flaw:?}");
        }
        let other = TrustDomain::new("example.org", &clock).unwrap();
        let svid = other.x509.issue(&SvidRequest::new(ID)).unwrap();
        assert!(verify_chain(&svid.chain, &domain.x509.bundle(), clock.now()).is_err(), "another authority");
    }

    #[test]
    fn x509_authorities_rotate_with_overlap() {
        let clock = Clock::system();
        let ca = TrustDomain::new("example.org", &clock).unwrap().x509;
        let old = ca.issue(&SvidRequest::new(ID)).unwrap();
        ca.prepare().unwrap();
        assert_eq!(ca.bundle().len(), 2);
        ca.activate();
        let new = ca.issue(&SvidRequest::new(ID)).unwrap();
        assert!(verify_chain(&old.chain, &ca.bundle(), clock.now()).is_ok());
        ca.revoke();
        assert!(verify_chain(&old.chain, &ca.bundle(), clock.now()).is_err());
        assert!(verify_chain(&new.chain, &ca.bundle(), clock.now()).is_ok());
    }

    #[test]
    fn published_keys_verify_until_revoked() {
        for algorithm in [JwtAlgorithm::Es256, JwtAlgorithm::Rs256] {
            let authority = JwtAuthority::new(algorithm, &Clock::system()).unwrap();
            let token = authority.mint("at+jwt", Duration::from_secs(60), json!({ "sub": "alice" })).unwrap();
            authority.rotate().unwrap();
            let verified = verify_with_jwks(&token, &authority.jwks(), "sig").unwrap();
            assert!(has_typ(&verified, "application/AT+jwt".strip_prefix("application/").unwrap()));
            assert!(verify_with_jwks(&token, &authority.bundle(), "sig").is_err(), "wrong use");
            authority.revoke();
            assert!(verify_with_jwks(&token, &authority.jwks(), "sig").is_err(), "revoked");
        }
    }

    #[test]
    fn times_are_checked() {
        let now = Timestamp::from_unix_seconds(1000);
        assert!(check_times(&json!({ "exp": 1001 }), now).is_ok());
        assert!(check_times(&json!({ "exp": 995 }), now).is_err());
        assert!(check_times(&json!({}), now).is_err());
        assert!(check_times(&json!({ "exp": 1001, "iat": 1006 }), now).is_err());
    }
}

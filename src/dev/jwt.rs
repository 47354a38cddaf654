//! JWTs as the receiving side reads them. Signatures are checked by jsonwebtoken, with the key of a JWK Set or of an `x5c` chain;
//! every claim is for the caller to judge. The check-list ids (JB-…) are those of the project's standards digest.
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

/// Clocks may differ by this much (JB-6).
const LEEWAY: Duration = Duration::from_secs(5);
/// JB-3: nothing longer is parsed.
const MAX_LENGTH: usize = 32 * 1024;

/// Header and claims of a compact JWS.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The JOSE header.
    pub header: Value,
    /// The payload; always an object.
    pub claims: Value,
}

/// Decodes without trusting: for choosing the key, and for showing what is inside.
pub fn decode(token: &str) -> anyhow::Result<Token> {
    ensure!(token.len() <= MAX_LENGTH, "the token is longer than {MAX_LENGTH} bytes");
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { bail!("a compact JWS has three parts") };
    ensure!(!signature.is_empty(), "the signature is empty");
    let token = Token { header: part(header)?, claims: part(claims)? };
    ensure!(token.header.is_object() && token.claims.is_object(), "header and payload must be JSON objects");
    ensure!(token.header.get("crit").is_none(), "unknown critical header"); // JB-2
    Ok(token)
}

fn part(text: &str) -> anyhow::Result<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(text).context("not base64url")?;
    serde_json::from_slice(&bytes).context("not JSON")
}

/// Verifies with the key that the header's `kid` names; without a `kid`, only if the set has exactly one key (JB-5).
pub fn verify_with_jwks(token: &str, jwks: &Value, usage: &str) -> anyhow::Result<Token> {
    let decoded = decode(token)?;
    let keys = jwks["keys"].as_array().context("no JWK Set")?;
    let mut usable = keys.iter().filter(|key| key.get("use").is_none_or(|value| value == usage));
    let jwk = match decoded.header["kid"].as_str() {
        Some(kid) => usable.find(|key| key["kid"] == kid).with_context(|| format!("unknown kid {kid:?}"))?,
        None => {
            let only = usable.next().context("no key")?;
            ensure!(usable.next().is_none(), "no kid, and several keys");
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

/// The SPIFFE ID that the leaf of the header's `x5c` claims; not verified, for choosing the trust domain's bundle.
pub fn x5c_id(token: &Token) -> anyhow::Result<String> {
    spiffe_id(x5c(token)?.first().context("x5c is empty")?)
}

/// Verifies with the leaf of the header's `x5c`, whose chain must end in `bundle`: the trust domain's authorities. Gives the
/// SPIFFE ID of the leaf with the token.
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

/// Path validation of an X.509-SVID (X509-SVID §5) against its trust domain's authorities; gives its SPIFFE ID.
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

/// The SPIFFE ID of a leaf: its one URI SAN; a CA certificate is none (X509-SVID §2, §4.1).
pub fn spiffe_id(leaf: &CertificateDer<'_>) -> anyhow::Result<String> {
    let (_, leaf) = X509Certificate::from_der(leaf).context("unreadable certificate")?;
    ensure!(!leaf.is_ca(), "a CA certificate is no SVID");
    let names = leaf.subject_alternative_name()?.context("no subjectAltName")?;
    let uris: Vec<&str> = names.value.general_names.iter().filter_map(uri).collect();
    let [id] = uris[..] else { bail!("an SVID has exactly one URI SAN, this has {}", uris.len()) };
    ensure!(trust_domain(id).is_some(), "{id} is no SPIFFE ID of a workload");
    Ok(id.to_owned())
}

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    if let GeneralName::URI(uri) = name { Some(uri) } else { None }
}

/// The trust domain's bare name in a workload's SPIFFE ID.
pub fn trust_domain(id: &str) -> Option<&str> {
    let (name, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
    (!name.is_empty() && !path.is_empty()).then_some(name)
}

/// `exp` must be there and ahead, `nbf` and `iat` not ahead (JB-6).
pub fn check_times(claims: &Value, now: Timestamp) -> anyhow::Result<()> {
    let at = |name: &str| claims[name].as_u64().map(Timestamp::from_unix_seconds);
    let exp = at("exp").context("no exp")?;
    ensure!(exp.plus(LEEWAY) > now, "expired {} s ago", now.since(exp).as_secs());
    for name in ["nbf", "iat"] {
        ensure!(at(name).is_none_or(|instant| instant <= now.plus(LEEWAY)), "{name} is in the future");
    }
    Ok(())
}

/// `typ`, compared as a media type: without case, `application/` optional (RFC 7515 §4.1.9).
pub fn has_typ(token: &Token, expected: &str) -> bool {
    let typ = token.header["typ"].as_str().unwrap_or("").to_ascii_lowercase();
    typ.strip_prefix("application/").unwrap_or(&typ) == expected.to_ascii_lowercase()
}

/// The members of `aud`, a string or an array of strings.
pub fn audiences(claims: &Value) -> Vec<&str> {
    match &claims["aud"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn x5c(token: &Token) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let chain = token.header["x5c"].as_array().context("no x5c")?;
    let der = |text: &Value| STANDARD.decode(text.as_str().unwrap_or("")).map(CertificateDer::from);
    chain.iter().map(der).collect::<Result<_, _>>().context("x5c is not standard base64 (RFC 7515 §4.1.6)")
}

fn check_signature(token: &str, key: &DecodingKey, algorithms: Vec<Algorithm>) -> anyhow::Result<()> {
    let mut validation = Validation::new(*algorithms.first().context("no algorithm")?);
    validation.algorithms = algorithms;
    // The claims are the caller's: each kind of token has other rules, and time is the given clock's.
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
    fn an_svid_of_every_key_type_signs() {
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
    fn a_broken_svid_is_refused() {
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
    fn authorities_rotate_with_overlap() {
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
    fn published_keys_verify_until_they_are_revoked() {
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

//! Sets of public keys as JWKs (RFC 7517): those that we publish, and those of an issuer.
use super::error::InvalidToken;
use super::json;
use super::key::SigningKey;
use super::public_key::{PublicKey, point};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

/// Issuers publish a handful of keys; a document with more than a hundred is a mistake.
const MAX_KEYS: usize = 100;

/// The key set that we publish for our own keys: `{"keys": […]}`.
pub fn jwks<'a>(keys: impl IntoIterator<Item = &'a SigningKey>) -> Value {
    json!({ "keys": keys.into_iter().map(SigningKey::public_jwk).collect::<Vec<_>>() })
}

/// The signing keys of one issuer.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<Candidate>);

#[derive(Clone, Debug)]
struct Candidate {
    kid: Option<String>,
    alg: Option<String>,
    key: PublicKey,
}

/// Why a document is not a key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// The document is not a JSON object.
    #[error("the key set {0}")]
    Json(json::JsonError),
    /// The document has no array `keys`.
    #[error("the key set has no array `keys`")]
    NoKeys,
    /// The document has too many keys.
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooMany,
}

impl KeySet {
    /// Reads a JWKS. Keys of other kinds, for other uses, with private parts, or of insufficient
    /// length are skipped (RFC 7517 §5).
    pub fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        let document = json::object(document).map_err(KeySetError::Json)?;
        let keys = document.get("keys").and_then(Value::as_array).ok_or(KeySetError::NoKeys)?;
        if keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        Ok(Self(keys.iter().filter_map(Value::as_object).filter_map(Candidate::read).collect()))
    }

    /// The number of usable keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no usable key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks a signature with the key that the header names. The key decides which algorithms it
    /// may be used with (RFC 8725 §3.1).
    pub(super) fn check(
        &self,
        alg: &str,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidToken> {
        let is_named = |candidate: &&Candidate| kid.is_none_or(|kid| candidate.kid.as_deref() == Some(kid));
        // Keys of different kinds may share a `kid` (RFC 7517 §4.5); `alg` distinguishes them.
        let fitting: Vec<_> = self.0.iter().filter(is_named).filter(|candidate| candidate.takes(alg)).collect();
        match fitting[..] {
            [candidate] => candidate.key.verify(alg, message, signature),
            [] if kid.is_some() && self.0.iter().any(|candidate| is_named(&candidate)) => Err(InvalidToken::Algorithm),
            [] => Err(InvalidToken::UnknownKey),
            _ => Err(InvalidToken::AmbiguousKey),
        }
    }
}

impl Candidate {
    fn read(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let for_signatures = matches!(text("use"), None | Some("sig"))
            && jwk
                .get("key_ops")
                .is_none_or(|ops| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify")));
        // Anybody can sign with a private key that was published.
        if !for_signatures || jwk.contains_key("d") {
            return None;
        }
        let number = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let key = match (text("kty")?, text("crv")) {
            ("EC", Some("P-256")) => PublicKey::P256(point(number("x")?, number("y")?, 32)?),
            ("EC", Some("P-384")) => PublicKey::P384(point(number("x")?, number("y")?, 48)?),
            ("OKP", Some("Ed25519")) => PublicKey::Ed25519(number("x").filter(|x| x.len() == 32)?),
            ("RSA", _) => PublicKey::rsa(&number("n")?, &number("e")?)?,
            _ => return None,
        };
        Some(Self { kid: text("kid").map(str::to_owned), alg: text("alg").map(str::to_owned), key })
    }

    fn takes(&self, alg: &str) -> bool {
        self.alg.as_deref().is_none_or(|own| own == alg) && self.key.algorithms().contains(&alg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::vectors::{EDDSA_KEY, ES256_KEY, RSA_N};

    fn read(jwk: &Value) -> Option<PublicKey> {
        Candidate::read(jwk.as_object().expect("an object")).map(|candidate| candidate.key)
    }

    fn public(private: &str) -> Value {
        let mut jwk: Value = serde_json::from_str(private).expect("a JWK");
        jwk.as_object_mut().expect("an object").remove("d");
        jwk
    }

    #[test]
    fn thumbprint_matches_the_examples_of_the_rfcs() {
        let rsa = json!({"kty": "RSA", "n": RSA_N, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"});
        for (jwk, thumbprint) in [
            (rsa, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"),
            (public(EDDSA_KEY), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"),
            (public(ES256_KEY), "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"),
        ] {
            assert_eq!(read(&jwk).expect("a key").thumbprint(), thumbprint);
        }
    }

    #[test]
    fn unusable_key_is_skipped() {
        let good = public(ES256_KEY);
        let changed = |name: &str, value: Value| {
            let mut jwk = good.clone();
            jwk[name] = value;
            jwk
        };
        assert!(read(&good).is_some() && read(&changed("use", json!("sig"))).is_some());
        assert!(read(&changed("key_ops", json!(["verify"]))).is_some());
        for jwk in [
            changed("use", json!("enc")),
            changed("key_ops", json!(["encrypt"])),
            changed("kty", json!("oct")),
            changed("crv", json!("P-521")),
            changed("x", json!("AQ")),
            changed("d", json!("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI")),
            json!({"kty": "oct", "k": "c2VjcmV0"}),
            json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0xff; 128]), "e": "AQAB"}),
            json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([[0; 200].as_slice(), &[0xff; 128]].concat()), "e": "AQAB"}),
        ] {
            assert!(read(&jwk).is_none(), "{jwk}");
        }
    }

    #[test]
    fn document_that_is_not_a_key_set_is_refused() {
        assert_eq!(KeySet::parse(b"{}").err(), Some(KeySetError::NoKeys));
        assert_eq!(KeySet::parse(b"[]").err(), Some(KeySetError::Json(json::JsonError::NotAnObject)));
        let many = json!({ "keys": vec![public(ES256_KEY); 101] }).to_string();
        assert_eq!(KeySet::parse(many.as_bytes()).err(), Some(KeySetError::TooMany));
        assert!(KeySet::parse(br#"{"keys":[7,{"kty":"oct"}]}"#).expect("a set").is_empty());
    }
}

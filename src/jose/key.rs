//! Private keys that sign assertions. They are parsed once, because parsing an elliptic curve key
//! costs more than signing with it.
use super::public_key::{MIN_RSA_BYTES, PublicKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;

/// A private key, its `kid` and, if it belongs to an SVID, the certificate chain that vouches for
/// it. Clones share the key.
#[derive(Clone)]
pub struct SigningKey(Arc<Parts>);

struct Parts {
    pair: Pair,
    public: PublicKey,
    kid: String,
    x5c: Option<Vec<String>>,
}

enum Pair {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

/// Why a key cannot sign assertions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The PEM text holds no private key.
    #[error("holds no private key in PEM (expected PKCS#8, SEC1 or PKCS#1)")]
    NotPem,
    /// The DER is not a key, or a key of another kind.
    #[error("is not a private key of a supported kind (P-256, P-384, Ed25519, RSA of 2048 bits or more)")]
    Unsupported,
    /// The RSA key has fewer than 2048 bits (RFC 7518 §3.3).
    #[error("is an RSA key of less than 2048 bits")]
    TooShort,
}

/// The key could not sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the assertion could not be signed")]
pub struct SignError;

impl SigningKey {
    /// Reads PKCS#8 DER, the form of an SVID's key. The default `kid` is the RFC 7638 thumbprint.
    /// `x5c` is the certificate chain in DER, leaf first.
    pub fn from_pkcs8_der(der: &[u8], kid: Option<String>, x5c: Option<Vec<Vec<u8>>>) -> Result<Self, KeyError> {
        let ecdsa = |algorithm: &'static EcdsaSigningAlgorithm| EcdsaKeyPair::from_pkcs8(algorithm, der);
        let pair = if let Ok(pair) = ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING) {
            Pair::P256(pair)
        } else if let Ok(pair) = ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING) {
            Pair::P384(pair)
        } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            Pair::Ed25519(pair)
        } else {
            Pair::Rsa(RsaKeyPair::from_pkcs8(der).map_err(|_| KeyError::Unsupported)?)
        };
        Self::new(pair, kid, x5c)
    }

    /// Reads the first private key of a PEM file: PKCS#8, SEC1 (`EC PRIVATE KEY`) or PKCS#1 (`RSA
    /// PRIVATE KEY`).
    pub fn from_pem(pem: &[u8], kid: Option<String>) -> Result<Self, KeyError> {
        let ecdsa = |algorithm, der: &[u8]| EcdsaKeyPair::from_private_key_der(algorithm, der);
        let pair = match PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::NotPem)? {
            PrivateKeyDer::Pkcs8(der) => return Self::from_pkcs8_der(der.secret_pkcs8_der(), kid, None),
            PrivateKeyDer::Sec1(der) => match ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_sec1_der()) {
                Ok(pair) => Pair::P256(pair),
                Err(_) => Pair::P384(
                    ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, der.secret_sec1_der())
                        .map_err(|_| KeyError::Unsupported)?,
                ),
            },
            PrivateKeyDer::Pkcs1(der) => {
                Pair::Rsa(RsaKeyPair::from_der(der.secret_pkcs1_der()).map_err(|_| KeyError::Unsupported)?)
            }
            _ => return Err(KeyError::Unsupported),
        };
        Self::new(pair, kid, None)
    }

    fn new(pair: Pair, kid: Option<String>, x5c: Option<Vec<Vec<u8>>>) -> Result<Self, KeyError> {
        let public = match &pair {
            Pair::P256(pair) => PublicKey::P256(pair.public_key().as_ref().to_vec()),
            Pair::P384(pair) => PublicKey::P384(pair.public_key().as_ref().to_vec()),
            Pair::Ed25519(pair) => PublicKey::Ed25519(pair.public_key().as_ref().to_vec()),
            Pair::Rsa(pair) if pair.public_modulus_len() < MIN_RSA_BYTES => return Err(KeyError::TooShort),
            Pair::Rsa(pair) => PublicKey::from_pkcs1(pair.public_key().as_ref()).ok_or(KeyError::Unsupported)?,
        };
        let kid = kid.unwrap_or_else(|| public.thumbprint());
        let x5c = x5c.map(|chain| chain.iter().map(|der| STANDARD.encode(der)).collect());
        Ok(Self(Arc::new(Parts { pair, public, kid, x5c })))
    }

    /// The JWS `alg`: `ES256`, `ES384`, `RS256` or `EdDSA`.
    pub fn algorithm(&self) -> &'static str {
        match self.0.pair {
            Pair::P256(_) => "ES256",
            Pair::P384(_) => "ES384",
            Pair::Ed25519(_) => "EdDSA",
            Pair::Rsa(_) => "RS256",
        }
    }

    /// The key's name in headers and in the JWKS.
    pub fn kid(&self) -> &str {
        &self.0.kid
    }

    /// The public half as a JWK with `kid`, `use` and `alg`.
    pub fn public_jwk(&self) -> Value {
        let mut jwk = self.0.public.jwk();
        jwk["kid"] = json!(self.0.kid);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(self.algorithm());
        jwk
    }

    /// Signs `claims` as a compact JWS with `alg`, `kid`, `typ` and, for an SVID's key, `x5c` in
    /// its header.
    pub fn sign(&self, typ: &str, claims: &impl Serialize) -> Result<String, SignError> {
        let header = Header { alg: self.algorithm(), kid: &self.0.kid, typ, x5c: self.0.x5c.as_deref() };
        let header = serde_json::to_vec(&header).map_err(|_| SignError)?;
        let claims = serde_json::to_vec(claims).map_err(|_| SignError)?;
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = self.signature(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let random = SystemRandom::new();
        match &self.0.pair {
            Pair::P256(pair) | Pair::P384(pair) => {
                pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()).map_err(|_| SignError)
            }
            Pair::Ed25519(pair) => {
                pair.try_sign(message).map(|signature| signature.as_ref().to_vec()).map_err(|_| SignError)
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(|_| SignError)?;
                Ok(signature)
            }
        }
    }
}

/// The JOSE header. Its members are serialized in this order, as in the test vectors.
#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    kid: &'a str,
    typ: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<&'a [String]>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SigningKey")
            .field("alg", &self.algorithm())
            .field("kid", &self.0.kid)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::jose::vectors::{C2, EDDSA_JWS, ES256_KEY, eddsa_pkcs8, es256_pkcs8};
    use crate::jose::{KeySet, Rules, TokenKind, Verified, jwks, verify};
    use rcgen::{
        KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm,
    };

    fn accepted(key: &SigningKey) -> Verified {
        let token =
            key.sign("JWT", &json!({"iss": "i", "sub": "s", "aud": "a", "exp": 2_000_000_000})).expect("a signature");
        let keys = KeySet::parse(jwks([key]).to_string().as_bytes()).expect("our own set");
        let rules = Rules { kind: TokenKind::Jwt, issuer: "i", audiences: &["a".into()], leeway: Default::default() };
        verify(&token, &keys, &rules, Timestamp::from_unix_seconds(1)).expect("our own token")
    }

    #[test]
    fn every_kind_of_key_signs_what_its_published_half_verifies() {
        let kinds: [(&'static SignatureAlgorithm, &str); 4] = [
            (&PKCS_ECDSA_P256_SHA256, "ES256"),
            (&PKCS_ECDSA_P384_SHA384, "ES384"),
            (&PKCS_ED25519, "EdDSA"),
            (&PKCS_RSA_SHA256, "RS256"),
        ];
        for (kind, alg) in kinds {
            let pair = KeyPair::generate_for(kind).expect("a key");
            let key = SigningKey::from_pkcs8_der(pair.serialized_der(), None, None).expect("a supported kind");
            assert_eq!(key.algorithm(), alg);
            assert_eq!(accepted(&key).subject, "s");
            let pem = SigningKey::from_pem(pair.serialize_pem().as_bytes(), Some("k".into())).expect("PEM");
            assert_eq!((pem.kid(), pem.public_jwk()["x"].clone()), ("k", key.public_jwk()["x"].clone()));
        }
    }

    /// A second implementation accepts the signature, the header and the published key.
    #[test]
    fn signed_token_is_valid_for_another_library() {
        for der in [es256_pkcs8(), eddsa_pkcs8()] {
            let key = SigningKey::from_pkcs8_der(&der, Some("k1".into()), None).expect("a key");
            let token =
                key.sign("oauth-id-jag+jwt", &json!({"sub": "s", "exp": 4_000_000_000_u64})).expect("a signature");
            let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.public_jwk()).expect("a JWK");
            let header = jsonwebtoken::decode_header(&token).expect("a header");
            assert_eq!((header.typ.as_deref(), header.kid.as_deref()), (Some("oauth-id-jag+jwt"), Some("k1")));
            let validation = jsonwebtoken::Validation::new(header.alg);
            let decoding = jsonwebtoken::DecodingKey::from_jwk(&jwk).expect("a key");
            assert_eq!(
                jsonwebtoken::decode::<Value>(&token, &decoding, &validation).expect("valid").claims["sub"],
                "s"
            );
        }
    }

    /// Ed25519 is deterministic, so the result is the whole token of vector C2, including the order
    /// of the header's members.
    #[test]
    fn signed_token_equals_the_example_with_an_ed25519_key() {
        let key = SigningKey::from_pkcs8_der(&eddsa_pkcs8(), Some("idp-2".into()), None).expect("a key");
        assert_eq!(key.sign("oauth-id-jag+jwt", &C2Claims::new()).expect("a signature"), C2);
        let signature =
            key.signature(b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc").expect("a signature");
        assert_eq!(URL_SAFE_NO_PAD.encode(signature), EDDSA_JWS.rsplit('.').next().expect("a part"));
    }

    /// The members of C2 in its order. Unlike our own ID-JAGs it has `aud` as an array, and `cnf`.
    #[derive(Serialize)]
    struct C2Claims {
        iss: &'static str,
        sub: &'static str,
        aud: [&'static str; 1],
        client_id: &'static str,
        jti: &'static str,
        iat: u64,
        exp: u64,
        act: Act,
        cnf: Value,
    }

    #[derive(Serialize)]
    struct Act {
        sub: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        act: Option<Box<Act>>,
    }

    impl C2Claims {
        fn new() -> Self {
            let orchestrator = Act { sub: "spiffe://acme.example/agent/orchestrator", act: None };
            let worker = Act { sub: "spiffe://acme.example/agent/worker", act: Some(Box::new(orchestrator)) };
            Self {
                iss: "https://idp.acme.example",
                sub: "user:alice",
                aud: ["https://as.chat.example"],
                client_id: "agent-client-1",
                jti: "idjag-0002",
                iat: crate::jose::vectors::T0,
                exp: crate::jose::vectors::T0 + 300,
                act: worker,
                cnf: json!({"jkt": "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"}),
            }
        }
    }

    #[test]
    fn sec1_file_is_read() {
        let sec1 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &es256_pkcs8()).expect("a key");
        let der =
            aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::EcPrivateKeyRfc5915Der<'_>>::as_der(&sec1.private_key())
                .expect("DER");
        let pem = format!(
            "-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        let key = SigningKey::from_pem(pem.as_bytes(), None).expect("SEC1");
        assert_eq!(key.public_jwk()["x"], serde_json::from_str::<Value>(ES256_KEY).expect("a JWK")["x"]);
        assert_eq!(key.kid(), "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U");
    }

    #[test]
    fn svid_chain_is_in_x5c_and_debug_shows_no_key() {
        let key = SigningKey::from_pkcs8_der(&es256_pkcs8(), None, Some(vec![vec![1, 2, 3], vec![4]])).expect("a key");
        let token = key.sign("x", &json!({})).expect("a signature");
        let token = crate::jose::Unverified::parse(&token).expect("ours");
        assert_eq!(token.header["x5c"], json!(["AQID", "BA=="]));
        assert!(!format!("{key:?}").contains("AQID"));
    }

    #[test]
    fn bytes_that_are_not_a_key_are_refused() {
        assert_eq!(SigningKey::from_pem(b"", None).err(), Some(KeyError::NotPem));
        assert_eq!(SigningKey::from_pkcs8_der(b"", None, None).err(), Some(KeyError::Unsupported));
        let mut broken = es256_pkcs8();
        broken.truncate(40);
        assert_eq!(SigningKey::from_pkcs8_der(&broken, None, None).err(), Some(KeyError::Unsupported));
    }
}

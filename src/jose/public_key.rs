//! Public keys that verify signatures, and their JWK form (RFC 7517).
use super::error::InvalidToken;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

/// RSA keys have at least 2048 bits (RFC 7518 §3.3).
pub(super) const MIN_RSA_BYTES: usize = 256;
/// The first byte of an uncompressed elliptic curve point (SEC 1 §2.3.3).
const UNCOMPRESSED: u8 = 4;

/// A public key. Elliptic curve points are uncompressed, and RSA numbers have no leading zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PublicKey {
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

impl PublicKey {
    /// Reads an `RSAPublicKey` of PKCS#1.
    pub(super) fn from_pkcs1(der: &[u8]) -> Option<Self> {
        let (_, key) = RSAPublicKey::from_der(der).ok()?;
        Self::rsa(key.modulus, key.exponent)
    }

    pub(super) fn rsa(n: &[u8], e: &[u8]) -> Option<Self> {
        let trimmed = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
        let (n, e) = (trimmed(n), trimmed(e));
        let bits_used = n.len() > MIN_RSA_BYTES || (n.len() == MIN_RSA_BYTES && n[0] >= 0x80);
        (bits_used && !e.is_empty()).then_some(Self::Rsa { n, e })
    }

    /// The algorithms that the key may be used with, whatever a header says (RFC 8725 §3.1).
    /// `Ed25519` (RFC 9864) and `EdDSA` are distinct names.
    pub(super) fn algorithms(&self) -> &'static [&'static str] {
        match self {
            Self::P256(_) => &["ES256"],
            Self::P384(_) => &["ES384"],
            Self::Ed25519(_) => &["EdDSA"],
            Self::Rsa { .. } => &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        }
    }

    pub(super) fn verify(&self, alg: &str, message: &[u8], signature: &[u8]) -> Result<(), InvalidToken> {
        let unparsed = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature).map_err(|_| InvalidToken::Signature)
        };
        match self {
            Self::P256(point) => unparsed(&ECDSA_P256_SHA256_FIXED, point),
            Self::P384(point) => unparsed(&ECDSA_P384_SHA384_FIXED, point),
            Self::Ed25519(key) => unparsed(&ED25519, key),
            Self::Rsa { n, e } => {
                let parameters = rsa_parameters(alg).ok_or(InvalidToken::Algorithm)?;
                RsaPublicKeyComponents { n, e }
                    .verify(parameters, message, signature)
                    .map_err(|_| InvalidToken::Signature)
            }
        }
    }

    /// The JWK with its required members only.
    pub(super) fn jwk(&self) -> Value {
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::P256(point) => {
                json!({"kty": "EC", "crv": "P-256", "x": encoded(&point[1..33]), "y": encoded(&point[33..])})
            }
            Self::P384(point) => {
                json!({"kty": "EC", "crv": "P-384", "x": encoded(&point[1..49]), "y": encoded(&point[49..])})
            }
            Self::Ed25519(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(key)}),
            Self::Rsa { n, e } => json!({"kty": "RSA", "n": encoded(n), "e": encoded(e)}),
        }
    }

    /// The thumbprint (RFC 7638): SHA-256 over the required members in lexicographic order, which
    /// `serde_json`'s map keeps.
    pub(super) fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.jwk().to_string().as_bytes()))
    }
}

/// The uncompressed point. Coordinates have a fixed length, and one that was not padded is refused
/// (RFC 7518 §6.2.1.2).
pub(super) fn point(x: Vec<u8>, y: Vec<u8>, length: usize) -> Option<Vec<u8>> {
    (x.len() == length && y.len() == length).then(|| [vec![UNCOMPRESSED], x, y].concat())
}

fn rsa_parameters(alg: &str) -> Option<&'static RsaParameters> {
    Some(match alg {
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "PS384" => &RSA_PSS_2048_8192_SHA384,
        "PS512" => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

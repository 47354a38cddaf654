//! Kinds of key pairs with their JWS algorithms and JWKs.
use anyhow::Context;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rcgen::KeyPair;
use serde_json::Value;

/// The kinds of keys that an SVID may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on P-256, SPIRE's default.
    #[default]
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA with 2048 bits. Generating one takes a noticeable part of a second.
    Rsa2048,
    /// Ed25519, which is allowed in X.509 but not for JWT-SVIDs.
    Ed25519,
}

/// The algorithm of a [`super::JwtAuthority`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl JwtAlgorithm {
    pub(super) fn key_type(self) -> KeyType {
        match self {
            Self::Es256 => KeyType::P256,
            Self::Rs256 => KeyType::Rsa2048,
        }
    }
}

impl KeyType {
    pub(super) fn generate(self) -> anyhow::Result<KeyPair> {
        let algorithm = match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
        };
        KeyPair::generate_for(algorithm).context("cannot generate a key")
    }

    pub(super) fn jws_algorithm(self) -> Algorithm {
        match self {
            Self::P256 => Algorithm::ES256,
            Self::P384 => Algorithm::ES384,
            Self::Rsa2048 => Algorithm::RS256,
            Self::Ed25519 => Algorithm::EdDSA,
        }
    }

    pub(super) fn encoding_key(self, key: &KeyPair) -> anyhow::Result<EncodingKey> {
        match self {
            Self::P256 | Self::P384 => Ok(EncodingKey::from_ec_der(key.serialized_der())),
            Self::Ed25519 => Ok(EncodingKey::from_ed_der(key.serialized_der())),
            // jsonwebtoken expects PKCS#1 if the key is DER, and accepts PKCS#8 only if it is PEM.
            Self::Rsa2048 => Ok(EncodingKey::from_rsa_pem(key.serialize_pem().as_bytes())?),
        }
    }

    /// The public key as a JWK without `kid`, `use` and `alg`.
    pub(super) fn public_jwk(self, key: &KeyPair) -> anyhow::Result<Value> {
        let raw = key.public_key_raw();
        let public = match self {
            Self::P256 | Self::P384 => DecodingKey::from_ec_der(raw),
            Self::Ed25519 => DecodingKey::from_ed_der(raw),
            Self::Rsa2048 => DecodingKey::from_rsa_der(raw),
        };
        let jwk = Jwk::from_decoding_key(&public, Some(self.jws_algorithm())).context("no JWK for this key")?;
        Ok(serde_json::to_value(jwk)?)
    }
}

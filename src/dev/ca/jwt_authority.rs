//! JWT signing keys, of a trust domain for JWT-SVIDs or of an authorization server for ID tokens
//! and access tokens.
use super::{JwtAlgorithm, KeyType};
use crate::clock::Clock;
use crate::sync::lock;
use anyhow::Context;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Signs JWTs with the newest of its keys and publishes all of them. Clones share the keys.
#[derive(Clone)]
pub struct JwtAuthority {
    clock: Clock,
    algorithm: JwtAlgorithm,
    keys: Arc<Mutex<Vec<Key>>>,
}

struct Key {
    kid: String,
    private: EncodingKey,
    jwk: Value,
}

impl fmt::Debug for JwtAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtAuthority").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl JwtAuthority {
    /// Creates an authority with one new key.
    pub fn new(algorithm: JwtAlgorithm, clock: &Clock) -> anyhow::Result<Self> {
        let keys = Arc::new(Mutex::new(vec![Key::generate(algorithm.key_type())?]));
        Ok(Self { clock: clock.clone(), algorithm, keys })
    }

    /// Adds a key and signs with it. The old keys stay published.
    pub fn rotate(&self) -> anyhow::Result<()> {
        let next = Key::generate(self.algorithm.key_type())?;
        self.lock().push(next);
        Ok(())
    }

    /// Withdraws every key but the signing key.
    pub fn revoke(&self) {
        let mut keys = self.lock();
        let old = keys.len() - 1;
        keys.drain(..old);
    }

    /// The published keys as a JWK set for OAuth, with `use: sig` (RFC 7517 §5).
    pub fn jwks(&self) -> Value {
        self.published("sig")
    }

    /// The published keys as a SPIFFE bundle, with `use: jwt-svid` (JWT-SVID §6).
    pub fn bundle(&self) -> Value {
        self.published("jwt-svid")
    }

    /// Signs exactly these claims, with `typ` and the signing key's `kid` in the header.
    pub fn sign(&self, typ: &str, claims: &Value) -> anyhow::Result<String> {
        let keys = self.lock();
        let key = keys.last().context("there is no key")?;
        let mut header = Header::new(self.algorithm.key_type().jws_algorithm());
        header.typ = Some(typ.to_owned());
        header.kid = Some(key.kid.clone());
        jsonwebtoken::encode(&header, claims, &key.private).context("cannot sign")
    }

    /// Signs these claims after adding `iat`, `exp` and `jti` if they are missing.
    pub fn mint(&self, typ: &str, ttl: Duration, mut claims: Value) -> anyhow::Result<String> {
        let now = self.clock.now();
        let members = claims.as_object_mut().context("claims are an object")?;
        members.entry("iat").or_insert_with(|| json!(now.unix_seconds()));
        members.entry("exp").or_insert_with(|| json!(now.plus(ttl).unix_seconds()));
        members.entry("jti").or_insert_with(|| json!(format!("{:032x}", fastrand::u128(..))));
        self.sign(typ, &claims)
    }

    /// Signs a JWT-SVID (JWT-SVID §3) with `sub`, `aud`, `exp` and `iat`.
    pub fn jwt_svid(&self, id: &str, audience: &[String], ttl: Duration) -> anyhow::Result<String> {
        let now = self.clock.now();
        let exp = now.plus(ttl).unix_seconds();
        self.sign("JWT", &json!({ "sub": id, "aud": audience, "iat": now.unix_seconds(), "exp": exp }))
    }

    fn published(&self, usage: &str) -> Value {
        let published = self.lock();
        let keys: Vec<Value> = published.iter().map(|key| key.published(usage)).collect();
        json!({ "keys": keys })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Key>> {
        lock(&self.keys)
    }
}

impl Key {
    fn generate(key_type: KeyType) -> anyhow::Result<Self> {
        let pair = key_type.generate()?;
        Ok(Self {
            kid: format!("{:016x}", fastrand::u64(..)),
            private: key_type.encoding_key(&pair)?,
            jwk: key_type.public_jwk(&pair)?,
        })
    }

    fn published(&self, usage: &str) -> Value {
        let mut jwk = self.jwk.clone();
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!(usage);
        jwk
    }
}

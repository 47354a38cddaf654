//! Verifies tokens with their issuer's keys. Nothing in a token is used before its signature has
//! been checked.
use super::error::VerifyError;
use super::runtime::Issuer;
use crate::jose::{InvalidToken, Rules, TokenKind, Unverified, Verified, verify};
use std::sync::Arc;
use std::time::Duration;

/// How far an issuer's clock may differ from ours.
const LEEWAY: Duration = Duration::from_secs(30);

/// Verifies tokens of one issuer. It is cheap to create and to clone.
#[derive(Clone)]
pub struct TokenVerifier(Arc<Issuer>);

/// The properties that a token must have.
#[derive(Clone, Copy, Debug)]
pub struct TokenRules<'a> {
    /// The kind of token, which decides its `typ`.
    pub kind: TokenKind,
    /// The values that its `aud` may have.
    pub audience: Audience<'a>,
}

/// The audience that a token must have.
#[derive(Clone, Copy, Debug)]
pub enum Audience<'a> {
    /// Our client ID at the issuer (for an ID token, OpenID Connect Core §3.1.3.7).
    OwnClientId,
    /// Any one of these.
    AnyOf(&'a [String]),
}

impl TokenVerifier {
    /// Creates a verifier of tokens that this issuer has signed.
    pub fn new(issuer: Arc<Issuer>) -> Self {
        Self(issuer)
    }

    /// Verifies the signature, the issuer, the validity period and the rules.
    ///
    /// # Errors
    /// [`VerifyError::Token`] if the token is not valid, and [`VerifyError::Issuer`] if the keys
    /// cannot be obtained.
    pub async fn verify(&self, token: &str, rules: &TokenRules<'_>) -> Result<Verified, VerifyError> {
        let issuer = &*self.0;
        // Text that is not a JWT at all causes no request.
        Unverified::parse(token)?;
        let own_id;
        let audiences = match rules.audience {
            Audience::AnyOf(audiences) => audiences,
            Audience::OwnClientId => {
                own_id = [issuer.client_id()?];
                &own_id
            }
        };
        let rules = Rules { kind: rules.kind, issuer: &issuer.server().issuer, audiences, leeway: LEEWAY };
        let keys = issuer.keys().await?;
        let now = || issuer.workload().now();
        let first = verify(token, &keys, &rules, now());
        let result = match first {
            // The issuer may have rotated its keys since they were fetched.
            Err(InvalidToken::UnknownKey) => match issuer.newer_keys(&keys).await? {
                Some(newer) => verify(token, &newer, &rules, now()),
                None => first,
            },
            _ => first,
        };
        let verified = result?;
        // Leeway is for reading an issuer's clock. What is obtained for a token must not outlive
        // it, so a token that has expired by our clock obtains nothing.
        if verified.expires_at <= now() {
            return Err(InvalidToken::Expired.into());
        }
        Ok(verified)
    }
}

//! Verifying a token by its issuer's keys. Nothing in it is used before a key says that the issuer signed it.
use super::error::VerifyError;
use super::runtime::Issuer;
use crate::jose::{InvalidToken, Rules, TokenKind, Unverified, Verified, verify};
use std::sync::Arc;
use std::time::Duration;

/// How far an issuer's clock may be from ours.
const LEEWAY: Duration = Duration::from_secs(30);

/// Verifies tokens of one issuer. Cheap to make and to clone.
#[derive(Clone)]
pub struct TokenVerifier(Arc<Issuer>);

/// What a token must be.
#[derive(Clone, Copy, Debug)]
pub struct TokenRules<'a> {
    /// The kind of token, which decides its `typ`.
    pub kind: TokenKind,
    /// What its `aud` must contain.
    pub audience: Audience<'a>,
}

/// Whom a token must be for.
#[derive(Clone, Copy, Debug)]
pub enum Audience<'a> {
    /// Our client id at the issuer (for an ID token, OpenID Connect Core §3.1.3.7).
    OwnClientId,
    /// One of these.
    AnyOf(&'a [String]),
}

impl TokenVerifier {
    /// A verifier of tokens that this issuer has signed.
    pub fn new(issuer: Arc<Issuer>) -> Self {
        Self(issuer)
    }

    /// Verifies the signature and all that the rules ask for.
    ///
    /// # Errors
    /// [`VerifyError::Token`] if the token is not valid, and [`VerifyError::Issuer`] if the keys cannot be obtained.
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
        // Leeway is for reading an issuer's clock. What is obtained for a token must not outlive it, so a token that has expired
        // by our clock obtains nothing.
        if verified.expires_at <= now() {
            return Err(InvalidToken::Expired.into());
        }
        Ok(verified)
    }
}

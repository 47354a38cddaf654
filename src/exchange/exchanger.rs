//! Mints an access token for a grant.
use super::context::Context;
use super::error::{ExchangeError, Failure};
use super::grant::Grant;
use super::metrics::Metrics;
use super::principal::Principal;
use super::request::TokenRequest;
use super::response::IssuedToken;
use crate::clock::Timestamp;
use crate::issuer::Issuers;
use crate::jose::InvalidToken;
use crate::secret::Secret;
use std::sync::Arc;

/// Asks authorization servers for tokens. It keeps connections, metadata and keys, but no tokens.
/// Clones share all of them.
#[derive(Clone)]
pub struct Exchanger(Arc<Context>);

impl Exchanger {
    /// Creates an exchanger that asks these issuers. Without an identity it can only serve grants
    /// that need none.
    pub fn new(issuers: Issuers, metrics: Metrics) -> Self {
        Self(Arc::new(Context { issuers, metrics }))
    }

    /// Asks for an access token. `user` is the user's token, for a grant whose subject is one.
    ///
    /// # Errors
    /// Any [`ExchangeError`]. Only two things are retried, once each: a request that was never
    /// sent, and an ID-JAG that was refused.
    pub async fn mint(&self, grant: &Grant, user: Option<&Secret>) -> Result<IssuedToken, ExchangeError> {
        let context = &*self.0;
        let server = &grant.server().name;
        let principal = Box::pin(Principal::of(grant, user, context)).await?;
        let issued = TokenRequest { context, grant, principal: &principal }.access_token().await?;
        bounded(issued, &principal, context.workload().now()).map_err(|failure| ExchangeError::new(server, failure))
    }
}

/// Makes the token expire no later than the user's token that it was issued for.
fn bounded(mut issued: IssuedToken, principal: &Principal<'_>, now: Timestamp) -> Result<IssuedToken, Failure> {
    if let Some(user) = principal.user() {
        if user.verified.expires_at <= now {
            return Err(Failure::UserToken(InvalidToken::Expired));
        }
        issued.expires_at = issued.expires_at.min(user.verified.expires_at);
    }
    if issued.expires_at <= now { Err(Failure::Expired) } else { Ok(issued) }
}

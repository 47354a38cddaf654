//! Mints an access token for a grant.
use super::context::Context;
use super::error::{ExchangeError, Failure};
use super::grant::Grant;
use super::metrics::Metrics;
use super::principal::Principal;
use super::request::TokenRequest;
use super::response::Issued;
use crate::clock::{Clock, Timestamp};
use crate::identity::Identity;
use crate::issuer::{Issuers, Workload};
use crate::jose::InvalidToken;
use crate::secret::Secret;
use std::sync::Arc;

/// Asks authorization servers for tokens. It keeps connections, metadata and keys, but no tokens.
/// Clones share all of them.
#[derive(Clone)]
pub struct Exchanger(Arc<Context>);

/// An access token that a server has just issued.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The token. It is a `token68` (RFC 9110 §11.2), so a header can carry it as it is.
    pub token: Secret,
    /// When the token expires: the earliest of `expires_in`, its own `exp`, and the expiry of the
    /// user's token.
    pub expires_at: Timestamp,
    /// The granted scopes, sorted. They are the requested ones if the server named none (RFC 6749
    /// §5.1).
    pub scopes: Vec<String>,
}

impl Exchanger {
    /// Creates an exchanger. Without an identity it can only serve grants that need none.
    pub fn new(identity: Option<Identity>, clock: Clock, metrics: Metrics) -> Self {
        let issuers = Issuers::new(Workload::new(identity, clock));
        Self(Arc::new(Context { issuers, metrics }))
    }

    /// Asks for an access token. `user` is the user's token, for a grant whose subject is one.
    ///
    /// # Errors
    /// Any [`ExchangeError`]. Only two things are retried, once each: a request that was never
    /// sent, and an ID-JAG that was refused.
    pub async fn mint(&self, grant: &Grant, user: Option<&Secret>) -> Result<Minted, ExchangeError> {
        let context = &*self.0;
        let server = &grant.server().name;
        let principal = Box::pin(Principal::of(grant, user, context)).await?;
        let issued = TokenRequest { context, grant, principal: &principal }.access_token().await?;
        minted(issued, grant, &principal, context.workload().now())
            .map_err(|failure| ExchangeError::new(server, failure))
    }
}

fn minted(issued: Issued, grant: &Grant, principal: &Principal<'_>, now: Timestamp) -> Result<Minted, Failure> {
    let mut expires_at = issued.expires_at;
    if let Some(user) = principal.user() {
        if user.verified.expires_at <= now {
            return Err(Failure::UserToken(InvalidToken::Expired));
        }
        expires_at = expires_at.min(user.verified.expires_at);
    }
    if expires_at <= now {
        return Err(Failure::Expired);
    }
    let scopes = issued.scopes.unwrap_or_else(|| grant.scopes.clone());
    Ok(Minted { token: issued.token, expires_at, scopes })
}

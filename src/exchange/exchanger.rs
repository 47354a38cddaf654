//! Minting: one grant in, one access token out.
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

/// Asks authorization servers for tokens. It keeps connections, metadata and keys, and no token. Clones share all of it.
#[derive(Clone)]
pub struct Exchanger(Arc<Context>);

/// An access token, fresh from the server.
#[derive(Clone, Debug)]
pub struct Minted {
    /// May stand after `Bearer` as it is: it is a `token68`.
    pub token: Secret,
    /// When it ends: by the server's word, by its own `exp`, and never after the user's token.
    pub expires_at: Timestamp,
    /// The scopes that it has, sorted; what was asked for if the server did not say.
    pub scopes: Vec<String>,
}

impl Exchanger {
    /// Without an identity it serves grants that need none.
    pub fn new(identity: Option<Identity>, clock: Clock, metrics: Metrics) -> Self {
        let issuers = Issuers::new(Workload::new(identity, clock));
        Self(Arc::new(Context { issuers, metrics }))
    }

    /// Asks for an access token. `user` is the user's token, for a grant whose subject is one.
    ///
    /// # Errors
    /// [`ExchangeError`]; nothing is retried here but what was never sent and, once, an ID-JAG that was refused.
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

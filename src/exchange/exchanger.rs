//! Minting: one grant in, one access token out.
use super::error::{ExchangeError, Failure};
use super::grant::{Grant, Subject};
use super::issuer::runtime::{Around, Peer};
use super::issuer::settings::AuthorizationServer;
use super::issuer::verify::believe;
use super::metrics::{Leg, Metrics};
use super::request::Asking;
use super::response::Issued;
use crate::clock::{Clock, Timestamp};
use crate::identity::Identity;
use crate::jose::{Refused, Verified};
use crate::secret::Secret;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Asks authorization servers for tokens. It keeps connections, metadata and keys, and no token. Clones share all of it.
#[derive(Clone)]
pub struct Exchanger(Arc<Shared>);

struct Shared {
    identity: Option<Identity>,
    clock: Clock,
    metrics: Metrics,
    peers: Mutex<HashMap<usize, Arc<Peer>>>,
}

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

/// In whose name, verified.
pub(super) enum Principal<'a> {
    Own,
    User { token: &'a Secret, verified: Verified },
}

impl Exchanger {
    /// Without an identity it serves grants that need none.
    pub fn new(identity: Option<Identity>, clock: Clock, metrics: Metrics) -> Self {
        Self(Arc::new(Shared { identity, clock, metrics, peers: Mutex::default() }))
    }

    /// Asks for an access token. `user` is the user's token, for a grant whose subject is one.
    ///
    /// # Errors
    /// [`ExchangeError`]; nothing is retried here but what was never sent and, once, an ID-JAG that was refused.
    pub async fn mint(&self, grant: &Grant, user: Option<&Secret>) -> Result<Minted, ExchangeError> {
        let server = self.peer(grant.server());
        grant.check().map_err(|error| server.error(Failure::Configuration(error.to_string())))?;
        let principal = Box::pin(self.principal(grant, user)).await?;
        let asking = Asking { exchanger: self, grant, principal: &principal };
        let issued = asking.access_token(&server).await?;
        self.minted(issued, grant, &principal).map_err(|failure| server.error(failure))
    }

    /// What is known of a server while it runs. Servers that a reload has dropped are forgotten.
    pub(super) fn peer(&self, server: &Arc<AuthorizationServer>) -> Arc<Peer> {
        // The peer holds the server, so that nothing else can have its address meanwhile.
        let key = Arc::as_ptr(server).addr();
        let mut peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&key) {
            return Arc::clone(peer);
        }
        peers.retain(|_, peer| Arc::strong_count(&peer.server) > 1);
        self.0.metrics.declare(&server.name);
        let peer = Arc::new(Peer::new(Arc::clone(server)));
        peers.insert(key, Arc::clone(&peer));
        peer
    }

    pub(super) fn around(&self) -> Around<'_> {
        Around { identity: self.0.identity.as_ref(), clock: &self.0.clock }
    }

    pub(super) async fn counted<T>(
        &self,
        peer: &Peer,
        leg: Leg,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, ExchangeError> {
        let started = tokio::time::Instant::now();
        let result = request.await.map_err(|failure| peer.error(failure));
        self.0.metrics.count(&peer.server.name, leg, &result, started.elapsed());
        result
    }

    async fn principal<'a>(&self, grant: &Grant, user: Option<&'a Secret>) -> Result<Principal<'a>, ExchangeError> {
        let Subject::User(rule) = &grant.subject else { return Ok(Principal::Own) };
        let issuer = self.peer(&rule.server);
        let token = user.ok_or_else(|| issuer.error(Failure::NoUserToken))?;
        let verified =
            believe(token.expose(), rule, &issuer, self.around()).await.map_err(|failure| issuer.error(failure))?;
        Ok(Principal::User { token, verified })
    }

    fn minted(&self, issued: Issued, grant: &Grant, principal: &Principal<'_>) -> Result<Minted, Failure> {
        let now = self.0.clock.now();
        let end = match principal {
            Principal::User { verified, .. } if verified.expires_at <= now => {
                return Err(Failure::UserToken(Refused::Expired));
            }
            Principal::User { verified, .. } => issued.expires_at.min(verified.expires_at),
            Principal::Own => issued.expires_at,
        };
        if end <= now {
            return Err(Failure::Expired);
        }
        let scopes = issued.scopes.unwrap_or_else(|| grant.scopes.clone());
        Ok(Minted { token: issued.token, expires_at: end, scopes })
    }
}

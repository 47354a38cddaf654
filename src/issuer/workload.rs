//! The workload on whose behalf issuers are asked.
use super::error::IssuerError;
use crate::clock::{Clock, Timestamp};
use crate::identity::{Identity, Snapshot};
use crate::secret::Secret;
use std::sync::Arc;

/// The dependencies of requests to issuers: the workload's identity, if one is configured, and the
/// clock.
#[derive(Clone, Debug)]
pub struct Workload {
    identity: Option<Identity>,
    clock: Clock,
}

impl Workload {
    /// Creates a workload. Without an identity, only requests that need none can be made.
    pub fn new(identity: Option<Identity>, clock: Clock) -> Self {
        Self { identity, clock }
    }

    /// The source of the workload's identity.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The clock for the validity of tokens and documents.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The current time of [`Self::clock`].
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The X.509-SVID that may be used now.
    ///
    /// # Errors
    /// [`IssuerError::Identity`] if there is none.
    pub fn snapshot(&self) -> Result<Arc<Snapshot>, IssuerError> {
        self.required()?.current().map_err(|missing| IssuerError::Identity(missing.to_string()))
    }

    /// The SPIFFE ID that may be used now.
    ///
    /// # Errors
    /// [`IssuerError::Identity`] if there is none.
    pub fn spiffe_id(&self) -> Result<String, IssuerError> {
        Ok(self.snapshot()?.svid.id.to_string())
    }

    /// A JWT-SVID for exactly this audience. With several audiences, each could replay the SVID to
    /// the others.
    ///
    /// # Errors
    /// [`IssuerError::Identity`] if there is none.
    pub async fn jwt_svid(&self, audience: &str) -> Result<Secret, IssuerError> {
        let svid = self.required()?.jwt_svid(audience).await;
        svid.map(|svid| svid.token).map_err(|error| IssuerError::Identity(error.to_string()))
    }

    fn required(&self) -> Result<&Identity, IssuerError> {
        self.identity.as_ref().ok_or_else(|| IssuerError::Identity("no source of one is configured".to_owned()))
    }
}

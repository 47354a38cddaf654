//! The state of the server: its clients, its keys, and the requests it has received.
use super::record::Recorded;
use super::registry::Registry;
use crate::clock::{Clock, Timestamp};
use crate::dev::ca::JwtAuthority;
use crate::dev::faults::Faults;
use crate::dev::request_log::RequestLog;
use crate::sync::lock;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

/// The state of the server.
pub(super) struct IssuerState {
    pub(super) issuer: String,
    pub(super) path: String,
    pub(super) clock: Clock,
    pub(super) keys: JwtAuthority,
    pub(super) registry: Mutex<Registry>,
    pub(super) metadata_patch: Mutex<Value>,
    /// The ids of assertions that were accepted, until they expire, to detect replays (RFC 7523
    /// §3).
    pub(super) used_assertions: Mutex<HashMap<String, Timestamp>>,
    pub(super) log: RequestLog<Recorded>,
    pub(super) faults: Endpoints,
}

/// The faults of each endpoint.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// The faults of `/token`.
    pub token: Faults,
    /// The faults of both metadata documents.
    pub metadata: Faults,
    /// The faults of the JWK set.
    pub jwks: Faults,
}

impl IssuerState {
    /// Records the id of an assertion. Returns false if it was used before.
    pub(super) fn first_use(&self, id: &str, expiry: Timestamp) -> bool {
        let now = self.clock.now();
        let mut used_assertions = lock(&self.used_assertions);
        used_assertions.retain(|_, expiry| *expiry > now);
        used_assertions.insert(id.to_owned(), expiry).is_none()
    }

    /// A copy of the registry, so that no lock is held while keys are fetched.
    pub(super) fn registry(&self) -> Registry {
        lock(&self.registry).clone()
    }

    pub(super) fn token_endpoint(&self) -> String {
        format!("{}/token", self.issuer)
    }
}

impl fmt::Debug for IssuerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerState").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

//! The status of a running proxy, for people and for `idjag-proxy status`. It contains no secret.
use crate::clock::Timestamp;
use crate::identity::SourceStatus;
use crate::policy::{Route, RouteDescription};
use crate::token::Slot;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The status of a proxy at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The version of the proxy.
    pub version: String,
    /// Whether the next request could succeed.
    pub ready: bool,
    /// What the proxy is waiting for before it is ready.
    pub waiting_for: Vec<String>,
    /// The current log level.
    pub log_level: String,
    /// The configuration in force.
    pub config: ReloadStatus,
    /// The workload's identity, if a route needs it.
    pub identity: Option<IdentityStatus>,
    /// The routes, in the order of the file.
    pub routes: Vec<RouteStatus>,
    /// The number of requests in flight.
    pub requests: i64,
    /// The number of connections that agents hold.
    pub connections: i64,
}

/// Which configuration is in force, and since when.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// SHA-256 of the configuration file, in hexadecimal.
    pub hash: String,
    /// When it was loaded, in seconds since the epoch.
    pub loaded_at: u64,
    /// Why the newest file was refused, if it was. The one before it is then still in force.
    pub refused: Option<String>,
}

/// The workload's identity and its source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// The source, described for people.
    pub source: String,
    /// Whether the source is connected.
    pub connected: bool,
    /// What the source is waiting for, if it is.
    pub waiting_for: Option<String>,
    /// The SPIFFE ID of the SVID, once one has arrived.
    pub spiffe_id: Option<String>,
    /// When the SVID expires, in seconds since the epoch.
    pub expires_at: Option<u64>,
    /// Why the newest update was refused, if it was.
    pub last_refused: Option<String>,
}

impl From<SourceStatus> for IdentityStatus {
    fn from(status: SourceStatus) -> Self {
        Self {
            source: status.source,
            connected: status.connected,
            waiting_for: status.waiting_for,
            spiffe_id: status.spiffe_id,
            expires_at: status.expires_at,
            last_refused: status.last_refused,
        }
    }
}

/// A route and its token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteStatus {
    /// The name of the route.
    pub name: String,
    /// The methods, host, port and path that the route matches.
    pub matches: String,
    /// The credential that its requests carry.
    pub credential: String,
    /// Options that are dangerous.
    pub notes: Vec<String>,
    /// The token of the workload's own grant, if one is held.
    pub token: Option<TokenStatus>,
}

/// A token that is held.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenStatus {
    /// When the token expires, in seconds since the epoch.
    pub expires_at: u64,
    /// Whether a request would be sent with it now.
    pub usable: bool,
    /// The scopes that the server granted.
    pub scopes: Vec<String>,
}

impl RouteStatus {
    /// Describes `route`, with the token that `slot` holds at `now`.
    pub fn new(route: &Route, slot: Option<&Arc<Slot>>, now: Timestamp) -> Self {
        let RouteDescription { credential, warnings, .. } = route.description();
        let token = slot.and_then(|slot| slot.held()).map(|token| TokenStatus {
            expires_at: token.expires_at().unix_seconds(),
            usable: token.is_usable(now),
            scopes: token.scopes().to_vec(),
        });
        let (name, matches) = (route.name.to_string(), route.matcher.to_string());
        Self { name, matches, credential, notes: warnings, token }
    }
}

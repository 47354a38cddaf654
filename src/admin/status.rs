//! What a running proxy holds, for people and for `idjag-proxy status`. No secret is in it.
use crate::clock::Timestamp;
use crate::policy::{CredentialRule, Route, TokenSource};
use crate::token::Slot;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The whole page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Of this build.
    pub version: String,
    /// Whether the next request could succeed; else what is waited for.
    pub ready: bool,
    /// One line each.
    pub waiting_for: Vec<String>,
    /// The log level of now.
    pub log_level: String,
    /// The configuration.
    pub config: ReloadStatus,
    /// The workload's identity, where a route needs it.
    pub identity: Option<IdentityStatus>,
    /// Every route.
    pub routes: Vec<RouteStatus>,
    /// Requests in flight.
    pub requests: i64,
    /// Connections that agents hold.
    pub connections: i64,
}

/// How the configuration in force came to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// Names the content in force.
    pub hash: String,
    /// Seconds since the epoch.
    pub loaded_at: u64,
    /// Why the newest file was refused, if it was: then the one before is in force.
    pub refused: Option<String>,
}

/// The identity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// Where it comes from.
    pub source: String,
    /// Whether that is connected.
    pub connected: bool,
    /// What it waits for, if it does.
    pub waiting_for: Option<String>,
    /// The SPIFFE ID, once one is held.
    pub spiffe_id: Option<String>,
    /// Seconds since the epoch.
    pub expires_at: Option<u64>,
    /// Why the newest update was refused, if it was.
    pub last_refused: Option<String>,
}

/// One route.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteStatus {
    /// Its name.
    pub name: String,
    /// Host, port, path, methods.
    pub matches: String,
    /// What its requests carry.
    pub credential: String,
    /// What is worth a second look: dangerous options.
    pub notes: Vec<String>,
    /// The token of a grant of the workload's own.
    pub token: Option<TokenStatus>,
}

/// A held token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Seconds since the epoch.
    pub expires_at: u64,
    /// Whether it would be sent now.
    pub usable: bool,
    /// What the server granted.
    pub scopes: Vec<String>,
}

impl RouteStatus {
    /// How a route stands.
    pub fn new(route: &Route, slot: Option<&Arc<Slot>>, now: Timestamp) -> Self {
        let matcher = &route.matcher;
        let port = matcher.port.map_or_else(String::new, |port| format!(":{port}"));
        let methods: Vec<&str> = matcher.methods.iter().map(http::Method::as_str).collect();
        let methods = if methods.is_empty() { String::new() } else { format!("{} ", methods.join(",")) };
        let (credential, notes) = match &route.credential {
            CredentialRule::Token(rule) => {
                let whose = match &rule.source {
                    TokenSource::Own => "the agent itself".to_owned(),
                    TokenSource::Header(name) => format!("the user in `{name}`"),
                    TokenSource::File(path) => format!("the user in {}", path.display()),
                };
                (format!("token of `{}` for {whose}", rule.grant.server().name), Vec::new())
            }
            CredentialRule::LegacySecret { header, .. } => {
                (format!("static key in `{header}`"), vec!["a static key is an anti-pattern".to_owned()])
            }
            CredentialRule::Tunnel => ("opaque TLS".to_owned(), Vec::new()),
            CredentialRule::None { keep_credentials: true } => {
                ("none".to_owned(), vec!["the agent's own credentials pass".to_owned()])
            }
            CredentialRule::None { keep_credentials: false } => ("none".to_owned(), Vec::new()),
        };
        let token = slot.and_then(|slot| slot.held()).map(|token| TokenStatus {
            expires_at: token.expires_at().unix_seconds(),
            usable: token.is_usable(now),
            scopes: token.scopes().to_vec(),
        });
        let matches = format!("{methods}{}{port}{}", matcher.host, matcher.path);
        Self { name: route.name.to_string(), matches, credential, notes, token }
    }
}

//! Which header fields of the agent's requests a route removes.
use super::fields::{FieldMeaning, is_same_field};
use super::route::{CredentialRule, Route, TokenSource};
use http::HeaderName;
use std::sync::Arc;

/// What happens to the credentials that the agent itself sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentCredentials {
    /// They are removed from the request.
    Strip,
    /// They are forwarded: the route says `keep_credentials`.
    Forward,
}

impl AgentCredentials {
    /// What happens to them on a route whose requests carry `credential`.
    pub fn of(credential: &CredentialRule) -> Self {
        match credential {
            CredentialRule::None { keep_credentials: true } => Self::Forward,
            _ => Self::Strip,
        }
    }
}

/// What a route removes from the agent's requests, in addition to what every route removes.
#[derive(Clone, Copy, Debug)]
pub struct StripRules<'r> {
    /// What happens to the agent's own credentials.
    pub agent_credentials: AgentCredentials,
    /// Whether fields are removed that replace the method or the target at some servers.
    pub strips_overrides: bool,
    /// Fields that carry users' tokens and the proxy's own credentials.
    pub reserved: &'r [HeaderName],
}

impl StripRules<'_> {
    /// Whether the field `name` is removed from the agent's requests: because it concerns one hop
    /// alone (RFC 9110 §7.6.1), because only a proxy may assert it, because an upstream might read
    /// it as a field that frames the message, or because of these rules.
    pub fn removes(&self, name: &HeaderName) -> bool {
        let meaning = FieldMeaning::of(name);
        meaning.is_hop_by_hop()
            || meaning.is_forwarding()
            || (meaning.is_credential() && self.agent_credentials == AgentCredentials::Strip)
            || (meaning.is_override() && self.strips_overrides)
            // No structural field has an underscore.
            || (meaning.is_structural() && name.as_str().contains('_'))
            || self.reserved.iter().any(|reserved| is_same_field(reserved, name))
    }
}

/// Headers that the agent's requests must not carry to an upstream, in any spelling. In addition,
/// the well-known ones are removed wherever the agent's credentials are.
pub struct ReservedHeaders {
    /// Users' tokens, which reach no upstream.
    user_tokens: Vec<HeaderName>,
    /// Access tokens. Only the proxy sends them, except on a route that forwards the agent's own
    /// credentials.
    access_tokens: Vec<HeaderName>,
}

impl ReservedHeaders {
    /// The headers that any of `routes` uses.
    pub fn new<'r>(routes: impl IntoIterator<Item = &'r Route>) -> Self {
        let (mut user_tokens, mut access_tokens) = (Vec::new(), Vec::new());
        for route in routes {
            let CredentialRule::Token(rule) = &route.credential else { continue };
            if let TokenSource::Header(name) = &rule.source {
                user_tokens.push(name.clone());
            }
            let name = rule.placement.header();
            if !FieldMeaning::of(name).is_credential() {
                access_tokens.push(name.clone());
            }
        }
        Self { user_tokens, access_tokens }
    }

    /// The headers that a route removes if its requests carry `credential`, sorted by name.
    pub fn of(&self, credential: &CredentialRule) -> Arc<[HeaderName]> {
        let mut names = self.user_tokens.clone();
        match credential {
            CredentialRule::None { keep_credentials: true } => {}
            CredentialRule::LegacySecret { placement, .. } => {
                names.push(placement.header().clone());
                names.extend_from_slice(&self.access_tokens);
            }
            _ => names.extend_from_slice(&self.access_tokens),
        }
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        names.into()
    }
}

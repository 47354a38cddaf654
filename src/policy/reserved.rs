//! Which headers of the agent a route removes because of what routes put on requests.
use super::fields::{FieldMeaning, is_same_field};
use super::route::{CredentialRule, Route, TokenSource};
use http::HeaderName;
use std::sync::Arc;

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

    /// Whether a route whose requests carry `credential` removes the agent's header `name`.
    pub fn removes(&self, name: &HeaderName, credential: &CredentialRule) -> bool {
        let keeps_credentials = matches!(credential, CredentialRule::None { keep_credentials: true });
        let meaning = FieldMeaning::of(name);
        meaning.is_forwarding()
            || (meaning.is_credential() && !keeps_credentials)
            || self.of(credential).iter().any(|reserved| is_same_field(reserved, name))
    }
}

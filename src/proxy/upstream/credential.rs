//! What a request is sent with, and how it is put on the request.
use crate::policy::Placement;
use crate::token::AccessToken;
use http::header::{HeaderMap, HeaderValue};

/// What a request is sent with. It is put on anew for each attempt, once method and URI are final:
/// nothing before that holds the header field, and no attempt repeats what another one was sent
/// with.
#[derive(Clone, Copy)]
pub(crate) enum Credential<'c> {
    /// The request is sent without a credential.
    None,
    /// The request carries an access token.
    Token { token: &'c AccessToken, placement: &'c Placement },
    /// The request carries a static key; `value` is the whole value of its header field.
    StaticKey { value: &'c HeaderValue, placement: &'c Placement },
}

impl Credential<'_> {
    /// Sets the header field. `None` if a header field cannot hold the credential.
    pub(super) fn apply(&self, headers: &mut HeaderMap) -> Option<()> {
        let (value, placement) = match *self {
            Self::None => return Some(()),
            Self::Token { token, placement } => (token.field_value(placement.prefix())?, placement),
            Self::StaticKey { value, placement } => (value, placement),
        };
        headers.insert(placement.header().clone(), value.clone());
        Some(())
    }
}

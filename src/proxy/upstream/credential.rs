//! The credential of a request, and the header field that carries it.
use crate::policy::Placement;
use crate::token::AccessToken;
use http::header::{HeaderMap, HeaderValue};

/// The credential that a request is sent with. Each attempt sets it anew, once method and URI are
/// final, so that no earlier stage holds the header field and no attempt reuses that of another.
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

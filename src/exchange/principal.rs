//! Verifies the subject on whose authority a token is requested.
use super::context::Context;
use super::error::{ExchangeError, Failure};
use super::grant::{Grant, Subject, UserTokenRule};
use crate::issuer::{Audience, TokenRules, TokenVerifier};
use crate::jose::{TokenKind, Verified};
use crate::secret::Secret;

/// The subject of a grant, verified.
pub(super) enum Principal<'a> {
    /// The workload acts on its own authority.
    Own,
    /// The workload acts on a user's authority.
    User(User<'a>),
}

/// A user, and the token that names them.
pub(super) struct User<'a> {
    pub(super) token: &'a Secret,
    pub(super) kind: TokenKind,
    pub(super) verified: Verified,
}

impl<'a> Principal<'a> {
    /// Verifies the subject of a grant. `token` is the user's token, for a grant whose subject is a
    /// user.
    pub(super) async fn of(grant: &Grant, token: Option<&'a Secret>, context: &Context) -> Result<Self, ExchangeError> {
        let Subject::User(rule) = &grant.subject else { return Ok(Self::Own) };
        let result = verify_user_token(rule, token, context).await;
        result.map(Self::User).map_err(|failure| ExchangeError::new(&rule.server.name, failure))
    }

    pub(super) fn user(&self) -> Option<&User<'a>> {
        match self {
            Self::Own => None,
            Self::User(user) => Some(user),
        }
    }
}

async fn verify_user_token<'a>(
    rule: &UserTokenRule,
    token: Option<&'a Secret>,
    context: &Context,
) -> Result<User<'a>, Failure> {
    let token = token.ok_or(Failure::NoUserToken)?;
    let audience = if rule.audience.is_empty() { Audience::OwnClientId } else { Audience::AnyOf(&rule.audience) };
    let verifier = TokenVerifier::new(context.issuers.get(&rule.server));
    let verified = verifier.verify(token.expose(), &TokenRules { kind: rule.kind, audience }).await?;
    Ok(User { token, kind: rule.kind, verified })
}

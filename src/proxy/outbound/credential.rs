//! The credential of a request, as its route demands, and the token that it needs.
use super::context::Context;
use super::table::RouteEntry;
use crate::policy::{CredentialRule, TokenSource};
use crate::proxy::error::{Reason, Refusal};
use crate::proxy::upstream::Credential;
use crate::token::{AccessToken, Delegated, UserToken};
use http::header::{HeaderMap, HeaderName};
use std::sync::Arc;
use std::time::Duration;

/// An access token, and the user's token that it was obtained with.
pub(super) struct Obtained {
    pub(super) token: Arc<AccessToken>,
    pub(super) user: Option<UserToken>,
}

/// The credential of a request. `obtained` is the token, if the route needs one.
pub(super) fn of_route<'r>(entry: &'r RouteEntry, obtained: Option<&'r Obtained>) -> Result<Credential<'r>, Refusal> {
    match &entry.route.credential {
        CredentialRule::Token(rule) => {
            // If there were no token, `obtain` would have refused the request. Nothing is ever sent
            // unauthenticated.
            let missing = || Refusal::new(Reason::TokenUnavailable, "There is no token for this route.");
            let token = &obtained.ok_or_else(missing)?.token;
            Ok(Credential::Token { token, placement: &rule.placement })
        }
        CredentialRule::LegacySecret { placement, value } => Ok(Credential::StaticKey { value, placement }),
        CredentialRule::Tunnel | CredentialRule::None { .. } => Ok(Credential::None),
    }
}

/// Counts a request that is sent with `credential`.
pub(super) fn count(entry: &RouteEntry, credential: Credential<'_>) {
    match credential {
        Credential::None => {}
        Credential::Token { .. } => entry.metrics.bearer.inc(),
        Credential::StaticKey { .. } => entry.metrics.legacy_secret.inc(),
    }
}

/// Obtains the access token of a request, if its route needs one. This is the only wait before
/// sending; a cached token is ready at once.
pub(super) async fn obtain(
    context: &Context,
    entry: &RouteEntry,
    headers: &HeaderMap,
) -> Result<Option<Obtained>, Refusal> {
    if let Some(identity) = context.shared.identity.as_ref().filter(|_| entry.needs_identity)
        && let Err(missing) = identity.current()
    {
        return Err(Refusal::new(Reason::IdentityMissing, missing.to_string()).with_retry_after(Duration::from_secs(2)));
    }
    let (Some(slot), CredentialRule::Token(rule)) = (&entry.slot, &entry.route.credential) else {
        return Ok(None);
    };
    let tokens = &context.shared.tokens;
    let user = match &rule.source {
        TokenSource::Own => {
            let token = match tokens.ready(slot, tokens.now()) {
                Some(token) => token,
                None => Box::pin(tokens.obtain(slot, None)).await?,
            };
            return Ok(Some(Obtained { token, user: None }));
        }
        TokenSource::Header(name) => users_token(headers, name)?,
        TokenSource::File(path) => {
            let missing = || format!("The file with the user's token, {}, cannot be read.", path.display());
            entry
                .user_file
                .as_ref()
                .map(|secret| secret.expose().to_owned())
                .ok_or_else(|| Refusal::new(Reason::UserToken, missing()))?
        }
    };
    let user = UserToken::new(user);
    if let Some(token) = context.delegated.borrow_mut().ready(tokens, slot, user.hash()) {
        return Ok(Some(Obtained { token, user: Some(user) }));
    }
    let fence = Delegated::fence(tokens);
    let token = Box::pin(tokens.obtain(slot, Some(user.clone()))).await?;
    context.delegated.borrow_mut().remember(fence, slot, user.hash(), &token);
    Ok(Some(Obtained { token, user: Some(user) }))
}

fn users_token(headers: &HeaderMap, name: &HeaderName) -> Result<String, Refusal> {
    let mut values = headers.get_all(name).iter();
    let missing =
        || Refusal::new(Reason::UserToken, format!("This route acts for a user: send the user's token in `{name}`."));
    let value = values.next().ok_or_else(missing)?;
    if values.next().is_some() {
        return Err(Refusal::new(Reason::MalformedRequest, format!("There are two `{name}` fields.")));
    }
    let text =
        value.to_str().map_err(|_| Refusal::new(Reason::UserToken, format!("`{name}` does not hold a token.")))?;
    let bare = text
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map_or(text, |(_, token)| token);
    Ok(bare.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn users_token_is_read_from_exactly_one_field() {
        let name = HeaderName::from_static("x-user-token");
        let mut headers = HeaderMap::new();
        assert_eq!(users_token(&headers, &name).expect_err("missing").reason, Reason::UserToken);
        headers.append(name.clone(), HeaderValue::from_static("bearer  abc "));
        assert_eq!(users_token(&headers, &name).expect("token"), "abc");
        headers.append(name.clone(), HeaderValue::from_static("def"));
        assert_eq!(users_token(&headers, &name).expect_err("two").reason, Reason::MalformedRequest);
    }
}

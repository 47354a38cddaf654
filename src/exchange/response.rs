//! Reads the response of a token endpoint, and checks whether its token can be used (RFC 6749
//! §5, RFC 8693 §2.2, draft-ietf-oauth-identity-assertion-authz-grant §4.3).
use super::error::{Failure, OAuthError};
use super::grant::TokenResponse;
use crate::assertion::ID_JAG_TYP;
use crate::clock::Timestamp;
use crate::issuer::{Answer, IssuerError};
use crate::jose::{Unverified, object, same_typ};
use crate::secret::Secret;
use http::StatusCode;
use serde_json::{Map, Value};
use std::time::Duration;

/// The lifetime of a token without `expires_in`.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// The longest lifetime that is used; a longer one counts as this.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// The most bytes of an access token. No server accepts a larger header field.
const MAX_ACCESS_TOKEN: usize = 64 * 1024;
/// The longest description that is logged, in characters.
const MAX_DESCRIPTION: usize = 256;
/// The longest run of token characters that counts as a word; a longer one may be a token.
const MAX_WORD: usize = 40;

const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";
const ID_JAG_TYPE: &str = "urn:ietf:params:oauth:token-type:id-jag";

/// The kind of token that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected<'a> {
    /// An access token in this form of response.
    AccessToken(TokenResponse),
    /// An ID-JAG for the resource authorization server with this issuer identifier.
    IdJag { audience: &'a str },
}

impl Expected<'_> {
    /// The `issued_token_type`s that are accepted, if the response must have one, and the
    /// `token_type` (RFC 8693 §2.2.1).
    fn types(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::AccessToken(TokenResponse::OAuth) => (&[], "Bearer"),
            Self::AccessToken(TokenResponse::TokenExchange) => (&[ACCESS_TOKEN_TYPE, JWT_TYPE], "Bearer"),
            Self::IdJag { .. } => (&[ID_JAG_TYPE], "N_A"),
        }
    }
}

/// A token that a server has just issued.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    /// The token. It is a `token68` (RFC 9110 §11.2), so a header can carry it as it is.
    pub token: Secret,
    /// When the token expires: the earliest of `expires_in`, its own `exp`, and the expiry of the
    /// user's token that it was issued for.
    pub expires_at: Timestamp,
    /// The granted scopes, sorted. They are the requested ones if the server named none (RFC 6749
    /// §5.1).
    pub scopes: Vec<String>,
}

/// The token, if the answer has a usable one. `asked_at` is when it was requested, with the scopes
/// `requested`.
pub(super) fn token(
    answer: &Answer,
    expected: Expected<'_>,
    asked_at: Timestamp,
    requested: &[String],
) -> Result<IssuedToken, Failure> {
    if answer.status != StatusCode::OK {
        return Err(unusable(format!("status {} instead of 200", answer.status.as_u16())));
    }
    let members = object(&answer.body).map_err(|error| unusable(format!("it {error}")))?;
    let token = text(&members, "access_token")?;
    let token_type = text(&members, "token_type")?;
    let (issued_token_types, expected_type) = expected.types();
    if !issued_token_types.is_empty() {
        must_be(issued_token_types, "issued_token_type", text(&members, "issued_token_type")?, str::eq)?;
    }
    must_be(&[expected_type], "token_type", token_type, str::eq_ignore_ascii_case)?;
    if !is_token68(token) {
        return Err(unusable(
            "the token has characters that a header cannot carry, or is longer than 64 KiB".to_owned(),
        ));
    }
    let mut expires_at = asked_at.plus(lifetime(members.get("expires_in"))?);
    match expected {
        Expected::IdJag { audience } => expires_at = expires_at.min(check_id_jag(token, audience)?),
        Expected::AccessToken(_) => {
            // An access token is opaque to its client, but if it is a JWT, its `exp` may be
            // earlier.
            let claimed = Unverified::parse(token).ok().and_then(|token| expiry(&token.claims));
            expires_at = claimed.map_or(expires_at, |at| expires_at.min(at));
        }
    }
    let scopes = scopes(&members)?.unwrap_or_else(|| requested.to_vec());
    Ok(IssuedToken { token: Secret::new(token.to_owned()), expires_at, scopes })
}

/// The error for an answer that breaks the protocol.
fn unusable(why: impl Into<String>) -> Failure {
    IssuerError::Response(why.into()).into()
}

/// The facts about a request that reading its error response needs.
pub(super) struct SentRequest {
    /// The credentials in it, which must not be logged if the response repeats them.
    pub(super) secrets: Vec<String>,
    /// Whether the grant acts for a user.
    pub(super) delegated: bool,
}

/// The OAuth error in an error response (RFC 6749 §5.2).
pub(super) fn oauth_error(answer: &Answer, request: &SentRequest) -> Option<OAuthError> {
    if answer.status.is_success() {
        return None;
    }
    let members = object(&answer.body).ok()?;
    let code = members.get("error").and_then(Value::as_str)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if code.is_empty() || code.len() > 64 || !code.bytes().all(is_plain) {
        return None;
    }
    let description = members.get("error_description").and_then(Value::as_str).unwrap_or_default();
    Some(OAuthError {
        status: answer.status.as_u16(),
        code: code.to_owned(),
        description: for_the_log(description, &request.secrets),
        delegated: request.delegated,
    })
}

/// Checks the `typ` and `aud` of an ID-JAG (draft-ietf-oauth-identity-assertion-authz-grant §3.1)
/// and returns its `exp`. The signature is for the server at `audience` to check.
fn check_id_jag(token: &str, audience: &str) -> Result<Timestamp, Failure> {
    let wrong = |why: &str| unusable(format!("the ID-JAG {why}"));
    let token = Unverified::parse(token).map_err(|error| wrong(&error.to_string()))?;
    if !token.header_text("typ").is_some_and(|typ| same_typ(typ, ID_JAG_TYP)) {
        return Err(wrong("has another `typ` than oauth-id-jag+jwt"));
    }
    // Exactly one value, as a string or as an array of one
    // (draft-ietf-oauth-identity-assertion-authz-grant §4.4.1).
    let for_the_server = match token.claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(many)) => matches!(&many[..], [Value::String(one)] if one == audience),
        _ => false,
    };
    if !for_the_server {
        return Err(wrong(&format!("is not for {audience}")));
    }
    expiry(&token.claims).ok_or_else(|| wrong("has no usable `exp`"))
}

/// The time in `exp`; `None` if it is not a plausible number.
fn expiry(claims: &Map<String, Value>) -> Option<Timestamp> {
    let seconds = claims.get("exp")?.as_f64().filter(|seconds| *seconds >= 0.0)?;
    Some(Timestamp::from_unix_seconds(seconds as u64))
}

/// Reads `expires_in`, in seconds (RFC 6749 §5.1). The default applies if it is absent or null.
/// Some servers send text or a fraction. A token with less than a second left has expired.
fn lifetime(expires_in: Option<&Value>) -> Result<Duration, Failure> {
    let seconds = match expires_in {
        None | Some(Value::Null) => return Ok(DEFAULT_LIFETIME),
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.parse::<u64>().ok().map(|seconds| seconds as f64),
        Some(_) => None,
    };
    let seconds = seconds.ok_or_else(|| unusable("`expires_in` is not a number of seconds".to_owned()))?;
    if seconds < 1.0 { Err(Failure::Expired) } else { Ok(Duration::from_secs(seconds as u64).min(MAX_LIFETIME)) }
}

/// The granted scopes. The response is refused if one of them breaks the grammar of RFC 6749 §3.3.
fn scopes(members: &Map<String, Value>) -> Result<Option<Vec<String>>, Failure> {
    let text = match members.get("scope") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text,
        Some(_) => return Err(unusable("`scope` is not a string".to_owned())),
    };
    let is_scope = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    let mut scopes: Vec<_> = text.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    if !scopes.iter().all(|scope| scope.bytes().all(is_scope)) {
        return Err(unusable("`scope` has characters that a scope cannot have".to_owned()));
    }
    scopes.sort();
    scopes.dedup();
    Ok(Some(scopes))
}

fn text<'m>(members: &'m Map<String, Value>, name: &str) -> Result<&'m str, Failure> {
    let found = members.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    found.ok_or_else(|| unusable(format!("it has no `{name}`")))
}

fn must_be(allowed: &[&str], name: &str, found: &str, equal: impl Fn(&str, &str) -> bool) -> Result<(), Failure> {
    if allowed.iter().any(|allowed| equal(allowed, found)) {
        return Ok(());
    }
    Err(unusable(format!("`{name}` is {:?} instead of {}", for_the_log(found, &[]), allowed.join(" or "))))
}

/// Whether the token is a `token68`, which a header can carry after `Bearer` (RFC 9110 §11.2).
fn is_token68(token: &str) -> bool {
    let body = token.trim_end_matches('=');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
    !body.is_empty() && token.len() <= MAX_ACCESS_TOKEN && body.bytes().all(plain)
}

/// Makes text of a server safe to log: without control characters, without credentials that we
/// sent, and without anything that looks like a token.
fn for_the_log(words: &str, secrets: &[String]) -> String {
    let mut words = words.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        words = words.replace(secret.as_str(), "[redacted]");
    }
    let in_token = |character: char| character.is_ascii_alphanumeric() || "-._~+=".contains(character);
    let mut out = String::new();
    let mut run = String::new();
    for character in words.chars().chain(std::iter::once(' ')) {
        if in_token(character) {
            run.push(character);
            continue;
        }
        out.push_str(if run.len() > MAX_WORD { "[redacted]" } else { &run });
        run.clear();
        out.push(if character.is_control() { ' ' } else { character });
    }
    let mut short: String = out.trim().chars().take(MAX_DESCRIPTION).collect();
    if short.len() < out.trim().len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests;

//! The checks that a signed token must pass (RFC 7519 §7.2, RFC 8725).
use super::error::InvalidToken;
use super::jwk::KeySet;
use super::jws::{Unverified, same_typ};
use crate::clock::Timestamp;
use serde_json::{Map, Value};
use std::time::Duration;

/// The kind of a token, which decides what its `typ` may be (RFC 8725 §3.11). `JWT` is accepted for
/// every kind, so only `at+jwt` tells one kind from another: it is accepted for an access token
/// alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// An OpenID Connect ID token: `typ` is `JWT` or absent.
    IdToken,
    /// An access token, of RFC 9068 (`typ` is `at+jwt`) or of an older server (`JWT`).
    AccessToken,
    /// Any other JWT: `typ` is `JWT` or absent.
    Jwt,
}

/// The claims and the `typ` that a token must have.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The kind of token.
    pub kind: TokenKind,
    /// The value that `iss` must have.
    pub issuer: &'a str,
    /// `aud` must contain one of these; an empty list accepts no token.
    pub audiences: &'a [String],
    /// How far clocks may differ; at most [`Rules::MAX_LEEWAY`] is used.
    pub leeway: Duration,
}

impl Rules<'_> {
    /// The largest leeway that is used.
    pub const MAX_LEEWAY: Duration = Duration::from_secs(60);
}

/// A token that passed all checks.
#[derive(Clone)]
pub struct Verified {
    /// The value of `sub`.
    pub subject: String,
    /// The value of `exp`, without leeway.
    pub expires_at: Timestamp,
    /// All claims of the token.
    pub claims: Map<String, Value>,
}

/// Checks a token. The signature comes before the claims, so an error says nothing about the claims
/// of a token that the issuer did not sign.
pub fn verify(token: &str, keys: &KeySet, rules: &Rules<'_>, now: Timestamp) -> Result<Verified, InvalidToken> {
    let token = Unverified::parse(token)?;
    check_header(&token, rules.kind)?;
    let alg = token.header_text("alg").ok_or(InvalidToken::Algorithm)?;
    let kid = match token.header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.as_str()),
        Some(_) => return Err(InvalidToken::Malformed("has a `kid` that is not a string")),
    };
    keys.check(alg, kid, token.signing_input.as_bytes(), &token.signature)?;
    check_claims(token.claims, rules, now)
}

fn check_header(token: &Unverified<'_>, kind: TokenKind) -> Result<(), InvalidToken> {
    if token.header.contains_key("crit") {
        return Err(InvalidToken::Critical);
    }
    // RFC 7797: an unencoded payload changes the signing input.
    if token.header.contains_key("b64") {
        return Err(InvalidToken::Malformed("has an unencoded payload"));
    }
    let typ = match token.header.get("typ") {
        None => None,
        Some(Value::String(typ)) => Some(typ.as_str()),
        Some(_) => return Err(InvalidToken::Typ),
    };
    let fits = match (kind, typ) {
        (TokenKind::IdToken | TokenKind::Jwt, None) => true,
        (TokenKind::IdToken | TokenKind::Jwt, Some(typ)) => same_typ(typ, "JWT"),
        (TokenKind::AccessToken, Some(typ)) => same_typ(typ, "at+jwt") || same_typ(typ, "JWT"),
        (TokenKind::AccessToken, None) => false,
    };
    if fits { Ok(()) } else { Err(InvalidToken::Typ) }
}

fn check_claims(claims: Map<String, Value>, rules: &Rules<'_>, now: Timestamp) -> Result<Verified, InvalidToken> {
    if claims.get("iss").and_then(Value::as_str).ok_or(InvalidToken::Claim("iss"))? != rules.issuer {
        return Err(InvalidToken::Issuer);
    }
    check_audience(&claims, rules)?;
    let leeway = rules.leeway.min(Rules::MAX_LEEWAY);
    let expires_at = numeric_date(&claims, "exp")?.ok_or(InvalidToken::Claim("exp"))?;
    if expires_at.plus(leeway) <= now {
        return Err(InvalidToken::Expired);
    }
    for name in ["nbf", "iat"] {
        if numeric_date(&claims, name)?.is_some_and(|from| from > now.plus(leeway)) {
            return Err(InvalidToken::NotYet);
        }
    }
    let subject =
        claims.get("sub").and_then(Value::as_str).filter(|sub| !sub.is_empty()).ok_or(InvalidToken::Claim("sub"))?;
    Ok(Verified { subject: subject.to_owned(), expires_at, claims })
}

/// `aud` is a string or an array of strings (RFC 7519 §4.1.3). An ID token for several audiences
/// must have an `azp`, which says that it was issued to us (OpenID Connect Core 1.0 §3.1.3.7).
fn check_audience(claims: &Map<String, Value>, rules: &Rules<'_>) -> Result<(), InvalidToken> {
    let is_ours = |value: &str| rules.audiences.iter().any(|audience| audience == value);
    let audiences = match claims.get("aud") {
        Some(one @ Value::String(_)) => std::slice::from_ref(one),
        Some(Value::Array(many)) if many.iter().all(Value::is_string) => many,
        _ => return Err(InvalidToken::Claim("aud")),
    };
    if !audiences.iter().filter_map(Value::as_str).any(is_ours) {
        return Err(InvalidToken::Audience);
    }
    if rules.kind == TokenKind::IdToken && audiences.len() > 1 {
        let azp = claims.get("azp").and_then(Value::as_str).ok_or(InvalidToken::Claim("azp"))?;
        if !is_ours(azp) {
            return Err(InvalidToken::AuthorizedParty);
        }
    }
    Ok(())
}

/// Reads a `NumericDate` (RFC 7519 §2): seconds, possibly with a fraction. Negative numbers, years
/// past 9999 and text are refused.
fn numeric_date(claims: &Map<String, Value>, name: &'static str) -> Result<Option<Timestamp>, InvalidToken> {
    const YEAR_10000: f64 = 253_402_300_800.0;
    let Some(value) = claims.get(name) else { return Ok(None) };
    match value.as_f64() {
        Some(seconds) if (0.0..YEAR_10000).contains(&seconds) => {
            let millis = (seconds * 1000.0) as u64;
            Ok(Some(Timestamp::from_unix_millis(millis)))
        }
        _ => Err(InvalidToken::Claim(name)),
    }
}

#[cfg(test)]
mod tests;

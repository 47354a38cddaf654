//! Parses a compact JWS (RFC 7515 §7.1) without trusting anything in it.
use super::error::InvalidToken;
use super::json::{self, JsonError};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// Longer tokens are refused before they are parsed.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// A JWT whose signature has not been checked. Unless [`super::verify`] checks it, its claims may
/// be read only if the token came directly from its issuer.
#[derive(Clone)]
pub struct Unverified<'a> {
    /// The members of the JOSE header.
    pub header: Map<String, Value>,
    /// The members of the claims set.
    pub claims: Map<String, Value>,
    pub(super) signing_input: &'a str,
    pub(super) signature: Vec<u8>,
}

impl std::fmt::Debug for Unverified<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Unverified")
    }
}

impl<'a> Unverified<'a> {
    /// Accepts exactly three non-empty base64url parts without padding, of which the first two are
    /// JSON objects. JSON serialization (RFC 7515 §7.2) and JWE are refused.
    pub fn parse(token: &'a str) -> Result<Self, InvalidToken> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(InvalidToken::TooLong);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidToken::Malformed("is not a compact JWS of three parts"));
        };
        let signing_input = &token[..header.len() + 1 + claims.len()];
        Ok(Self { header: members(header)?, claims: members(claims)?, signing_input, signature: bytes(signature)? })
    }

    /// A string member of the header; `None` if it is absent or has another type.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        self.header.get(name).and_then(Value::as_str)
    }
}

/// Whether a `typ` header means `expected`. The comparison ignores case, and `application/` may be
/// omitted (RFC 7515 §4.1.9).
pub fn same_typ(typ: &str, expected: &str) -> bool {
    let prefix = "application/";
    let short = match typ.get(..prefix.len()) {
        Some(start) if start.eq_ignore_ascii_case(prefix) => &typ[prefix.len()..],
        _ => typ,
    };
    short.eq_ignore_ascii_case(expected)
}

fn bytes(part: &str) -> Result<Vec<u8>, InvalidToken> {
    match URL_SAFE_NO_PAD.decode(part) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => Err(InvalidToken::Malformed("has a part that is not base64url without padding")),
    }
}

fn members(part: &str) -> Result<Map<String, Value>, InvalidToken> {
    json::object(&bytes(part)?).map_err(|error| match error {
        JsonError::Duplicate => InvalidToken::Malformed("has a member twice"),
        JsonError::Syntax | JsonError::NotAnObject => InvalidToken::Malformed("has a part that is not a JSON object"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::vectors::{C1, C4};

    #[test]
    fn example_token_is_parsed() {
        let token = Unverified::parse(C1).expect("vector");
        assert_eq!(token.header_text("kid"), Some("idp-1"));
        assert_eq!(token.claims["client_id"], "agent-client-1");
        assert_eq!(token.signature.len(), 64);
    }

    #[test]
    fn token_without_three_unpadded_parts_is_malformed() {
        let [header, claims, signature] = C4.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
        for token in [
            format!("{C4}."),
            format!("{C4}.x"),
            format!(" {C4}"),
            format!("{C4}\n"),
            format!("{C4}=="),
            format!("{header}.{claims}."),
            format!("{header}..{signature}"),
            format!("{header}.{claims}"),
            format!("{header}=.{claims}.{signature}"),
            format!("{header}.{claims}./{}", &signature[1..]),
            String::new(),
            "..".to_owned(),
            r#"{"payload":"e30","signatures":[]}"#.to_owned(),
        ] {
            assert!(matches!(Unverified::parse(&token), Err(InvalidToken::Malformed(_))), "{token}");
        }
        let long = "A".repeat(1 << 20);
        assert_eq!(Unverified::parse(&long).err(), Some(InvalidToken::TooLong));
    }

    #[test]
    fn typ_compares_as_a_media_type() {
        assert!(
            same_typ("at+jwt", "at+jwt") && same_typ("AT+JWT", "at+jwt") && same_typ("application/at+jwt", "at+jwt")
        );
        assert!(
            !same_typ("jwt", "at+jwt") && !same_typ("application/", "at+jwt") && !same_typ("text/at+jwt", "at+jwt")
        );
    }
}

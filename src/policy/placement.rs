//! Where a credential goes on a request.
use super::fields::FieldMeaning;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use std::fmt;
use zeroize::Zeroizing;

/// The header field that carries a credential, and the text in front of the credential in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    header: HeaderName,
    prefix: Box<str>,
}

/// Why a credential cannot be placed somewhere, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// The field has another purpose.
    #[error("`{0}` belongs to the connection or the message and cannot carry a credential")]
    Header(HeaderName),
    /// The field says who is calling, or belongs to the user agent.
    #[error("`{0}` has a meaning of its own to proxies and servers and cannot carry a token")]
    Reserved(HeaderName),
    /// A field's value does not begin with white space (RFC 9110 §5.5).
    #[error("a prefix must not begin with white space, which is not part of a field's value")]
    LeadingSpace,
    /// The prefix has characters that are not printable ASCII.
    #[error("a prefix consists of printable ASCII")]
    Characters,
}

impl Placement {
    /// `Authorization: Bearer …` (RFC 6750 §2.1).
    pub fn bearer() -> Self {
        Self { header: AUTHORIZATION, prefix: "Bearer ".into() }
    }

    /// The place of an access token. `prefix` stands in front of the token. A prefix that ends with
    /// a letter or digit is an authentication scheme, and one space follows it (RFC 9110 §11.4); an
    /// empty one leaves the token alone.
    ///
    /// # Errors
    /// The field is one that the message itself needs, or that proxies and servers act on: the
    /// agent's own field of that name would be lost, or the token would be taken for something
    /// else. Or the prefix cannot be part of a field's value.
    pub fn of_token(header: HeaderName, prefix: &str) -> Result<Self, PlacementError> {
        let meaning = FieldMeaning::of(&header);
        if meaning.is_structural() || meaning.is_hop_by_hop() {
            return Err(PlacementError::Header(header));
        }
        if !meaning.may_carry_token() {
            return Err(PlacementError::Reserved(header));
        }
        if prefix.starts_with([' ', '\t']) {
            return Err(PlacementError::LeadingSpace);
        }
        if !prefix.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(PlacementError::Characters);
        }
        let is_scheme = prefix.ends_with(|last: char| last.is_ascii_alphanumeric());
        let separator = if is_scheme { " " } else { "" };
        Ok(Self { header, prefix: [prefix, separator].concat().into() })
    }

    /// The place of a static key. `prefix` stands in front of the key as it is.
    ///
    /// # Errors
    /// The field is one that the connection or the message itself needs.
    pub fn of_static_key(header: HeaderName, prefix: &str) -> Result<Self, PlacementError> {
        if FieldMeaning::of(&header).is_structural() {
            return Err(PlacementError::Header(header));
        }
        Ok(Self { header, prefix: prefix.into() })
    }

    /// The header field.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// The text in front of the credential, including the space that separates it.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The value of the field for a credential, or `None` if a field cannot hold it. It is marked
    /// sensitive.
    pub fn value(&self, credential: &str) -> Option<HeaderValue> {
        let text = Zeroizing::new([&self.prefix, credential].concat());
        let mut value = HeaderValue::from_bytes(text.as_bytes()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl Default for Placement {
    fn default() -> Self {
        Self::bearer()
    }
}

/// `authorization: Bearer …`
impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}…", self.header, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_token(header: &str, prefix: &str) -> Result<Placement, PlacementError> {
        Placement::of_token(header.parse().expect("a name"), prefix)
    }

    #[test]
    fn scheme_is_separated_and_any_other_prefix_is_not() {
        for (prefix, expected) in [
            ("Bearer", "Bearer t"),
            ("Bearer ", "Bearer t"),
            ("", "t"),
            ("token=", "token=t"),
            ("Token token=", "Token token=t"),
            ("v1.", "v1.t"),
        ] {
            let value = of_token("X-Access-Token", prefix).expect(prefix).value("t").expect("a value");
            assert_eq!(value, expected);
            assert!(value.is_sensitive());
        }
        assert_eq!(Placement::default(), of_token("Authorization", "Bearer").expect("bearer"));
        assert_eq!(of_token("X-Access-Token", "").expect("bare").to_string(), "x-access-token: …");
    }

    #[test]
    fn fields_with_another_purpose_carry_no_token() {
        for name in [
            "Host",
            "Content-Length",
            "Transfer-Encoding",
            "Trailer",
            "Upgrade",
            "Connection",
            "Keep-Alive",
            "Proxy-Authorization",
            "Proxy-Connection",
            "Proxy-Status",
            "TE",
            "Cookie",
            "Set-Cookie",
            "Via",
            "Forwarded",
            "X-Forwarded-For",
            "x-forwarded-client-cert",
            "X-Real-IP",
            "Client-Cert",
            "X-Envoy-Original-Path",
            "HTTP2-Settings",
            "Expect",
            "Max-Forwards",
            "Content-Type",
            "Content-Encoding",
            "x_forwarded_for",
            "transfer_encoding",
            "content_length",
            "Accept-Encoding",
            "User-Agent",
            "Referer",
            "Origin",
            "Range",
            "If-None-Match",
            "Date",
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Protocol",
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-HTTP-Method-Override",
            "X-Forwarded",
            "X-Client-IP",
            "traceparent",
            "tracestate",
            "baggage",
            "grpc-timeout",
        ] {
            let refused = of_token(name, "Bearer").expect_err(name);
            assert!(matches!(refused, PlacementError::Header(_) | PlacementError::Reserved(_)), "{name}: {refused}");
        }
        for name in ["Authorization", "X-Access-Token", "X-Api-Key", "Txn-Token", "X-Goog-Iap-Jwt-Assertion"] {
            assert!(of_token(name, "Bearer").is_ok(), "{name}");
        }
    }

    #[test]
    fn prefixes_that_no_field_can_hold_are_refused() {
        assert_eq!(of_token("x-t", " Bearer"), Err(PlacementError::LeadingSpace));
        assert_eq!(of_token("x-t", "\tBearer"), Err(PlacementError::LeadingSpace));
        assert_eq!(of_token("x-t", " "), Err(PlacementError::LeadingSpace));
        for prefix in ["Bea\nrer", "Bea\0rer", "Bé", "a\r\nx: y"] {
            assert_eq!(of_token("x-t", prefix), Err(PlacementError::Characters), "{prefix:?}");
        }
    }
}

//! The dialect of HTTP that a request speaks: how a refusal has to look, and which protocol the
//! upstream needs.
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use std::time::Duration;

/// What a request speaks on top of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Nothing: refusals are problem details in JSON (RFC 9457).
    Plain,
    /// gRPC over HTTP/2 (`PROTOCOL-HTTP2.md` of its specification).
    Grpc,
    /// gRPC-Web, which any version of HTTP carries (`PROTOCOL-WEB.md`).
    GrpcWeb,
}

impl Dialect {
    /// The dialect of a request, by its media type: `application/grpc` or `application/grpc-web`,
    /// in each case also with the message format, as in `application/grpc+proto`.
    pub fn of(headers: &HeaderMap) -> Self {
        const PREFIX: &[u8] = b"application/grpc";
        let value = headers.get(CONTENT_TYPE).map_or(&[][..], |value| value.as_bytes());
        let Some((prefix, rest)) = value.split_at_checked(PREFIX.len()) else { return Self::Plain };
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Self::Plain;
        }
        // What follows is a message format or the parameters of the media type (RFC 9110 §8.3.1).
        let end = rest.iter().position(|byte| matches!(byte, b'+' | b';')).unwrap_or(rest.len());
        let kind = rest[..end].trim_ascii_end();
        if kind.is_empty() {
            Self::Grpc
        } else if kind.eq_ignore_ascii_case(b"-web") || kind.eq_ignore_ascii_case(b"-web-text") {
            Self::GrpcWeb
        } else {
            Self::Plain
        }
    }
}

/// How long a gRPC client waits for the whole call: `grpc-timeout`, at most eight digits and a
/// unit (`PROTOCOL-HTTP2.md`).
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Whether a gRPC call ended with `UNAUTHENTICATED` (`statuscodes.md`). `fields` are its trailers,
/// or its headers if it has nothing else.
pub(super) fn is_unauthenticated(fields: &HeaderMap) -> bool {
    fields.get("grpc-status").is_some_and(|status| status == "16")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn dialect_is_read_from_the_whole_media_type() {
        for (value, expected) in [
            ("application/grpc", Dialect::Grpc),
            ("Application/gRPC+proto", Dialect::Grpc),
            ("application/grpc; charset=utf-8", Dialect::Grpc),
            ("application/grpc ;a=b", Dialect::Grpc),
            ("application/grpc-web", Dialect::GrpcWeb),
            ("application/grpc-web+proto", Dialect::GrpcWeb),
            ("application/grpc-WEB-text+proto;x", Dialect::GrpcWeb),
            ("application/grpc-websocket", Dialect::Plain),
            ("application/grpcx", Dialect::Plain),
            ("application/grp", Dialect::Plain),
            ("text/plain; application/grpc", Dialect::Plain),
            ("", Dialect::Plain),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(Dialect::of(&headers), expected, "{value}");
        }
        assert_eq!(Dialect::of(&HeaderMap::new()), Dialect::Plain);
    }

    #[test]
    fn grpc_timeout_has_at_most_eight_digits_and_a_unit() {
        for (value, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("-1S", None),
            ("1s", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(value));
            assert_eq!(grpc_timeout(&headers), expected, "{value}");
        }
    }
}

//! The dialect of HTTP that a request speaks: how a refusal has to look, and which protocol the
//! upstream needs.
use http::HeaderMap;
use http::header::CONTENT_TYPE;

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
}

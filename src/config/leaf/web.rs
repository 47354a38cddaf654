//! Values of HTTP and OAuth: URLs, hosts, headers, scopes.
use super::local::Network;
use crate::config::decode::Leaf;
use crate::egress_proxy::Exception;
use crate::policy::{HostPattern, PathPattern};
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use std::str::FromStr;
use url::Url;

/// An issuer identifier (RFC 8414 §2), kept as written because it is compared as a string (RFC 8414
/// §3.3). Whether `http` is allowed is decided later, where `allow_plain_http` is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issuer(pub(crate) String);

impl Leaf for Issuer {
    const EXPECTED: &'static str = "an issuer such as `https://idp.example.com/realms/agents`";

    fn parse(text: &str) -> Result<Self, String> {
        let url = web_url(text)?;
        match url {
            _ if url.query().is_some() => Err("an issuer must not have a query (RFC 8414 §2)".into()),
            _ if url.fragment().is_some() => Err("an issuer must not have a fragment (RFC 8414 §2)".into()),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// An `http` or `https` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebUrl(pub(crate) Url);

impl Leaf for WebUrl {
    const EXPECTED: &'static str = "a URL such as `https://as.example.com/token`";

    fn parse(text: &str) -> Result<Self, String> {
        let url = web_url(text)?;
        if url.fragment().is_some() { Err("it must not have a fragment (`#…`)".into()) } else { Ok(Self(url)) }
    }
}

/// A scheme, host and port without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginUrl(pub(crate) Url);

impl Leaf for OriginUrl {
    const EXPECTED: &'static str = "an origin such as `https://reports.svc:8443`";

    fn parse(text: &str) -> Result<Self, String> {
        let url = web_url(text)?;
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err("it must end after the host and port: the path of the request is used".into());
        }
        Ok(Self(url))
    }
}

/// Something that is reached without the egress proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EgressException(pub(crate) Exception);

impl Leaf for EgressException {
    const EXPECTED: &'static str = "a host such as `*.svc`, or an address range such as `10.0.0.0/8`";

    fn parse(text: &str) -> Result<Self, String> {
        if text.contains('/') || text.parse::<std::net::IpAddr>().is_ok() {
            return Network::parse(text).map(|range| Self(Exception::Range(range.0)));
        }
        <HostPattern as Leaf>::parse(text).map(|pattern| match pattern {
            HostPattern::Exact(host) => Self(Exception::Host(host)),
            HostPattern::Suffix(suffix) => Self(Exception::Suffix(suffix)),
        })
    }
}

/// A name that a certificate can be for: a DNS name or an IP address without brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerName(pub(crate) String);

impl Leaf for ServerName {
    const EXPECTED: &'static str = "a name such as `api.example.com`";

    fn parse(text: &str) -> Result<Self, String> {
        match rustls::pki_types::ServerName::try_from(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err("it is neither a DNS name nor an IP address".into()),
        }
    }
}

fn web_url(text: &str) -> Result<Url, String> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("it contains a space or a control character".into());
    }
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    match url.scheme() {
        "https" | "http" if !text.contains("://") => Err("`//` is missing after the scheme".into()),
        "https" | "http" if !url.username().is_empty() || url.password().is_some() => {
            Err("it contains a user name or password: those belong in `client_auth`".into())
        }
        "https" | "http" if url.host_str().is_none_or(str::is_empty) => Err("it has no host".into()),
        "https" | "http" => Ok(url),
        _ => Err("it does not start with `https://`".into()),
    }
}

/// The identifier of a protected resource: an absolute URI without a fragment (RFC 8707 §2), kept
/// as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource(pub(crate) String);

impl Leaf for Resource {
    const EXPECTED: &'static str = "an absolute URI such as `https://api.example.com/`";

    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        match url {
            _ if text.contains('#') => Err("a resource must not have a fragment (RFC 8707 §2)".into()),
            _ if text.chars().any(|c| c.is_whitespace() || c.is_control()) => {
                Err("it contains a space or a control character".into())
            }
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// One scope (RFC 6749 §3.3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Scope(pub(crate) String);

impl Leaf for Scope {
    const EXPECTED: &'static str = "a scope such as `calendar:read`";

    fn parse(text: &str) -> Result<Self, String> {
        // scope-token = 1*( %x21 / %x23-5B / %x5D-7E )
        match text {
            "" => Err("it is empty".into()),
            _ if text.contains(' ') => Err("write one scope per list item, without spaces".into()),
            _ if !text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)) => {
                Err("a scope consists of printable ASCII without `\"` and `\\` (RFC 6749 §3.3)".into())
            }
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// Even a bare number is a valid scope.
    fn schema() -> Value {
        json!({ "type": ["string", "number", "boolean"] })
    }
}

impl Leaf for HostPattern {
    const EXPECTED: &'static str = "a host such as `api.example.com` or `*.example.com`";

    fn parse(text: &str) -> Result<Self, String> {
        HostPattern::parse(text).map_err(|error| error.to_string())
    }
}

impl Leaf for PathPattern {
    const EXPECTED: &'static str = "a path such as `/v1/events`, `/v1/*/events` or `/v1/**`";

    fn parse(text: &str) -> Result<Self, String> {
        PathPattern::parse(text).map_err(|error| error.to_string())
    }
}

impl Leaf for HeaderName {
    const EXPECTED: &'static str = "a header name such as `x-api-key`";

    fn parse(text: &str) -> Result<Self, String> {
        Self::from_str(text).map_err(|_| "a header name consists of letters, digits and `-`".into())
    }
}

impl Leaf for HeaderValue {
    const EXPECTED: &'static str = "a header value";

    fn parse(text: &str) -> Result<Self, String> {
        Self::from_str(text).map_err(|_| "a header value consists of printable ASCII".into())
    }

    fn schema() -> Value {
        json!({ "type": ["string", "number", "boolean"] })
    }
}

/// The text in front of a credential in a header. It is part of a header value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefix(pub(crate) String);

impl Leaf for Prefix {
    const EXPECTED: &'static str = HeaderValue::EXPECTED;

    fn parse(text: &str) -> Result<Self, String> {
        <HeaderValue as Leaf>::parse(text).map(|_| Self(text.to_owned()))
    }

    fn schema() -> Value {
        HeaderValue::schema()
    }
}

impl Leaf for Method {
    const EXPECTED: &'static str = "a method such as `GET`";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "CONNECT" => Err("CONNECT cannot be matched: write `tunnel: true`".into()),
            "TRACE" => Err("TRACE is never forwarded: it would echo the token".into()),
            _ if text.chars().any(|c| c.is_ascii_lowercase()) => Err("methods are written in upper case".into()),
            _ => Self::from_str(text).map_err(|_| "it is not a method".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::leaf::{accepts, refuses};

    #[test]
    fn issuer_that_is_not_a_plain_web_url_is_refused() {
        accepts::<Issuer>(&["https://idp.example", "https://idp.example/realms/a", "http://127.0.0.1:8080/realms/a"]);
        refuses::<Issuer>(&[
            "idp.example",
            "https://user@idp.example",
            "https://user:pw@idp.example",
            "https://idp.example/#a",
            "https://idp.example/?a",
            "https://",
            "https:idp.example",
            "ftp://idp.example",
            "https://idp .example",
            "",
        ]);
        assert_eq!(Issuer::parse("https://IDP.example").map(|issuer| issuer.0), Ok("https://IDP.example".into()));
    }

    #[test]
    fn scope_outside_the_grammar_is_refused() {
        accepts::<Scope>(&["calendar:read", "https://a/b", "!#[]~"]);
        refuses::<Scope>(&["", "a b", "a\"b", "a\\b", "é", "a\tb"]);
    }

    #[test]
    fn origin_with_a_path_is_refused() {
        accepts::<OriginUrl>(&["https://a:8443", "http://[::1]:80", "https://a/"]);
        refuses::<OriginUrl>(&["https://a/x", "https://a?x", "https://a#", "https://u@a", "a:80"]);
    }

    #[test]
    fn lower_case_or_unforwarded_method_is_refused() {
        accepts::<ServerName>(&["api.example.com", "10.0.0.1", "::1"]);
        accepts::<EgressException>(&["a.example", "*.svc", "10.0.0.0/8", "10.1.2.3", "::1", "[::1]"]);
        refuses::<EgressException>(&["", "*", "http://a", "10.0.0.1/8", "a:80"]);
        refuses::<ServerName>(&["", "a b", "https://a", "a:443", "[::1]"]);
        refuses::<Method>(&["get", "CONNECT", "TRACE", "G T", ""]);
    }
}

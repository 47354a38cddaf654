//! What HTTP and OAuth speak of: URLs, hosts, headers, scopes.
use crate::config::decode::Leaf;
use crate::policy::{HostPattern, PathPattern};
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use std::str::FromStr;
use url::Url;

/// An issuer identifier (RFC 8414 §2), kept as written: it is compared as a string (AM-3). Whether `http` is allowed is decided
/// where the listed hosts are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issuer(pub(crate) String);

impl Leaf for Issuer {
    const EXPECTED: &'static str = "an issuer such as `https://idp.example.com/realms/agents`";

    fn parse(text: &str) -> Result<Self, String> {
        let url = web_url(text)?;
        match url {
            _ if url.query().is_some() => Err("an issuer has no query (RFC 8414 §2)".into()),
            _ if url.fragment().is_some() => Err("an issuer has no fragment (RFC 8414 §2)".into()),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// An `http` or `https` URL of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebUrl(pub(crate) Url);

impl Leaf for WebUrl {
    const EXPECTED: &'static str = "a URL such as `https://as.example.com/token`";

    fn parse(text: &str) -> Result<Self, String> {
        let url = web_url(text)?;
        if url.fragment().is_some() { Err("it has a fragment (`#…`)".into()) } else { Ok(Self(url)) }
    }
}

/// Scheme, host and port, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginUrl(pub(crate) Url);

impl Leaf for OriginUrl {
    const EXPECTED: &'static str = "an origin such as `https://reports.svc:8443`";

    fn parse(text: &str) -> Result<Self, String> {
        let url = web_url(text)?;
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err("it ends after host and port: the request's own path is used".into());
        }
        Ok(Self(url))
    }
}

fn web_url(text: &str) -> Result<Url, String> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("it has a space or control character in it".into());
    }
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    match url.scheme() {
        "https" | "http" if !text.contains("://") => Err("`//` is missing behind the scheme".into()),
        "https" | "http" if !url.username().is_empty() || url.password().is_some() => {
            Err("it has a user name or password in it: those belong into `client_auth`".into())
        }
        "https" | "http" if url.host_str().is_none_or(str::is_empty) => Err("it has no host".into()),
        "https" | "http" => Ok(url),
        _ => Err("it does not start with `https://`".into()),
    }
}

/// The identifier of a protected resource: an absolute URI without a fragment (RFC 8707 §2), kept as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource(pub(crate) String);

impl Leaf for Resource {
    const EXPECTED: &'static str = "an absolute URI such as `https://api.example.com/`";

    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        match url {
            _ if text.contains('#') => Err("a resource has no fragment (RFC 8707 §2)".into()),
            _ if text.chars().any(|c| c.is_whitespace() || c.is_control()) => Err("it has a space in it".into()),
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
        // OC-6: scope-token = 1*( %x21 / %x23-5B / %x5D-7E )
        match text {
            "" => Err("it is empty".into()),
            _ if text.contains(' ') => Err("one scope per list item, without spaces".into()),
            _ if !text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)) => {
                Err("a scope is printable ASCII without `\"` and `\\` (RFC 6749 §3.3)".into())
            }
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// A bare number is a scope too.
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
        Self::from_str(text).map_err(|_| "a name is letters, digits and `-`".into())
    }
}

impl Leaf for HeaderValue {
    const EXPECTED: &'static str = "a header value";

    fn parse(text: &str) -> Result<Self, String> {
        Self::from_str(text).map_err(|_| "a value is printable ASCII".into())
    }

    fn schema() -> Value {
        json!({ "type": ["string", "number", "boolean"] })
    }
}

impl Leaf for Method {
    const EXPECTED: &'static str = "a method such as `GET`";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "CONNECT" => Err("CONNECT is not matched: write `tunnel: true`".into()),
            "TRACE" => Err("TRACE is never forwarded: it would echo the token".into()),
            _ if text.chars().any(|c| c.is_ascii_lowercase()) => Err("methods are upper case".into()),
            _ => Self::from_str(text).map_err(|_| "it is not a method".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::leaf::{accepts, refuses};

    #[test]
    fn issuers() {
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
    fn scopes_follow_the_grammar() {
        accepts::<Scope>(&["calendar:read", "https://a/b", "!#[]~"]);
        refuses::<Scope>(&["", "a b", "a\"b", "a\\b", "é", "a\tb"]);
    }

    #[test]
    fn origins_end_after_the_port() {
        accepts::<OriginUrl>(&["https://a:8443", "http://[::1]:80", "https://a/"]);
        refuses::<OriginUrl>(&["https://a/x", "https://a?x", "https://a#", "https://u@a", "a:80"]);
    }

    #[test]
    fn methods_are_upper_case_and_forwarded() {
        refuses::<Method>(&["get", "CONNECT", "TRACE", "G T", ""]);
    }
}

//! The values that are one word or number: each says what it expects, and why a text is not that.
use super::decode::Leaf;
use crate::policy::{HostPattern, PathPattern};
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use url::Url;

/// Free text: a client id, a key id, an audience.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) String);

impl Leaf for Text {
    const EXPECTED: &'static str = "a text";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("it is empty".into()),
            _ if text.chars().any(char::is_control) => Err("it has a control character in it".into()),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// `2026` is a number to a YAML editor and a key id to us.
    fn schema() -> Value {
        json!({ "type": ["string", "number", "boolean"] })
    }
}

/// The name of a server, a token or a route: also its label in metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name(pub(crate) String);

impl Leaf for Name {
    const EXPECTED: &'static str = "a name";

    fn parse(text: &str) -> Result<Self, String> {
        let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        match text.len() {
            1..=63 if begins && text.chars().all(valid) => Ok(Self(text.to_owned())),
            _ => Err("1 to 63 letters, digits, `-`, `_` and `.`, the first a letter or digit".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$" })
    }
}

impl Leaf for bool {
    const EXPECTED: &'static str = "`true` or `false`";
    const UNQUOTED: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            "yes" | "Yes" | "on" | "On" | "True" | "TRUE" => Err("write `true`".into()),
            "no" | "No" | "off" | "Off" | "False" | "FALSE" => Err("write `false`".into()),
            _ => Err("it is neither".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "boolean" })
    }
}

/// A TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port(pub(crate) u16);

impl Leaf for Port {
    const EXPECTED: &'static str = "a port from 1 to 65535";
    const UNQUOTED: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(port) if port > 0 => Ok(Self(port)),
            _ => Err("it is not such a number".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "integer", "minimum": 1, "maximum": 65535 })
    }
}

/// How many of something: at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) usize);

impl Leaf for Count {
    const EXPECTED: &'static str = "a number from 1 to 1000000";
    const UNQUOTED: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count @ 1..=1_000_000) => Ok(Self(count)),
            _ => Err("it is not such a number".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "integer", "minimum": 1, "maximum": 1_000_000 })
    }
}

impl Leaf for Duration {
    const EXPECTED: &'static str = "a duration with its unit, such as `30s` or `5m`";

    fn parse(text: &str) -> Result<Self, String> {
        const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
        match humantime::parse_duration(text) {
            Ok(Duration::ZERO) => Err("it is zero".into()),
            Ok(duration) if duration > LONGEST => Err("it is longer than a day".into()),
            Ok(duration) => Ok(duration),
            Err(_) if text.bytes().all(|byte| byte.is_ascii_digit()) => Err("the unit is missing".into()),
            Err(_) => Err("the units are `ms`, `s`, `m` and `h`".into()),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl Leaf for Size {
    const EXPECTED: &'static str = "a size with its unit, such as `64KiB` or `10MiB`";

    fn parse(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit.trim()) else {
            return Err(if unit.is_empty() {
                "the unit is missing"
            } else {
                "the units are `B`, `KiB`, `MiB` and `GiB`"
            }
            .into());
        };
        let bytes = number.parse().ok().and_then(|number: u64| number.checked_mul(*factor));
        match bytes {
            Some(1..=0x100_0000_0000) => Ok(Self(bytes.unwrap_or_default())),
            Some(0) => Err("it is zero".into()),
            _ => Err("it is larger than 1024GiB".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^[0-9]+ *(B|KiB|MiB|GiB)$" })
    }
}

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

impl Leaf for SocketAddr {
    const EXPECTED: &'static str = "an address such as `127.0.0.1:17080` or `[::1]:17080`";

    fn parse(text: &str) -> Result<Self, String> {
        match Self::from_str(text) {
            Ok(address) => Ok(address),
            Err(_) if text.starts_with("localhost:") => {
                Err("write `127.0.0.1` or `[::1]`: a name may mean anything".into())
            }
            Err(_) if text.starts_with(':') => Err("write `0.0.0.0` or `[::]` for every interface".into()),
            Err(_) => Err("it is not an IP address with a port".into()),
        }
    }
}

/// The Unix socket of the admin interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdminSocket(pub(crate) PathBuf);

impl Leaf for AdminSocket {
    const EXPECTED: &'static str = "a Unix socket such as `unix:///run/idjag-proxy/admin.sock`";

    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') && path.len() > 1 => Ok(Self(PathBuf::from(path))),
            Some(_) => Err("three slashes: the path is absolute".into()),
            None => Err("only a Unix socket keeps the agent out, which shares the network".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^unix:///." })
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

/// A file without secrets; relative to the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilePath(pub(crate) PathBuf);

impl Leaf for FilePath {
    const EXPECTED: &'static str = "the path of a file";

    fn parse(text: &str) -> Result<Self, String> {
        file_path(text).map(Self)
    }
}

/// A file that holds a secret; relative to the configuration file. The environment has no say in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretPath(pub(crate) PathBuf);

impl Leaf for SecretPath {
    const EXPECTED: &'static str = "the path of a file";
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        file_path(text).map(Self)
    }
}

fn file_path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("it is empty".into()),
        _ if text.contains("-----BEGIN") => Err("this is the content; write it to a file and name that".into()),
        _ if text.chars().any(char::is_control) => Err("it has a control character in it".into()),
        _ => Ok(PathBuf::from(text)),
    }
}

/// The version of the file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version;

impl Leaf for Version {
    const EXPECTED: &'static str = "the version of the format, which is 1";
    const UNQUOTED: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        if text == "1" { Ok(Self) } else { Err("this program reads version 1".into()) }
    }

    fn schema() -> Value {
        json!({ "const": 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts<L: Leaf>(texts: &[&str]) {
        for text in texts {
            assert!(L::parse(text).is_ok(), "{text}");
        }
    }

    fn refuses<L: Leaf>(texts: &[&str]) {
        for text in texts {
            assert!(L::parse(text).is_err(), "{text}");
        }
    }

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
    fn durations_and_sizes_have_units() {
        assert_eq!(Duration::parse("1m 30s"), Ok(Duration::from_secs(90)));
        refuses::<Duration>(&["30", "0s", "2days", "-1s", "soon", ""]);
        assert_eq!(Size::parse("64KiB"), Ok(Size(65536)));
        assert_eq!(Size::parse("1 GiB"), Ok(Size(1 << 30)));
        refuses::<Size>(&["64", "64KB", "0B", "KiB", "", "99999999999999999999GiB", "2048GiB"]);
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
    fn names_files_methods_and_sockets() {
        accepts::<Name>(&["a", "calendar-2.eu_1"]);
        refuses::<Name>(&["", "-a", "a b", "ä", &"a".repeat(64)]);
        refuses::<Method>(&["get", "CONNECT", "TRACE", "G T", ""]);
        refuses::<SocketAddr>(&["localhost:80", ":80", "127.0.0.1", "a:1"]);
        accepts::<AdminSocket>(&["unix:///run/a.sock"]);
        refuses::<AdminSocket>(&["unix://run", "/run/a.sock", "127.0.0.1:1"]);
        refuses::<SecretPath>(&["", "-----BEGIN PRIVATE KEY-----"]);
    }
}

//! The conditions of a route: host, port, path, methods, headers.
use super::error::PatternError;
use super::fields::{FieldMeaning, is_same_field, nominated};
use super::path::{PathPattern, PathRank};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// A host name, or every host below a name (`*.suffix`), in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// One host, such as `api.example.com`, `127.0.0.1` or `[::1]`.
    Exact(Box<str>),
    /// Every host below a name: `*.example.com` is stored as `.example.com`.
    Suffix(Box<str>),
}

impl HostPattern {
    /// Parses a host without scheme and port.
    ///
    /// # Errors
    /// [`PatternError`] says what to write instead.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let host = text.to_ascii_lowercase();
        if host.contains("://") || host.contains('/') {
            return Err(PatternError("a host is written without a scheme or a path: `api.example.com`".into()));
        }
        if host.starts_with('[') {
            let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            return match inner.map(str::parse::<std::net::Ipv6Addr>) {
                Some(Ok(address)) => Ok(Self::Exact(format!("[{address}]").into())),
                _ => Err(PatternError(
                    "an IPv6 address is written in brackets: `[::1]`; a port belongs in `port`".into(),
                )),
            };
        }
        if host.contains(':') {
            return Err(PatternError(
                "a port belongs in `port`: `match: { host: api.example.com, port: 8443 }`".into(),
            ));
        }
        let (name, suffix) = host.strip_prefix("*.").map_or((host.as_str(), false), |rest| (rest, true));
        if name.contains('*') {
            return Err(PatternError("`*` is only allowed as the whole first label: `*.example.com`".into()));
        }
        let valid = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(is_host_byte);
        if name.len() > 253 || !name.split('.').all(valid) {
            return Err(PatternError("a host consists of letters, digits, `-`, `_` and dots".into()));
        }
        Ok(if suffix { Self::Suffix(format!(".{name}").into()) } else { Self::Exact(name.into()) })
    }

    /// Whether the host, which is in lower case, matches.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
        }
    }

    /// Whether some host matches both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(host), pattern) | (pattern, Self::Exact(host)) => pattern.matches(host),
            (Self::Suffix(one), Self::Suffix(other)) => one.ends_with(&**other) || other.ends_with(&**one),
        }
    }

    fn rank(&self) -> HostRank {
        match self {
            Self::Exact(_) => HostRank { is_exact: true, suffix_length: 0 },
            Self::Suffix(suffix) => HostRank { is_exact: false, suffix_length: suffix.len() },
        }
    }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// The conditions of one route; a request must meet all of them.
#[derive(Clone, Debug)]
pub struct Match {
    /// The host.
    pub host: HostPattern,
    /// The port; absent: the default port of the scheme that the agent used.
    pub port: Option<u16>,
    /// The path.
    pub path: PathPattern,
    /// The methods; empty: any method.
    pub methods: Vec<Method>,
    /// Header fields that must be present with these values.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// How specific a match is: the first field that differs decides, and the greater one wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Rank {
    host: HostRank,
    has_port: bool,
    path: PathRank,
    has_methods: bool,
    headers: usize,
}

/// An exact host is more specific than a suffix, and a longer suffix than a shorter one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct HostRank {
    is_exact: bool,
    suffix_length: usize,
}

impl Match {
    /// Every request to `host`, on the default port of the scheme that the agent uses.
    pub fn host(host: HostPattern) -> Self {
        Self { host, port: None, path: PathPattern::any(), methods: Vec::new(), headers: Vec::new() }
    }

    pub(super) fn rank(&self) -> Rank {
        Rank {
            host: self.host.rank(),
            has_port: self.port.is_some(),
            path: self.path.rank(),
            has_methods: !self.methods.is_empty(),
            headers: self.headers.len(),
        }
    }

    pub(super) fn port_matches(&self, port: u16, default: u16) -> bool {
        port == self.port.unwrap_or(default)
    }

    pub(super) fn method_matches(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    /// Whether the upstream will see each condition met, and nothing else in its place: exactly one
    /// field of that name, in whatever spelling, and one that `Connection` does not nominate for
    /// removal. Hop-by-hop fields are nominated as a rule, which decides nothing: `Upgrade` is sent
    /// on all the same, and the others only select the route, of which `check` warns.
    pub(super) fn headers_match(&self, headers: &HeaderMap) -> bool {
        self.headers.iter().all(|(name, value)| {
            let mut same = headers.iter().filter(|(actual, _)| is_same_field(actual, name));
            let is_met = same.next() == Some((name, value)) && same.next().is_none();
            let is_nominated = || nominated(headers).any(|nominated| nominated.eq_ignore_ascii_case(name.as_str()));
            is_met && (FieldMeaning::of(name).is_hop_by_hop() || !is_nominated())
        })
    }

    /// Whether some request matches both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let methods = self.methods.is_empty()
            || other.methods.is_empty()
            || self.methods.iter().any(|method| other.methods.contains(method));
        let headers = self.headers.iter().all(|(name, value)| {
            other.headers.iter().all(|(other_name, other_value)| name != other_name || value == other_value)
        });
        self.host.overlaps(&other.host)
            && self.port == other.port
            && self.path.overlaps(&other.path)
            && methods
            && headers
    }
}

/// `GET,HEAD api.example.com:8443/v1/** with x-tenant`. The values of headers are left out, because
/// they may be secret.
impl std::fmt::Display for Match {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut separator = "";
        for method in &self.methods {
            write!(f, "{separator}{method}")?;
            separator = ",";
        }
        if !self.methods.is_empty() {
            f.write_str(" ")?;
        }
        write!(f, "{}", self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "{}", self.path)?;
        let mut separator = " with ";
        for (name, _) in &self.headers {
            write!(f, "{separator}{name}")?;
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn match_is_displayed_without_the_values_of_headers() {
        let mut matcher = Match::host(HostPattern::parse("*.example.com").expect("a host"));
        assert_eq!(matcher.to_string(), "*.example.com/**");
        matcher.port = Some(8443);
        matcher.path = PathPattern::parse("/v1/*").expect("a path");
        matcher.methods = vec![Method::GET, Method::HEAD];
        matcher.headers.push((HeaderName::from_static("x-tenant"), HeaderValue::from_static("acme")));
        assert_eq!(matcher.to_string(), "GET,HEAD *.example.com:8443/v1/* with x-tenant");
    }

    #[test]
    fn host_pattern_matches_whole_labels() {
        assert_eq!(HostPattern::parse("API.Example.com").expect("host"), HostPattern::Exact("api.example.com".into()));
        let suffix = HostPattern::parse("*.example.com").expect("suffix");
        assert!(suffix.matches("a.example.com") && suffix.matches("a.b.example.com"));
        assert!(
            !suffix.matches("example.com") && !suffix.matches("evilexample.com") && !suffix.matches(".example.com")
        );
        assert_eq!(HostPattern::parse("[0:0::1]").expect("v6").to_string(), "[::1]");
        for wrong in ["https://a", "a:80", "a.*.b", "", "a..b", "::1", "a b", "*"] {
            assert!(HostPattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}

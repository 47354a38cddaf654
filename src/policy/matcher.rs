//! What a route matches: host, port, path, methods, headers.
use super::error::PatternError;
use super::path::PathPattern;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// A host name, or every host below one (`*.suffix`). Lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `api.example.com`, `127.0.0.1`, `[::1]`
    Exact(Box<str>),
    /// `*.example.com` is kept as `.example.com`
    Suffix(Box<str>),
}

impl HostPattern {
    /// Reads a host, without scheme and port.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let host = text.to_ascii_lowercase();
        if host.contains("://") || host.contains('/') {
            return Err(PatternError("a host stands alone, without a scheme or a path: `api.example.com`".into()));
        }
        if host.starts_with('[') {
            let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            return match inner.map(str::parse::<std::net::Ipv6Addr>) {
                Some(Ok(address)) => Ok(Self::Exact(format!("[{address}]").into())),
                _ => Err(PatternError("an IPv6 address stands in brackets: `[::1]`; a port goes into `port`".into())),
            };
        }
        if host.contains(':') {
            return Err(PatternError("a port goes into `port`: `match: { host: api.example.com, port: 8443 }`".into()));
        }
        let (name, suffix) = host.strip_prefix("*.").map_or((host.as_str(), false), |rest| (rest, true));
        if name.contains('*') {
            return Err(PatternError("`*` stands alone in front of a suffix: `*.example.com`".into()));
        }
        let valid = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(is_host_byte);
        if name.len() > 253 || !name.split('.').all(valid) {
            return Err(PatternError("a host is made of letters, digits, `-`, `_` and dots".into()));
        }
        Ok(if suffix { Self::Suffix(format!(".{name}").into()) } else { Self::Exact(name.into()) })
    }

    /// Whether a lower-case host matches.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
        }
    }

    /// Exact before suffix, a longer suffix before a shorter one.
    fn rank(&self) -> (bool, usize) {
        match self {
            Self::Exact(_) => (true, 0),
            Self::Suffix(suffix) => (false, suffix.len()),
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

/// The conditions of one route; all must hold.
#[derive(Clone, Debug)]
pub struct Match {
    /// The host.
    pub host: HostPattern,
    /// Absent: the default port of the scheme that the agent used.
    pub port: Option<u16>,
    /// The path.
    pub path: PathPattern,
    /// Empty: any.
    pub methods: Vec<Method>,
    /// Each must be present with this value.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// How specific a match is; greater wins.
pub(super) type Rank = ((bool, usize), bool, (usize, bool), bool, usize);

impl Match {
    pub(super) fn rank(&self) -> Rank {
        (self.host.rank(), self.port.is_some(), self.path.rank(), !self.methods.is_empty(), self.headers.len())
    }

    pub(super) fn port_matches(&self, port: u16, default: u16) -> bool {
        port == self.port.unwrap_or(default)
    }

    pub(super) fn method_matches(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    pub(super) fn headers_match(&self, headers: &HeaderMap) -> bool {
        self.headers.iter().all(|(name, value)| headers.get_all(name).iter().any(|actual| actual == value))
    }

    /// Whether one request could match both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let hosts = self.host == other.host
            || matches!((&self.host, &other.host), (HostPattern::Suffix(a), HostPattern::Suffix(b)) if a.ends_with(&**b) || b.ends_with(&**a));
        let methods = self.methods.is_empty()
            || other.methods.is_empty()
            || self.methods.iter().any(|method| other.methods.contains(method));
        let headers = self.headers.iter().all(|(name, value)| {
            other.headers.iter().all(|(other_name, other_value)| name != other_name || value == other_value)
        });
        hosts && self.port == other.port && self.path.overlaps(&other.path) && methods && headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
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

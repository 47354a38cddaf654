//! The address of the Workload API, in every spelling that is in use.
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A Workload API socket: a Unix socket, or TCP on an IP address (SPIFFE Workload Endpoint §4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
    /// An IP address and port. The Workload API has no TLS, so any address but loopback exposes
    /// keys to the network.
    Tcp(SocketAddr),
}

/// Why a text is not the address of a Workload API, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a Workload API socket: {}; {}", problem.what, problem.fix)]
pub struct EndpointError {
    text: String,
    problem: Problem,
}

/// What is wrong with an address, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    what: &'static str,
    fix: String,
}

impl Problem {
    fn new(what: &'static str, fix: impl Into<String>) -> Self {
        Self { what, fix: fix.into() }
    }
}

/// Reads `unix:///p`, `unix:/p`, `unix:p` (from the working directory), `/p`, `tcp://IP:port` or
/// `tcp:IP:port`.
///
/// # Errors
/// [`EndpointError`], with what to write instead.
pub fn parse_endpoint(text: &str) -> Result<Endpoint, EndpointError> {
    parse(text.trim()).map_err(|problem| EndpointError { text: text.to_owned(), problem })
}

fn parse(text: &str) -> Result<Endpoint, Problem> {
    if text.is_empty() {
        return Err(Problem::new("it is empty", format!("write {EXAMPLE}")));
    }
    if let Some(rest) = strip_scheme(text, "unix:") {
        return unix_path(rest).map(Endpoint::Unix);
    }
    if let Some(rest) = strip_scheme(text, "tcp:") {
        return tcp_address(rest).map(Endpoint::Tcp);
    }
    if text.starts_with('/') {
        return unix_path(text).map(Endpoint::Unix);
    }
    if text.contains("://") {
        let fix = format!("write {EXAMPLE}, or tcp://127.0.0.1:8081");
        return Err(Problem::new("its scheme is neither unix nor tcp", fix));
    }
    let fix = format!("write unix:///{}", text.trim_start_matches("./"));
    Err(Problem::new("it has no scheme and is not an absolute path", fix))
}

const EXAMPLE: &str = "unix:///run/spire/agent.sock";

impl Endpoint {
    /// Whether other machines on the network could read the traffic.
    pub fn is_routable(&self) -> bool {
        matches!(self, Self::Tcp(address) if !address.ip().is_loopback())
    }

    pub(super) fn to_spiffe(&self) -> spiffe::transport::Endpoint {
        match self {
            Self::Unix(path) => spiffe::transport::Endpoint::Unix(path.clone()),
            Self::Tcp(address) => spiffe::transport::Endpoint::Tcp { host: address.ip(), port: address.port() },
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(out, "unix://{}", path.display()),
            Self::Tcp(address) => write!(out, "tcp://{address}"),
        }
    }
}

/// Schemes are case-insensitive (RFC 3986 §3.1).
fn strip_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let head = text.get(..scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then(|| &text[scheme.len()..])
}

fn unix_path(rest: &str) -> Result<PathBuf, Problem> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') || path.is_empty() => path,
        Some(path) => {
            let fix = format!("write unix:///{path}");
            return Err(Problem::new("`unix://` must be followed by an absolute path", fix));
        }
        None => rest,
    };
    let example = || format!("write {EXAMPLE}");
    if let Some(at) = path.find(['?', '#']) {
        return Err(Problem::new("a socket has no query and no fragment", format!("write unix://{}", &path[..at])));
    }
    if path.trim_matches('/').is_empty() {
        return Err(Problem::new("the path is missing", example()));
    }
    if path.contains('\0') {
        return Err(Problem::new("the path contains a NUL byte", example()));
    }
    let path = std::path::absolute(Path::new(path))
        .map_err(|_| Problem::new("the path is relative and the working directory does not exist", example()))?;
    if path.as_os_str().len() > MAX_UNIX_PATH {
        let fix = format!("the operating system takes {MAX_UNIX_PATH} bytes, so move the socket or use a symlink");
        return Err(Problem::new("the path is too long for a Unix socket", fix));
    }
    Ok(path)
}

/// `sun_path` without its closing NUL (unix(7)).
const MAX_UNIX_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

fn tcp_address(rest: &str) -> Result<SocketAddr, Problem> {
    const FIX: &str = "write tcp://127.0.0.1:8081";
    let authority = rest.strip_prefix("//").unwrap_or(rest);
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if authority.contains(['/', '?', '#', '@']) {
        return Err(Problem::new("tcp takes an address and a port, nothing else", FIX));
    }
    if authority.parse::<std::net::IpAddr>().is_ok() {
        return Err(Problem::new("the port is missing", FIX));
    }
    authority.parse().map_err(|_| Problem::new("tcp takes an IP address and a port, not a host name", FIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_parsed() {
        let unix = Endpoint::Unix("/run/spire/agent.sock".into());
        for text in [
            "unix:///run/spire/agent.sock",
            "unix:/run/spire/agent.sock",
            "/run/spire/agent.sock",
            "UNIX:///run/spire/agent.sock",
            " unix:///run/spire/agent.sock\n",
        ] {
            assert_eq!(parse_endpoint(text).expect(text), unix, "{text}");
        }
        let Endpoint::Unix(relative) = parse_endpoint("unix:agent.sock").expect("relative") else { panic!("unix") };
        assert!(relative.is_absolute() && relative.ends_with("agent.sock"));
        for text in ["tcp://127.0.0.1:8081", "tcp:127.0.0.1:8081", "tcp://127.0.0.1:8081/"] {
            assert_eq!(parse_endpoint(text).expect(text), Endpoint::Tcp(([127, 0, 0, 1], 8081).into()), "{text}");
        }
        assert_eq!(parse_endpoint("tcp://[::1]:1").expect("v6").to_string(), "tcp://[::1]:1");
        assert_eq!(parse_endpoint(&unix.to_string()).expect("round trip"), unix);
    }

    #[test]
    fn error_ends_with_the_fix() {
        for (text, fix) in [
            ("unix://run/spire/agent.sock", "write unix:///run/spire/agent.sock"),
            ("run/agent.sock", "write unix:///run/agent.sock"),
            ("unix://", "write unix:///run/spire/agent.sock"),
            ("unix:///", "write unix:///run/spire/agent.sock"),
            ("unix:///a?x=1", "write unix:///a"),
            ("", "write unix:///run/spire/agent.sock"),
            ("http://localhost:8081", "write unix:///run/spire/agent.sock, or tcp://127.0.0.1:8081"),
            ("tcp://localhost:8081", "write tcp://127.0.0.1:8081"),
            ("tcp://127.0.0.1", "write tcp://127.0.0.1:8081"),
            ("tcp://127.0.0.1:8081/x", "write tcp://127.0.0.1:8081"),
        ] {
            let error = parse_endpoint(text).expect_err(text).to_string();
            assert!(error.ends_with(fix), "{text}: {error}");
        }
    }

    #[test]
    fn path_too_long_for_a_socket_is_refused() {
        let error = parse_endpoint(&format!("/{}", "a".repeat(MAX_UNIX_PATH))).expect_err("too long");
        assert!(error.to_string().contains("too long for a Unix socket"), "{error}");
        assert!(parse_endpoint(&format!("/{}", "a".repeat(MAX_UNIX_PATH - 1))).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in ".{0,40}", scheme in "(unix:|tcp:|unix://|)") {
            if let Ok(endpoint) = parse_endpoint(&format!("{scheme}{text}")) {
                proptest::prop_assert_eq!(parse_endpoint(&endpoint.to_string()).ok(), Some(endpoint));
            }
        }
    }

    #[test]
    fn only_loopback_is_not_routable() {
        assert!(parse_endpoint("tcp://10.0.0.1:1").expect("tcp").is_routable());
        assert!(!parse_endpoint("tcp://[::1]:1").expect("tcp").is_routable());
        assert!(!parse_endpoint("/s").expect("unix").is_routable());
    }
}

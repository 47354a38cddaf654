//! The destination of a request. Its authority is read here, once; policy, TLS and the forwarded
//! `Host` all derive from it.
use crate::host::without_brackets;
use crate::policy::{Origin, Policy, Scheme, Target};
use crate::proxy::downstream::Arrival;
use crate::proxy::error::{Reason, Refusal};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, Version, header};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The destination of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// The scheme that the agent used.
    pub(super) scheme: Scheme,
    /// Lower case; IPv6 addresses are in brackets.
    pub(super) host: String,
    /// Explicit or the scheme's default.
    pub(super) port: u16,
    /// Path and query as they arrived; for a base URL, what follows the first segment.
    pub(super) path: PathAndQuery,
    /// The first path segment of a base URL, as the agent wrote it.
    pub(super) base: Option<Box<str>>,
}

impl Destination {
    /// The part that the policy decides on.
    pub(super) fn target(&self) -> Target<'_> {
        Target { scheme: self.scheme, host: &self.host, port: self.port }
    }

    /// Whether it is the listener that the request arrived at.
    pub(super) fn is_listener(&self, arrival: Arrival<'_>) -> bool {
        self.port == arrival.local.port() && is_own_host(&self.host, arrival.local)
    }

    /// The origin at this host with another scheme. A default port stays a default port.
    pub(super) fn origin(&self, scheme: Scheme) -> Origin {
        let is_default = self.port == self.scheme.default_port();
        let port = if is_default { scheme.default_port() } else { self.port };
        Origin { scheme, host: self.host.as_str().into(), port }
    }
}

/// Reads the destination of a request: in origin, absolute or authority form (RFC 9112 §3.2), or as
/// a base URL.
pub(super) fn read(parts: &Parts, arrival: Arrival<'_>, policy: &Policy) -> Result<Destination, Refusal> {
    let host = single_host(parts)?;
    let path = path_and_query(parts)?;
    if let Some(scheme) = parts.uri.scheme_str().filter(|_| parts.version < Version::HTTP_2) {
        // In absolute form the target wins, and `Host` is replaced (RFC 9112 §3.2.2).
        let authority = parts.uri.authority().ok_or_else(|| malformed("the request's target has no host"))?;
        let scheme = scheme_of(scheme)?;
        return match arrival.tunnel {
            // Inside a tunnel this proxy stands for the tunnel's origin alone (RFC 9110 §9.3.6).
            Some(tunnel) if scheme != Scheme::Http || !same_destination(tunnel, authority) => {
                Err(malformed("the target inside the tunnel is not what the CONNECT names"))
            }
            Some(tunnel) => inside(tunnel, path, arrival.local, policy),
            // `HTTP_PROXY` is set, and the agent calls a base URL.
            None if scheme == Scheme::Http && is_own(authority, arrival.local) => base_url(&path, policy),
            None => destination(scheme, authority, path),
        };
    }
    if !matches!(parts.uri.scheme_str(), None | Some("http" | "https")) {
        return Err(malformed("`:scheme` is neither `http` nor `https`"));
    }
    let authority = match (parts.uri.authority(), &host) {
        (Some(_), _) if parts.version < Version::HTTP_2 => {
            return Err(malformed("its target names a host and no path, as only that of a CONNECT does"));
        }
        // RFC 9113 §8.3.1: `:authority` and `Host` must not differ. We refuse such a request and do
        // not choose one of them.
        (Some(target), Some(host)) if !same_authority(target, host) => {
            return Err(malformed("`:authority` and `Host` differ"));
        }
        (Some(target), _) => target.clone(),
        (None, Some(host)) => host.clone(),
        (None, None) => return Err(malformed("there is no `Host`")),
    };
    if let Some(tunnel) = arrival.tunnel {
        if !same_destination(tunnel, &authority) {
            return Err(malformed("the `Host` inside the tunnel is not the host of the CONNECT"));
        }
        return inside(tunnel, path, arrival.local, policy);
    }
    if parts.version < Version::HTTP_2 {
        refuse_other_sites(&parts.headers, &authority)?;
    }
    if is_own(&authority, arrival.local) {
        return base_url(&path, policy);
    }
    destination(Scheme::Http, &authority, path)
}

/// The destination of a request inside a tunnel to `tunnel`.
fn inside(tunnel: &Authority, path: PathAndQuery, local: SocketAddr, policy: &Policy) -> Result<Destination, Refusal> {
    if is_own(tunnel, local) { base_url(&path, policy) } else { destination(Scheme::Http, tunnel, path) }
}

/// Reads the path and the query. `"`, `<` and `>` are refused in both, although the `http` crate
/// admits the first in a path: they belong in neither (RFC 3986 §3.3, §3.4), clients that build
/// URLs encode them in both, and over HTTP/2 h2 resets the stream where that crate refuses one.
fn path_and_query(parts: &Parts) -> Result<PathAndQuery, Refusal> {
    let Some(path) = parts.uri.path_and_query() else { return Ok(PathAndQuery::from_static("/")) };
    let text = path.as_str();
    if text.contains(['"', '<', '>']) {
        return Err(malformed("`\"`, `<` and `>` must be percent-encoded in a path and a query"));
    }
    match text.as_bytes() {
        // An empty path compares as `/`, but would be sent as nothing.
        b"/" => Ok(PathAndQuery::from_static("/")),
        [b'/', ..] => Ok(path.clone()),
        b"*" if parts.method == Method::OPTIONS => Ok(path.clone()),
        // In absolute form the query may follow the host (RFC 9112 §3.2.1).
        [b'?', ..] if parts.version < Version::HTTP_2 => {
            PathAndQuery::try_from(format!("/{text}")).map_err(|_| malformed("its target is not a URI"))
        }
        _ => Err(malformed("the path does not begin with `/`")),
    }
}

/// Reads the authority of a CONNECT, whose port is mandatory (RFC 9110 §9.3.6).
pub(super) fn read_connect(parts: &Parts) -> Result<Destination, Refusal> {
    single_host(parts)?;
    let is_authority_form = parts.uri.scheme().is_none() && parts.uri.path_and_query().is_none();
    let authority = parts.uri.authority().filter(|_| is_authority_form);
    let authority = authority.ok_or_else(|| malformed("CONNECT names `host:port`"))?;
    let port = authority.port_u16().ok_or_else(|| malformed("CONNECT names a port: `host:port`"))?;
    let scheme = if port == Scheme::Https.default_port() { Scheme::Https } else { Scheme::Http };
    destination(scheme, authority, PathAndQuery::from_static("/"))
}

/// The destination of a base URL, whose first path segment names the host or an alias.
fn base_url(path: &PathAndQuery, policy: &Policy) -> Result<Destination, Refusal> {
    let text = path.as_str().strip_prefix('/').unwrap_or_default();
    let end = text.find(['/', '?']).unwrap_or(text.len());
    let (first, rest) = text.split_at(end);
    if first.is_empty() {
        let detail =
            "This is a proxy. Name a host: `http://127.0.0.1:17080/api.example.com/path`, or set `HTTP_PROXY`.";
        return Err(Refusal::new(Reason::NoRoute, detail));
    }
    let named = policy.alias(first).unwrap_or(first);
    let authority: Authority = named.parse().map_err(|_| malformed("the first path segment is not a host"))?;
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let rest = PathAndQuery::try_from(rest).map_err(|_| malformed("what follows the host is not a path"))?;
    let destination = destination(Scheme::Http, &authority, rest)?;
    Ok(Destination { base: Some(first.into()), ..destination })
}

fn destination(scheme: Scheme, authority: &Authority, path: PathAndQuery) -> Result<Destination, Refusal> {
    if authority.as_str().contains('@') {
        return Err(malformed("a host with user information is refused"));
    }
    let host = authority.host();
    if authority.as_str().len() > host.len() && authority.port_u16().is_none() {
        return Err(malformed("the port is not a number below 65536"));
    }
    let port = authority.port_u16().unwrap_or(scheme.default_port());
    let host = canonical_host(host).ok_or_else(|| malformed("the host is empty, or not a host"))?;
    Ok(Destination { scheme, host, port, path, base: None })
}

/// The one spelling of a host that routes are compared with: a name in lower case, an IPv6 address
/// as [`std::net::Ipv6Addr`] writes it. `None` if it is empty, has an escape, or is no address in
/// its brackets.
fn canonical_host(host: &str) -> Option<String> {
    if let Some(address) = host.strip_prefix('[') {
        let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    // With a trailing dot the name is the same host in DNS, and must not lead to another route.
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty() && !host.contains('%')).then(|| host.to_ascii_lowercase())
}

/// Reads `Host`, of which a request may have one, and a valid one; in HTTP/1.1 it must have it, in
/// absolute form, too (RFC 9112 §3.2).
fn single_host(parts: &Parts) -> Result<Option<Authority>, Refusal> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(malformed("there are two `Host` fields"));
    }
    if first.is_none() && parts.version == Version::HTTP_11 {
        return Err(malformed("there is no `Host`"));
    }
    let parse = |value: &http::HeaderValue| {
        Authority::try_from(value.as_bytes()).map_err(|_| malformed("`Host` is not a host"))
    };
    first.map(parse).transpose()
}

fn same_authority(one: &Authority, other: &Authority) -> bool {
    let is_plain = |authority: &Authority| !authority.as_str().contains('@');
    one.as_str().eq_ignore_ascii_case(other.as_str())
        || (is_plain(one) && is_plain(other) && same_host(one, other) && one.port_u16() == other.port_u16())
}

fn same_host(one: &Authority, other: &Authority) -> bool {
    let canonical = canonical_host(one.host());
    one.host().eq_ignore_ascii_case(other.host()) || (canonical.is_some() && canonical == canonical_host(other.host()))
}

/// Whether a request inside a tunnel names the host and port of the tunnel. Inside a tunnel to
/// `host:80`, clients send either `Host: host` or `Host: host:80`.
fn same_destination(tunnel: &Authority, host: &Authority) -> bool {
    let default = Scheme::Http.default_port();
    same_host(tunnel, host) && tunnel.port_u16().unwrap_or(default) == host.port_u16().unwrap_or(default)
}

/// Whether an authority is this listener's own: a loopback name with its port. This also defeats
/// DNS rebinding by a web page, whose host name is never a loopback name.
fn is_own(authority: &Authority, local: SocketAddr) -> bool {
    is_own_host(authority.host(), local) && authority.port_u16().unwrap_or(Scheme::Http.default_port()) == local.port()
}

fn is_own_host(host: &str, local: SocketAddr) -> bool {
    let host = without_brackets(host);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip == local.ip())
}

/// Refuses requests of web pages. A page that is open on the same machine can reach this port and
/// would be given the agent's credentials. Browsers reveal it in `Sec-Fetch-Site` (Fetch Metadata
/// §2.4) or, where that is missing, as with some for a WebSocket, in an `Origin` other than the
/// requested host (RFC 6455 §10.2). No page can make a browser send absolute form or cleartext
/// HTTP/2, so those requests are exempt: they may carry forwarded headers.
fn refuse_other_sites(headers: &HeaderMap, host: &Authority) -> Result<(), Refusal> {
    let mut sites = headers.get_all("sec-fetch-site").iter().peekable();
    let is_allowed = if sites.peek().is_some() {
        sites.all(|site| site == "same-origin" || site == "none")
    } else {
        headers.get_all(header::ORIGIN).iter().all(|origin| {
            let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()))
        })
    };
    let detail = "`Sec-Fetch-Site` or `Origin` says that the page of another site made the request. An agent leaves them out, or \
                  names the host in the absolute form, as with `HTTP_PROXY`.";
    if is_allowed { Ok(()) } else { Err(Refusal::new(Reason::CrossSite, detail)) }
}

fn scheme_of(text: &str) -> Result<Scheme, Refusal> {
    match text {
        "http" | "ws" => Ok(Scheme::Http),
        "https" | "wss" => Ok(Scheme::Https),
        _ => Err(malformed("only http:// and https:// are supported")),
    }
}

fn malformed(detail: &str) -> Refusal {
    Refusal::new(Reason::MalformedRequest, format!("The request is refused because {detail}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Unmatched;
    use http::Request;

    fn read_with(uri: &str, host: &[&str], tunnel: Option<&str>) -> Result<Destination, Refusal> {
        let mut request = Request::builder().uri(uri);
        for host in host {
            request = request.header("host", *host);
        }
        let (parts, ()) = request.body(()).expect("request").into_parts();
        let tunnel: Option<Authority> = tunnel.map(|text| text.parse().expect("authority"));
        let arrival = Arrival { local: "127.0.0.1:17080".parse().expect("address"), tunnel: tunnel.as_ref() };
        let policy = Policy::new(Vec::new(), Unmatched::Refuse).map_err(|_| ()).expect("empty policy");
        read(&parts, arrival, &policy)
    }

    fn spelled(destination: &Destination) -> String {
        format!("{:?} {} {} {}", destination.scheme, destination.host, destination.port, destination.path)
    }

    #[test]
    fn every_form_of_target_is_read() {
        for (uri, host, expected) in [
            ("http://API.example/x?y", "other", "Http api.example 80 /x?y"),
            ("http://api.example.:8080/x", "other", "Http api.example 8080 /x"),
            ("https://api.example/x", "other", "Https api.example 443 /x"),
            ("/x", "api.example", "Http api.example 80 /x"),
            ("/api.example/x?y=/z", "127.0.0.1:17080", "Http api.example 80 /x?y=/z"),
            ("/api.example?y", "localhost:17080", "Http api.example 80 /?y"),
            ("http://127.0.0.1:17080/api.example/x", "127.0.0.1:17080", "Http api.example 80 /x"),
            ("http://localhost:17080/api.example:81/x", "other", "Http api.example 81 /x"),
            ("https://localhost:17080/api.example/x", "other", "Https localhost 17080 /api.example/x"),
            ("/api.example:8443", "[::1]:17080", "Http api.example 8443 /"),
            ("/x", "127.0.0.1:9000", "Http 127.0.0.1 9000 /x"),
            ("http://a?x", "a", "Http a 80 /?x"),
            ("http://[0:0::1]:90/x", "[::1]:90", "Http [::1] 90 /x"),
            ("/x", "[2001:DB8:0::1]", "Http [2001:db8::1] 80 /x"),
        ] {
            let destination = read_with(uri, &[host], None).expect(uri);
            assert_eq!(spelled(&destination), expected, "{uri}");
        }
    }

    #[test]
    fn ambiguous_authorities_are_refused() {
        for (uri, hosts) in [
            ("/x", &[][..]),
            ("/x", &["a", "a"]),
            ("/x", &["a b"]),
            ("http://user@a/x", &["a"]),
            ("ftp://a/x", &["a"]),
            ("/", &["127.0.0.1:17080"]),
            ("http://a/x", &[]),
            ("http://./x", &["a"]),
            ("/x", &["."]),
            ("http://[fe80::1%25eth0]/x", &["a"]),
            ("http://[::1.2]/x", &["a"]),
            ("/x\"y", &["a"]),
            ("*", &["a"]),
            ("a", &["a"]),
        ] {
            assert!(read_with(uri, hosts, None).is_err(), "{uri} {hosts:?}");
        }
    }

    #[test]
    fn other_hosts_inside_a_tunnel_are_refused() {
        assert!(read_with("/x", &["api.example"], Some("api.example:80")).is_ok());
        assert!(read_with("/x", &["api.example:80"], Some("api.example:80")).is_ok());
        assert!(read_with("/x", &["[0:0::1]"], Some("[::1]:80")).is_ok());
        assert!(read_with("/x", &["evil.example"], Some("api.example:80")).is_err());
        assert!(read_with("/x", &["api.example"], Some("api.example:8080")).is_err());
        assert!(read_with("http://api.example/x", &["other"], Some("api.example:80")).is_ok());
        for other in
            ["http://evil.example/x", "http://api.example:8080/x", "https://api.example/x", "https://api.example:80/x"]
        {
            assert!(read_with(other, &["api.example"], Some("api.example:80")).is_err(), "{other}");
        }
    }
}

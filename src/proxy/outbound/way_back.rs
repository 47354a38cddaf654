//! The way back: what in a response depends on the origin that the agent sees is rewritten from the
//! upstream's origin to the agent's. The agent usually calls `http://`, also where the request
//! leaves as `https://`, and by a base URL all upstreams share the origin of this listener.
use super::destination::Destination;
use crate::policy::{Origin, Policy, Scheme, Target};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Authority;
use prometheus::IntCounter;

/// Rewrites the responses to one request.
pub(super) struct WayBack<'r> {
    pub(super) policy: &'r Policy,
    /// What the agent called.
    pub(super) destination: &'r Destination,
    /// The origin that was called for it.
    pub(super) upstream: &'r Origin,
    /// Counts the cookies that are left out.
    pub(super) dropped_cookies: &'r IntCounter,
}

/// Cookie names with these prefixes demand `Secure` (RFC 6265bis §4.1.3), which no cookie of a base
/// URL can have. They are renamed on their way to the agent, and renamed back.
const PREFIXES: [(&str, &str); 2] = [("__Host-", "_idjag-Host-"), ("__Secure-", "_idjag-Secure-")];

impl WayBack<'_> {
    /// Rewrites redirects, and the cookies that the agent would not send back, or to another
    /// upstream.
    pub(super) fn rewrite(&self, status: StatusCode, headers: &mut HeaderMap) {
        let leads_on = status.is_redirection() || status == StatusCode::CREATED;
        for name in [header::LOCATION, header::CONTENT_LOCATION].iter().filter(|_| leads_on) {
            let location = headers.get(name).and_then(|value| value.to_str().ok());
            if let Some(rewritten) = location.and_then(|location| self.location(location))
                && let Ok(value) = HeaderValue::try_from(rewritten)
            {
                headers.insert(name, value);
            }
        }
        let leaves_over_tls = self.destination.scheme == Scheme::Http && self.upstream.scheme == Scheme::Https;
        if (leaves_over_tls || self.destination.base.is_some()) && headers.contains_key(header::SET_COOKIE) {
            self.set_cookies(headers);
        }
    }

    /// The reference (RFC 3986 §4.1) by which the agent reaches what `location` names. `None` if it
    /// stays as it is: it is relative to the request, or no route leads there.
    fn location(&self, location: &str) -> Option<String> {
        let base = self.destination.base.as_deref();
        let (scheme, rest) = match location.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            _ => match location.strip_prefix("//") {
                Some(rest) => (self.upstream.scheme, rest),
                None => return base.filter(|_| location.starts_with('/')).map(|base| format!("/{base}{location}")),
            },
        };
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let authority: Authority = authority.parse().ok().filter(|_| !authority.contains('@'))?;
        let (host, port) = (authority.host().to_ascii_lowercase(), authority.port_u16());
        let port = port.unwrap_or(scheme.default_port());
        let separator = if rest.starts_with('/') { "" } else { "/" };
        let is_own = (scheme, &*host, port) == (self.upstream.scheme, &*self.upstream.host, self.upstream.port);
        if is_own {
            return Some(match base {
                Some(base) => format!("/{base}{separator}{rest}"),
                None => format!("{}{separator}{rest}", url_of(self.destination.target())),
            });
        }
        let called = self.destination.scheme;
        let port = if port == scheme.default_port() { called.default_port() } else { port };
        let target = Target { scheme: called, host: &host, port };
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        if !self.policy.serves(target, if path.is_empty() { "/" } else { path }) {
            return None;
        }
        Some(match base {
            Some(_) => format!("/{}{separator}{rest}", authority_of(target)),
            None => format!("{}{separator}{rest}", url_of(target)),
        })
    }

    fn set_cookies(&self, headers: &mut HeaderMap) {
        let base = self.destination.base.as_deref().map(|base| CookieBase::new(base, self.destination.path.path()));
        let base = base.as_ref();
        let cookies: Vec<HeaderValue> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
        headers.remove(header::SET_COOKIE);
        for cookie in cookies {
            let rewritten = cookie.to_str().ok().map(|cookie| set_cookie(cookie, base));
            match rewritten {
                Some(Some(rewritten)) => {
                    if let Ok(value) = HeaderValue::try_from(rewritten) {
                        headers.append(header::SET_COOKIE, value);
                    }
                }
                Some(None) => self.drop_cookie("its name is reserved for renamed cookies"),
                // Not text that this proxy could take apart: RFC 6265 §4.1.1 allows only ASCII.
                None if base.is_none() => {
                    headers.append(header::SET_COOKIE, cookie);
                }
                None => self.drop_cookie("it is not ASCII"),
            }
        }
    }

    /// Counts a cookie that is left out. An upstream decides how many there are, so that a line for
    /// each would let it fill the log.
    fn drop_cookie(&self, why: &'static str) {
        self.dropped_cookies.inc();
        tracing::debug!(host = %self.destination.host, "a cookie was dropped: {why}");
    }
}

/// Renames the cookies that an agent sends to a base URL to what their upstream calls them.
pub(super) fn restore_cookie_names(headers: &mut HeaderMap) {
    let cookies = headers.get_all(header::COOKIE).iter();
    let restored: Vec<Option<HeaderValue>> = cookies.map(restored).collect();
    if restored.iter().all(Option::is_none) {
        return;
    }
    let cookies: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    for (cookie, restored) in cookies.into_iter().zip(restored) {
        headers.append(header::COOKIE, restored.unwrap_or(cookie));
    }
}

fn restored(cookie: &HeaderValue) -> Option<HeaderValue> {
    let text = cookie.to_str().ok()?;
    let mut is_changed = false;
    let pairs = text.split(';').map(|pair| {
        let name = pair.trim_start();
        for (theirs, ours) in PREFIXES {
            if let Some(rest) = strip_prefix(name, ours) {
                is_changed = true;
                return format!("{}{theirs}{rest}", &pair[..pair.len() - name.len()]);
            }
        }
        pair.to_owned()
    });
    let joined = pairs.collect::<Vec<_>>().join(";");
    HeaderValue::try_from(joined).ok().filter(|_| is_changed)
}

/// A `Set-Cookie` (RFC 6265 §4.1) for an agent that speaks cleartext HTTP, at a base URL if one is
/// given. `None` if its name is one that only this proxy gives.
fn set_cookie(cookie: &str, base: Option<&CookieBase<'_>>) -> Option<String> {
    let mut parts = cookie.split(';');
    let pair = parts.next().unwrap_or_default().trim_start();
    let mut rewritten = match base {
        None => pair.to_owned(),
        Some(_) if strip_prefix(pair, "_idjag-").is_some() => return None,
        Some(_) => {
            let prefix = PREFIXES.iter().find_map(|(theirs, ours)| Some((ours, strip_prefix(pair, theirs)?)));
            prefix.map_or_else(|| pair.to_owned(), |(ours, rest)| format!("{ours}{rest}"))
        }
    };
    let mut has_path = false;
    for attribute in parts {
        let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        let (name, value) = (name.trim(), value.trim());
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match base {
            _ if is("secure") => {}
            Some(_) if is("domain") => {}
            Some(base) if is("path") => {
                // The last one counts. One that is no path counts as absent (RFC 6265 §5.2.4).
                let path = match value {
                    // `/alias/` would not match a request for the base URL itself (RFC 6265
                    // §5.1.4).
                    "/" => "",
                    value if value.starts_with('/') => value,
                    _ => base.directory,
                };
                rewritten.push_str(&format!("; Path=/{}{path}", base.segment));
                has_path = true;
            }
            _ => {
                rewritten.push(';');
                rewritten.push_str(attribute);
            }
        }
    }
    if let Some(CookieBase { segment, directory }) = base.filter(|_| !has_path) {
        rewritten.push_str(&format!("; Path=/{segment}{directory}"));
    }
    Some(rewritten)
}

/// Where the cookies of a base URL belong.
struct CookieBase<'r> {
    /// The first path segment.
    segment: &'r str,
    /// The path of a cookie that names none (RFC 6265 §5.1.4), as the upstream sees it. It is
    /// always spelled out: for a request to the segment alone, the agent would take `/`.
    directory: &'r str,
}

impl<'r> CookieBase<'r> {
    fn new(segment: &'r str, path: &'r str) -> Self {
        Self { segment, directory: path.rsplit_once('/').map_or("", |(directory, _)| directory) }
    }
}

/// What follows a prefix, whose case does not matter, as in RFC 6265bis §5.4.
fn strip_prefix<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (first, rest) = text.split_at_checked(prefix.len())?;
    first.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// A URL without a path, in the scheme that the agent used.
fn url_of(target: Target<'_>) -> String {
    let scheme = if target.scheme == Scheme::Http { "http" } else { "https" };
    format!("{scheme}://{}", authority_of(target))
}

/// `host` or `host:port`, without a default port.
fn authority_of(target: Target<'_>) -> String {
    let Target { scheme, host, port } = target;
    if port == scheme.default_port() { host.to_owned() } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{CredentialRule, HostPattern, Match, PathPattern, Route, Unmatched};
    use http::uri::PathAndQuery;

    fn policy() -> Policy {
        let route = |host: &str, path: &str| {
            let matcher = Match {
                path: PathPattern::parse(path).expect("path"),
                ..Match::host(HostPattern::parse(host).expect("host"))
            };
            Route::new(host, matcher, CredentialRule::None { keep_credentials: false }, None)
        };
        let routes = vec![route("a.test", "/**"), route("b.test", "/v1/**")];
        Policy::new(routes, Unmatched::Refuse).unwrap_or_else(|conflicts| panic!("{conflicts:?}"))
    }

    fn origin(scheme: Scheme, host: &str, port: u16) -> Origin {
        Origin { scheme, host: host.into(), port }
    }

    fn destination(base: Option<&str>) -> Destination {
        Destination {
            scheme: Scheme::Http,
            host: "a.test".to_owned(),
            port: 80,
            path: PathAndQuery::from_static("/v1/x"),
            base: base.map(Into::into),
        }
    }

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "Dropped.").expect("a counter")
    }

    #[test]
    fn redirect_to_what_a_route_serves_comes_back_as_the_agent_called_it() {
        let (policy, dropped) = (policy(), counter());
        let tls = origin(Scheme::Https, "a.test", 443);
        let elsewhere = origin(Scheme::Http, "10.0.0.1", 9000);
        for (upstream, location, by_proxy, by_base_url) in [
            (&tls, "/v1/x/", None, Some("/alias/v1/x/")),
            (&tls, "x/?a=b#c", None, None),
            (
                &tls,
                "https://a.test/v1/x/?u=https://b.test#f",
                Some("http://a.test/v1/x/?u=https://b.test#f"),
                Some("/alias/v1/x/?u=https://b.test#f"),
            ),
            (&tls, "HTTPS://A.test:443", Some("http://a.test/"), Some("/alias/")),
            (&tls, "//a.test/y", Some("http://a.test/y"), Some("/alias/y")),
            (&tls, "https://b.test/v1/y", Some("http://b.test/v1/y"), Some("/b.test/v1/y")),
            (&tls, "https://b.test/v2/y", None, None),
            (&tls, "https://b.test:8443/v1/y", None, None),
            (&tls, "https://login.test/?next=/", None, None),
            (&tls, "https://a.test@evil.test/", None, None),
            (&tls, "mailto:a@a.test", None, None),
            (&elsewhere, "http://10.0.0.1:9000/y", Some("http://a.test/y"), Some("/alias/y")),
            (&elsewhere, "http://10.0.0.1/y", None, None),
        ] {
            for (base, expected) in [(None, by_proxy), (Some("alias"), by_base_url)] {
                let destination = destination(base);
                let way_back =
                    WayBack { policy: &policy, destination: &destination, upstream, dropped_cookies: &dropped };
                assert_eq!(way_back.location(location).as_deref(), expected, "{location} {base:?}");
            }
        }
    }

    #[test]
    fn redirect_of_an_agent_that_calls_https_stays_https() {
        let (policy, dropped) = (policy(), counter());
        let destination = Destination { scheme: Scheme::Https, port: 443, ..destination(None) };
        let tls = origin(Scheme::Https, "a.test", 443);
        let elsewhere = origin(Scheme::Http, "10.0.0.1", 9000);
        for (upstream, location, expected) in [
            (&tls, "https://a.test/y", Some("https://a.test/y")),
            (&tls, "//a.test/y", Some("https://a.test/y")),
            (&tls, "https://b.test/v1/y?z", Some("https://b.test/v1/y?z")),
            (&tls, "http://b.test/v1/y", Some("https://b.test/v1/y")),
            (&tls, "https://b.test:8443/v1/y", None),
            (&tls, "/y", None),
            (&elsewhere, "http://10.0.0.1:9000/y", Some("https://a.test/y")),
        ] {
            let way_back = WayBack { policy: &policy, destination: &destination, upstream, dropped_cookies: &dropped };
            assert_eq!(way_back.location(location).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn cookie_of_a_base_url_goes_back_to_its_own_upstream_alone() {
        for (cookie, by_proxy, by_base_url) in [
            ("sid=1; Path=/; Secure; HttpOnly", Some("sid=1; Path=/; HttpOnly"), Some("sid=1; Path=/a.test; HttpOnly")),
            ("sid=1", Some("sid=1"), Some("sid=1; Path=/a.test/v1")),
            (
                "sid=1; DOMAIN=test; path=/v1;secure",
                Some("sid=1; DOMAIN=test; path=/v1"),
                Some("sid=1; Path=/a.test/v1"),
            ),
            ("sid=1; Path=relative", Some("sid=1; Path=relative"), Some("sid=1; Path=/a.test/v1")),
            ("__Host-sid=1; Path=/; Secure", Some("__Host-sid=1; Path=/"), Some("_idjag-Host-sid=1; Path=/a.test")),
            ("sid=1; Path=/v1/", Some("sid=1; Path=/v1/"), Some("sid=1; Path=/a.test/v1/")),
            ("__secure-sid=1; Secure", Some("__secure-sid=1"), Some("_idjag-Secure-sid=1; Path=/a.test/v1")),
            ("_idjag-Host-sid=1", Some("_idjag-Host-sid=1"), None),
        ] {
            assert_eq!(set_cookie(cookie, None).as_deref(), by_proxy, "{cookie}");
            let base = CookieBase::new("a.test", "/v1/x");
            assert_eq!(set_cookie(cookie, Some(&base)).as_deref(), by_base_url, "{cookie}");
        }
        let top = CookieBase::new("a.test", "/");
        assert_eq!(set_cookie("sid=1", Some(&top)).as_deref(), Some("sid=1; Path=/a.test"));
        let mut headers = HeaderMap::new();
        headers
            .append(header::COOKIE, HeaderValue::from_static("a=1; _idjag-Host-sid=2;_idjag-Secure-b=_idjag-Host-c"));
        restore_cookie_names(&mut headers);
        assert_eq!(headers[header::COOKIE], "a=1; __Host-sid=2;__Secure-b=_idjag-Host-c");
    }
}

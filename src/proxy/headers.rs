//! Which header fields pass, in both directions.
use crate::policy::{any_spelling, is_credential, is_forwarding, is_hop_by_hop};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// What happens to the credentials that the agent itself sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentCredentials {
    /// They are removed from the request.
    Strip,
    /// They are forwarded: the route says `keep_credentials`.
    Forward,
}

/// Removes from a request what must not be forwarded: hop-by-hop fields, the fields that
/// `Connection` nominates (RFC 9110 §7.6.1), fields that only a proxy may assert, and those in
/// `reserved`, which carry users' tokens and the proxy's own credentials. It runs before the proxy
/// adds anything, so that a nomination cannot remove a credential.
pub fn strip_request(headers: &mut HeaderMap, agent: AgentCredentials, reserved: &[HeaderName]) {
    remove_nominated(headers);
    let is_removed = |name: &HeaderName| {
        is_hop_by_hop(name)
            || is_forwarding(name)
            || is_reserved(name, reserved)
            || (agent == AgentCredentials::Strip && is_credential(name))
    };
    remove(headers, is_removed);
}

/// Removes from a response what concerns one hop alone (RFC 9110 §7.6.1).
pub(super) fn strip_response(headers: &mut HeaderMap) {
    remove_nominated(headers);
    remove(headers, is_hop_by_hop);
}

/// Removes from trailers the fields that frame, route or authenticate a message, which no trailer
/// may carry (RFC 9110 §6.5.1), and those in `reserved`.
pub(super) fn strip_trailers(mut trailers: HeaderMap, reserved: &[HeaderName]) -> HeaderMap {
    let is_removed = |name: &HeaderName| {
        is_hop_by_hop(name)
            || is_forwarding(name)
            || is_reserved(name, reserved)
            || is_credential(name)
            || any_spelling(name.as_str(), |name| {
                matches!(
                    name,
                    "host"
                        | "content-length"
                        | "content-encoding"
                        | "content-type"
                        | "content-range"
                        | "cookie"
                        | "set-cookie"
                        | "www-authenticate"
                        | "cache-control"
                        | "expect"
                        | "max-forwards"
                        | "range"
                        | "age"
                        | "expires"
                        | "date"
                        | "location"
                        | "retry-after"
                        | "vary"
                        | "via"
                )
            })
    };
    remove(&mut trailers, is_removed);
    trailers
}

/// Adds this proxy to `Via` (RFC 9110 §7.6.3): the version received, and a pseudonym that reveals
/// nothing.
pub(super) fn append_via(headers: &mut HeaderMap, own: &HeaderValue) {
    headers.append(header::VIA, own.clone());
}

/// Whether a request has passed through this very process before.
pub(super) fn has_passed(headers: &HeaderMap, pseudonym: &str) -> bool {
    let mut values = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|hop| hop.split_whitespace().nth(1) == Some(pseudonym)))
}

/// Decrements the `Max-Forwards` of an OPTIONS, and returns whether the request may be forwarded:
/// the recipient of a zero answers it (RFC 9110 §7.6.2). `None` if the field is not a single
/// number.
pub(super) fn decrement_max_forwards(headers: &mut HeaderMap) -> Option<bool> {
    let mut values = headers.get_all(header::MAX_FORWARDS).iter();
    let Some(value) = values.next() else { return Some(true) };
    let digits =
        value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))?;
    if values.next().is_some() {
        return None;
    }
    // A number that is too large counts as the largest one.
    let left = digits.parse().unwrap_or(u32::MAX).checked_sub(1);
    if let Some(left) = left {
        headers.insert(header::MAX_FORWARDS, HeaderValue::from(left));
    }
    Some(left.is_some())
}

/// The protocol that a request asks to upgrade to. Its `Connection` must list `upgrade` (RFC 9110
/// §7.8).
pub(super) fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers.get(header::UPGRADE)?;
    tokens(headers, header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")).then(|| asked.clone())
}

/// Whether a request accepts trailers.
pub(super) fn accepts_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, header::TE).any(|token| token.eq_ignore_ascii_case("trailers"))
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',').map(str::trim))
}

fn remove_nominated(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    let nominated: Vec<HeaderName> =
        tokens(headers, header::CONNECTION).filter_map(|token| token.parse().ok()).collect();
    for name in nominated {
        headers.remove(name);
    }
}

fn remove(headers: &mut HeaderMap, is_removed: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_removed(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether a field is in `reserved`, with hyphens and underscores taken as equal.
fn is_reserved(name: &HeaderName, reserved: &[HeaderName]) -> bool {
    let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let same = |one: &str, other: &str| one.bytes().map(dashed).eq(other.bytes().map(dashed));
    reserved.iter().any(|reserved| same(reserved.as_str(), name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().expect("name"), HeaderValue::from_str(value).expect("value"));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn credentials_and_forwarding_fields_of_the_agent_are_removed() {
        let mut headers = map(&[
            ("accept", "*/*"),
            ("authorization", "Bearer stolen"),
            ("Authorization", "Bearer again"),
            ("txn_token", "x"),
            ("workload_identity-token", "x"),
            ("x-forwarded-client-cert", "x"),
            ("x_forwarded_for", "x"),
            ("forwarded", "for=1"),
            ("signature-input", "x"),
            ("x-user-token", "eyJ"),
            ("x_user-token", "eyJ"),
            ("proxy_authorization", "Basic x"),
            ("transfer_encoding", "chunked"),
            ("te", "trailers"),
            ("proxy-authorization", "Basic x"),
        ]);
        strip_request(&mut headers, AgentCredentials::Strip, &[HeaderName::from_static("x-user-token")]);
        assert_eq!(names(&headers), ["accept"]);
    }

    #[test]
    fn fields_nominated_by_connection_are_removed() {
        let mut headers =
            map(&[("connection", "close, X-Secret"), ("Connection", "x-other"), ("x-secret", "1"), ("x-other", "2")]);
        strip_request(&mut headers, AgentCredentials::Strip, &[]);
        assert!(headers.is_empty());
    }

    #[test]
    fn forwarded_credentials_pass_without_hop_by_hop_and_forwarding_fields() {
        let mut headers =
            map(&[("authorization", "Bearer mine"), ("connection", "keep-alive"), ("x-forwarded-for", "1")]);
        strip_request(&mut headers, AgentCredentials::Forward, &[]);
        assert_eq!(names(&headers), ["authorization"]);
    }

    #[test]
    fn trailers_lose_credentials_and_framing() {
        let sent = map(&[
            ("grpc-status", "0"),
            ("authorization", "x"),
            ("content-length", "5"),
            ("content_length", "5"),
            ("x_api_key", "x"),
            ("x-sum", "1"),
        ]);
        let trailers = strip_trailers(sent, &[HeaderName::from_static("x-api-key")]);
        assert_eq!(names(&trailers), ["grpc-status", "x-sum"]);
    }

    #[test]
    fn own_pseudonym_is_found_in_any_hop() {
        let headers = map(&[("via", "1.1 other, 1.1 idjag-proxy-77"), ("via", "1.1 third")]);
        assert!(has_passed(&headers, "idjag-proxy-77"));
        assert!(!has_passed(&headers, "idjag-proxy-7"));
    }

    #[test]
    fn max_forwards_is_decremented() {
        for (sent, goes_on, left) in [
            (&["0"][..], Some(false), "0"),
            (&["1"], Some(true), "0"),
            (&["010"], Some(true), "9"),
            (&["99999999999999999999"], Some(true), "4294967294"),
            (&[], Some(true), ""),
            (&["1", "1"], None, "1"),
            (&["-1"], None, "-1"),
            (&[""], None, ""),
        ] {
            let mut headers = map(&sent.iter().map(|value| ("max-forwards", *value)).collect::<Vec<_>>());
            assert_eq!(decrement_max_forwards(&mut headers), goes_on, "{sent:?}");
            assert_eq!(headers.get("max-forwards").map_or("", |value| value.to_str().expect("text")), left, "{sent:?}");
        }
    }

    #[test]
    fn upgrade_needs_both_fields() {
        assert!(requested_upgrade(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")])).is_some());
        assert!(requested_upgrade(&map(&[("upgrade", "websocket")])).is_none());
    }
}

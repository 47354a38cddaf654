//! Which header fields pass, in both directions.
pub use crate::policy::{AgentCredentials, StripRules};
use crate::policy::{FieldMeaning, is_same_field, nominated};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Removes from a request what must not be forwarded: the fields that `Connection` nominates (RFC
/// 9110 §7.6.1), and those that `rules` remove. It runs before the proxy adds anything, so that a
/// nomination cannot remove a credential.
pub fn strip_request(headers: &mut HeaderMap, rules: StripRules<'_>) {
    remove_nominated(headers);
    remove(headers, |name| rules.removes(name));
}

/// Removes from a response what concerns one hop alone (RFC 9110 §7.6.1).
pub(super) fn strip_response(headers: &mut HeaderMap) {
    remove_nominated(headers);
    remove(headers, |name| FieldMeaning::of(name).is_hop_by_hop());
}

/// A response has a transfer coding other than `chunked`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnknownCoding;

/// Makes the framing of a response unambiguous before it is forwarded: a `Content-Length` beside a
/// `Transfer-Encoding` is removed, which RFC 9112 §6.3 demands of a proxy, and a repeated one is
/// sent once.
///
/// # Errors
/// The response has a coding that the agent could not undo, because `Transfer-Encoding` itself is
/// not forwarded. We ask for none (RFC 9112 §7.4).
pub(super) fn clean_framing(headers: &mut HeaderMap) -> Result<(), UnknownCoding> {
    if !headers.contains_key(header::TRANSFER_ENCODING) {
        join_lengths(headers);
        return Ok(());
    }
    headers.remove(header::CONTENT_LENGTH);
    let mut codings = tokens(headers, header::TRANSFER_ENCODING).filter(|coding| !coding.is_empty());
    match (codings.next(), codings.next()) {
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(()),
        _ => Err(UnknownCoding),
    }
}

/// Sends a repeated `Content-Length` once. The library that read the message has checked that all
/// of its values are equal (RFC 9110 §8.6).
pub(super) fn join_lengths(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return };
    let has_list = first.as_bytes().contains(&b',');
    if !has_list && lengths.next().is_none() {
        return;
    }
    let length = first.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default();
    if let Ok(length) = HeaderValue::from_bytes(length.trim_ascii()) {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

/// Removes from trailers the fields that frame, route or authenticate a message, which no trailer
/// may carry (RFC 9110 §6.5.1), and those in `reserved`.
pub(super) fn strip_trailers(mut trailers: HeaderMap, reserved: &[HeaderName]) -> HeaderMap {
    remove(&mut trailers, |name| !FieldMeaning::of(name).may_be_trailer() || is_reserved(name, reserved));
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

/// The protocols that a request asks to upgrade to and that can be relayed, as a value of
/// `Upgrade`. Its `Connection` must list `upgrade` (RFC 9110 §7.8).
pub(super) fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    if !tokens(headers, header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    let asked = headers.get_all(header::UPGRADE).into_iter();
    let protocols: Vec<&[u8]> = asked.flat_map(|value| relayed_protocols(value.as_bytes())).collect();
    HeaderValue::from_bytes(&protocols.join(&b", "[..])).ok().filter(|protocols| !protocols.is_empty())
}

/// The protocols that a value of `Upgrade` lists, without those that would carry further requests
/// past the proxy.
pub(super) fn relayed_protocols(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    const CARRY_REQUESTS: [&[u8]; 4] = [b"h2c", b"h2", b"http", b"tls"];
    let is_relayed = |protocol: &&[u8]| {
        let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default().trim_ascii();
        !name.is_empty() && !CARRY_REQUESTS.iter().any(|carries| name.eq_ignore_ascii_case(carries))
    };
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(is_relayed)
}

/// The protocols that a 101 switches to, if all of them were `asked` for.
pub(super) fn accepted_upgrade(headers: &HeaderMap, asked: &HeaderValue) -> Option<HeaderValue> {
    let protocols = headers.get(header::UPGRADE)?;
    let is_asked = |protocol: &[u8]| {
        relayed_protocols(asked.as_bytes()).any(|asked| asked.eq_ignore_ascii_case(protocol.trim_ascii()))
    };
    let is_only_one = headers.get_all(header::UPGRADE).iter().count() == 1;
    (is_only_one && protocols.as_bytes().split(|byte| *byte == b',').all(is_asked)).then(|| protocols.clone())
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
    let nominated: Vec<HeaderName> = nominated(headers).filter_map(|token| token.parse().ok()).collect();
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

/// Whether a field is in `reserved`, in any spelling.
fn is_reserved(name: &HeaderName, reserved: &[HeaderName]) -> bool {
    reserved.iter().any(|reserved| is_same_field(reserved, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRIP: StripRules<'_> =
        StripRules { agent_credentials: AgentCredentials::Strip, strips_overrides: false, reserved: &[] };

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
            ("content_length", "5"),
            ("content_type", "text/html"),
            ("te", "trailers"),
            ("proxy-authorization", "Basic x"),
        ]);
        strip_request(&mut headers, StripRules { reserved: &[HeaderName::from_static("x-user-token")], ..STRIP });
        assert_eq!(names(&headers), ["accept"]);
    }

    #[test]
    fn fields_nominated_by_connection_are_removed() {
        let mut headers =
            map(&[("connection", "close, X-Secret"), ("Connection", "x-other"), ("x-secret", "1"), ("x-other", "2")]);
        strip_request(&mut headers, STRIP);
        assert!(headers.is_empty());
    }

    #[test]
    fn forwarded_credentials_pass_without_hop_by_hop_and_forwarding_fields() {
        let mut headers =
            map(&[("authorization", "Bearer mine"), ("connection", "keep-alive"), ("x-forwarded-for", "1")]);
        strip_request(&mut headers, StripRules { agent_credentials: AgentCredentials::Forward, ..STRIP });
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
    fn framing_of_a_response_is_unambiguous() {
        for (sent, clean) in [
            (&[("transfer-encoding", "chunked"), ("content-length", "7")][..], Ok("")),
            (&[("transfer-encoding", "Chunked")], Ok("")),
            (&[("transfer-encoding", "gzip, chunked")], Err(UnknownCoding)),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], Err(UnknownCoding)),
            (&[("transfer-encoding", "identity"), ("content-length", "7")], Err(UnknownCoding)),
            (&[("content-length", "7"), ("content-length", "7")], Ok("7")),
            (&[("content-length", "7, 7")], Ok("7")),
            (&[("content-length", "7")], Ok("7")),
            (&[], Ok("")),
        ] {
            let mut headers = map(sent);
            assert_eq!(clean_framing(&mut headers).is_ok(), clean.is_ok(), "{sent:?}");
            let Ok(length) = clean else { continue };
            let lengths: Vec<_> = headers.get_all("content-length").iter().collect();
            assert_eq!(lengths, Vec::from_iter((!length.is_empty()).then_some(length)), "{sent:?}");
        }
    }

    #[test]
    fn protocols_that_carry_requests_are_not_relayed() {
        let asked = |value: &str| requested_upgrade(&map(&[("connection", "upgrade"), ("upgrade", value)]));
        for (value, relayed) in [
            ("websocket", Some("websocket")),
            ("websocket, h2c", Some("websocket")),
            ("H2C,WebSocket/13 , tcp", Some("WebSocket/13, tcp")),
            ("h2c", None),
            ("HTTP/2.0, TLS/1.0", None),
            (" , ", None),
        ] {
            assert_eq!(asked(value).as_ref().map(|value| value.to_str().expect("text")), relayed, "{value}");
        }
        let asked = HeaderValue::from_static("websocket, tcp");
        for (answer, is_accepted) in
            [("WebSocket", true), ("tcp, websocket", true), ("h2c", false), ("websocket, h2c", false), ("", false)]
        {
            assert_eq!(accepted_upgrade(&map(&[("upgrade", answer)]), &asked).is_some(), is_accepted, "{answer}");
        }
        assert!(accepted_upgrade(&map(&[("upgrade", "tcp"), ("upgrade", "tcp")]), &asked).is_none());
        assert!(accepted_upgrade(&map(&[]), &asked).is_none());
    }

    #[test]
    fn upgrade_needs_the_connection_and_the_upgrade_field() {
        assert!(requested_upgrade(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")])).is_some());
        assert!(requested_upgrade(&map(&[("upgrade", "websocket")])).is_none());
    }
}

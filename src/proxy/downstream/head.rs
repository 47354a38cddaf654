//! Validates the head of a request before hyper parses it. RFC 9112 allows recipients to be lenient
//! where two of them may differ; a proxy that adds credentials must not be lenient.
use crate::proxy::error::{Reason, Refusal};
use crate::proxy::headers::relayed_protocols;
use httparse::{EMPTY_HEADER, Error, Header, Request, Status};
use memchr::memchr_iter;

/// The most fields of one head. hyper has the same limit.
const MAX_FIELDS: usize = 100;

/// How the body that follows a head is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// The properties of a valid head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its bytes, including the empty line that ends it.
    pub(super) length: usize,
    pub(super) framing: Framing,
    /// Whether it is a CONNECT or asks for an upgrade, so that what follows may not be HTTP.
    pub(super) switches: bool,
    /// Whether it is an OPTIONS for the server itself and not for a path of it.
    pub(super) is_server_wide: bool,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadViolation {
    Malformed(&'static str),
    TooLarge(&'static str),
}

impl From<HeadViolation> for Refusal {
    fn from(violation: HeadViolation) -> Self {
        match violation {
            HeadViolation::Malformed(detail) => Self::new(Reason::MalformedRequest, detail),
            HeadViolation::TooLarge(detail) => Self::new(Reason::HeadTooLarge, detail),
        }
    }
}

/// Looks for the end of one head. It remembers how far it has looked, so that a head that arrives a
/// byte at a time is read once.
#[derive(Debug, Default)]
pub(super) struct HeadScanner {
    /// The bytes that have been looked at.
    seen: usize,
    /// Where the current line begins.
    line: usize,
    /// Whether a line that is not empty has been seen.
    begun: bool,
}

impl HeadScanner {
    /// Validates the head at the start of `bytes`; `None` if its end has not arrived. Each call
    /// must pass at least the bytes of the previous one.
    pub(super) fn scan(&mut self, bytes: &[u8], limit: usize) -> Result<Option<Head>, HeadViolation> {
        for feed in memchr_iter(b'\n', &bytes[self.seen..]).map(|at| at + self.seen) {
            // RFC 9112 §2.2 allows recipients to accept this.
            if feed == self.line || bytes[feed - 1] != b'\r' {
                return Err(HeadViolation::Malformed("A line ends with a bare line feed."));
            }
            let empty = feed == self.line + 1;
            self.line = feed + 1;
            if feed >= limit {
                return Err(HeadViolation::TooLarge(HEAD_TOO_LARGE));
            }
            if empty && self.begun {
                return parse(&bytes[..=feed]).map(Some);
            }
            self.begun |= !empty;
        }
        self.seen = bytes.len();
        if self.seen > limit { Err(HeadViolation::TooLarge(HEAD_TOO_LARGE)) } else { Ok(None) }
    }
}

/// Checks the size of a head over HTTP/2, as `SETTINGS_MAX_HEADER_LIST_SIZE` counts it (RFC 9113
/// §6.5.2): the names, the values, and 32 bytes for each field.
pub(crate) fn check_list_size<B>(head: &http::Request<B>, limit: usize) -> Result<(), HeadViolation> {
    let uri = head.uri();
    let pseudo = [
        (":method", head.method().as_str()),
        (":scheme", uri.scheme_str().unwrap_or_default()),
        (":authority", uri.authority().map_or("", |authority| authority.as_str())),
        (":path", uri.path_and_query().map_or("", |path| path.as_str())),
    ];
    let pseudo = pseudo.iter().map(|(name, value)| name.len() + value.len());
    let fields = head.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    let size: usize = pseudo.chain(fields).map(|field| field + 32).sum();
    if size > limit { Err(HeadViolation::TooLarge(HEAD_TOO_LARGE)) } else { Ok(()) }
}

const HEAD_TOO_LARGE: &str = "The request's head is larger than `limits.request_headers`.";

fn parse(bytes: &[u8]) -> Result<Head, HeadViolation> {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let mut request = Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(HeadViolation::Malformed("The head does not end where its empty line is.")),
        Err(error) => return Err(violation(error)),
    }
    if request.path.is_none_or(|target| target.parse::<http::Uri>().is_err()) {
        return Err(HeadViolation::Malformed(
            "The request's target is not a URI, or has a character that must be percent-encoded.",
        ));
    }
    if request.path.is_some_and(|target| target.as_bytes().contains(&b'#')) {
        return Err(HeadViolation::Malformed("The request's target has a fragment, which is never sent."));
    }
    let framing = framing(&request)?;
    // What follows a CONNECT belongs to the tunnel (RFC 9110 §9.3.6). Some clients send a length of
    // 0.
    if request.method == Some("CONNECT") && framing != Framing::Length(0) {
        return Err(HeadViolation::Malformed("A CONNECT has no body."));
    }
    Ok(Head { length: bytes.len(), framing, switches: switches(&request), is_server_wide: is_server_wide(&request) })
}

fn violation(error: Error) -> HeadViolation {
    match error {
        Error::TooManyHeaders => HeadViolation::TooLarge("The request has more than 100 header fields."),
        Error::HeaderName => {
            HeadViolation::Malformed("A field's name is not a token, or has a space before its colon.")
        }
        Error::HeaderValue => {
            HeadViolation::Malformed("A field's value has a control character, or continues on another line.")
        }
        Error::Version => HeadViolation::Malformed("The version is neither 1.1 nor 1.0."),
        Error::NewLine => HeadViolation::Malformed("A carriage return is not followed by a line feed."),
        Error::Token | Error::Status => {
            HeadViolation::Malformed("The request line is not a method, a target and a version.")
        }
    }
}

/// The framing of the body: one length, one `chunked`, or neither. RFC 9112 §6.1 and §6.3 allow
/// recipients to accept more.
fn framing(request: &Request<'_, '_>) -> Result<Framing, HeadViolation> {
    let mut lengths = values(request, "content-length");
    let mut codings = values(request, "transfer-encoding");
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(Framing::Length(0)),
        (Some(length), None) if lengths.next().is_none() => parse_length(length)
            .map(Framing::Length)
            .ok_or(HeadViolation::Malformed("`Content-Length` is not a single number.")),
        (Some(_), None) => Err(HeadViolation::Malformed("There are two `Content-Length` fields.")),
        (Some(_), Some(_)) => {
            Err(HeadViolation::Malformed("There is a `Content-Length` as well as a `Transfer-Encoding`."))
        }
        (None, Some(_)) if request.version == Some(0) => {
            Err(HeadViolation::Malformed("HTTP/1.0 does not have `Transfer-Encoding`."))
        }
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none() => {
            Ok(Framing::Chunked)
        }
        (None, Some(_)) => Err(HeadViolation::Malformed("The only supported transfer coding is `chunked`.")),
    }
}

fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// Whether the connection may switch to another protocol. A protocol that is not relayed is not
/// answered with 101.
fn switches(request: &Request<'_, '_>) -> bool {
    let is_relayed = |value: &[u8]| relayed_protocols(value).next().is_some();
    request.method == Some("CONNECT") || values(request, "upgrade").any(is_relayed)
}

/// Whether a request is an OPTIONS whose absolute form has neither a path nor a query: it is
/// forwarded as `OPTIONS *` (RFC 9112 §3.2.4). Once parsed, the URI does not differ from one that
/// ends with `/`.
fn is_server_wide(request: &Request<'_, '_>) -> bool {
    let Some(target) = request.path.filter(|_| request.method == Some("OPTIONS")) else { return false };
    let absolute = target.split_once("://");
    absolute.is_some_and(|(scheme, rest)| !scheme.starts_with('/') && !rest.contains(['/', '?']))
}

fn values<'r>(request: &'r Request<'_, '_>, name: &'static str) -> impl Iterator<Item = &'r [u8]> {
    let named = move |field: &&Header<'_>| field.name.eq_ignore_ascii_case(name);
    request.headers.iter().filter(named).map(|field| field.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scanned(head: &str) -> Result<Option<Head>, HeadViolation> {
        HeadScanner::default().scan(head.as_bytes(), 1024)
    }

    fn framed(fields: &str) -> Option<Framing> {
        scanned(&format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n")).ok().flatten().map(|head| head.framing)
    }

    #[test]
    fn contradictory_framing_is_refused() {
        assert_eq!(framed(""), Some(Framing::Length(0)));
        assert_eq!(framed("content-length: 7\r\n"), Some(Framing::Length(7)));
        assert_eq!(framed("Transfer-Encoding: Chunked\r\n"), Some(Framing::Chunked));
        for wrong in [
            "content-length: 7\r\ncontent-length: 7\r\n",
            "content-length: 7, 7\r\n",
            "content-length: +7\r\n",
            "content-length:\r\n",
            "content-length: 18446744073709551616\r\n",
            "content-length: 7\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 7\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        ] {
            assert_eq!(framed(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn bare_line_feeds_are_refused() {
        for wrong in ["GET / HTTP/1.1\nhost: a\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\n\n", "\nGET / HTTP/1.1\r\n\r\n"] {
            assert!(matches!(scanned(wrong), Err(HeadViolation::Malformed(_))), "{wrong:?}");
        }
        let after_empty_lines = scanned("\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("fine").expect("whole");
        assert_eq!(after_empty_lines.length, 31);
    }

    #[test]
    fn connect_and_upgrades_may_switch_protocols() {
        let switches = |head: &str| scanned(head).expect("fine").expect("whole").switches;
        assert!(switches("CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert!(switches("GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n\r\n"));
        assert!(switches("GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c, websocket\r\n\r\n"));
        assert!(!switches("GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\n\r\n"));
    }

    #[test]
    fn options_without_a_path_is_for_the_server() {
        let is_server_wide = |line: &str| {
            let head = format!("{line} HTTP/1.1\r\nhost: a\r\n\r\n");
            scanned(&head).expect("fine").expect("whole").is_server_wide
        };
        assert!(is_server_wide("OPTIONS http://a") && is_server_wide("OPTIONS http://a:8080"));
        for other in ["OPTIONS http://a/", "OPTIONS http://a?x", "OPTIONS /x?u=http://a", "OPTIONS *", "GET http://a"] {
            assert!(!is_server_wide(other), "{other}");
        }
    }

    #[test]
    fn oversized_heads_are_refused() {
        let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(1024));
        assert!(matches!(scanned(&long), Err(HeadViolation::TooLarge(_))));
        assert!(matches!(scanned(&long[..1025]), Err(HeadViolation::TooLarge(_))), "before its end has arrived");
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x:1\r\n".repeat(101));
        assert!(matches!(scanned(&many), Err(HeadViolation::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn pieces_are_scanned_like_the_whole(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), any::<u8>()],
                0..200,
            ),
            cut in 0_usize..200,
        ) {
            let whole = HeadScanner::default().scan(&bytes, 128);
            let mut scanner = HeadScanner::default();
            let first = scanner.scan(&bytes[..cut.min(bytes.len())], 128);
            let pieces = if matches!(first, Ok(None)) { scanner.scan(&bytes, 128) } else { first };
            prop_assert_eq!(whole, pieces);
        }
    }
}

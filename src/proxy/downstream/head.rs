//! The head of a request, judged before hyper parses it. RFC 9112 lets a recipient be lenient where two recipients may differ; a
//! proxy that adds credentials must not be.
use crate::proxy::error::{Reason, Refusal};
use httparse::{EMPTY_HEADER, Error, Header, Request, Status};
use memchr::memchr_iter;

/// Fields of one head; hyper takes as many.
const FIELDS: usize = 100;

/// How the body that follows a head is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// A whole head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes, with the empty line that ends it.
    pub(super) length: usize,
    pub(super) framing: Framing,
    /// CONNECT, or an upgrade: what follows may be no HTTP.
    pub(super) switches: bool,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Malformed(&'static str),
    TooLarge(&'static str),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed(detail) => Self::new(Reason::MalformedRequest, detail),
            Fault::TooLarge(detail) => Self::new(Reason::HeadTooLarge, detail),
        }
    }
}

/// Looks for the end of one head, and remembers how far it has looked: a head that comes a byte at a time is read once.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Bytes that hold no end.
    seen: usize,
    /// Where the current line begins.
    line: usize,
    /// Whether a line that is not empty has come.
    begun: bool,
}

impl Scan {
    /// Judges what has come of a head so far; `None` where its end has not. `bytes` begins with the head, and at each call holds
    /// what it held before.
    pub(super) fn judge(&mut self, bytes: &[u8], limit: usize) -> Result<Option<Head>, Fault> {
        for feed in memchr_iter(b'\n', &bytes[self.seen..]).map(|at| at + self.seen) {
            // FR-5; RFC 9112 §2.2 would allow it.
            if feed == self.line || bytes[feed - 1] != b'\r' {
                return Err(Fault::Malformed("A line ends with a bare line feed."));
            }
            let empty = feed == self.line + 1;
            self.line = feed + 1;
            if feed >= limit {
                return Err(Fault::TooLarge(LARGE));
            }
            if empty && self.begun {
                return parse(&bytes[..=feed]).map(Some);
            }
            self.begun |= !empty;
        }
        self.seen = bytes.len();
        if self.seen > limit { Err(Fault::TooLarge(LARGE)) } else { Ok(None) }
    }
}

/// Judges the size of a head over HTTP/2 (RFC 9113 §6.5.2): names and values, and 32 bytes for each field.
pub(crate) fn judge_list<B>(head: &http::Request<B>, limit: usize) -> Result<(), Fault> {
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
    if size > limit { Err(Fault::TooLarge(LARGE)) } else { Ok(()) }
}

const LARGE: &str = "The request's head is larger than `limits.request_headers`.";

fn parse(bytes: &[u8]) -> Result<Head, Fault> {
    let mut fields = [EMPTY_HEADER; FIELDS];
    let mut request = Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(Fault::Malformed("The head does not end where its empty line is.")),
        Err(error) => return Err(fault(error)),
    }
    if request.path.is_none_or(|target| target.parse::<http::Uri>().is_err()) {
        return Err(Fault::Malformed("The request's target is not a URI."));
    }
    Ok(Head { length: bytes.len(), framing: framing(&request)?, switches: switches(&request) })
}

fn fault(error: Error) -> Fault {
    match error {
        Error::TooManyHeaders => Fault::TooLarge("The request has more than 100 header fields."),
        Error::HeaderName => Fault::Malformed("A field's name is not a token, or space stands before its colon."),
        Error::HeaderValue => Fault::Malformed("A field's value has a control character, or goes on in another line."),
        Error::Version => Fault::Malformed("The version is neither 1.1 nor 1.0."),
        Error::NewLine => Fault::Malformed("A carriage return stands alone."),
        Error::Token | Error::Status => Fault::Malformed("The request line is not a method, a target and a version."),
    }
}

/// FR-1 to FR-3: one length or one `chunked`, or nothing; RFC 9112 §6.1 and §6.3 would let some more pass.
fn framing(request: &Request<'_, '_>) -> Result<Framing, Fault> {
    let mut lengths = values(request, "content-length");
    let mut codings = values(request, "transfer-encoding");
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(Framing::Length(0)),
        (Some(length), None) if lengths.next().is_none() => {
            parse_length(length).map(Framing::Length).ok_or(Fault::Malformed("`Content-Length` is not one number."))
        }
        (Some(_), None) => Err(Fault::Malformed("There are two `Content-Length` fields.")),
        (Some(_), Some(_)) => Err(Fault::Malformed("`Content-Length` stands beside `Transfer-Encoding`.")),
        (None, Some(_)) if request.version == Some(0) => {
            Err(Fault::Malformed("HTTP/1.0 knows no `Transfer-Encoding`."))
        }
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none() => {
            Ok(Framing::Chunked)
        }
        (None, Some(_)) => Err(Fault::Malformed("The only transfer coding that is taken is `chunked`.")),
    }
}

fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// `h2c` is no switch: it is never answered with 101.
fn switches(request: &Request<'_, '_>) -> bool {
    let h2c = |value: &[u8]| value.get(..3).is_some_and(|name| name.eq_ignore_ascii_case(b"h2c"));
    request.method == Some("CONNECT") || values(request, "upgrade").any(|value| !h2c(value))
}

fn values<'r>(request: &'r Request<'_, '_>, name: &'static str) -> impl Iterator<Item = &'r [u8]> {
    let named = move |field: &&Header<'_>| field.name.eq_ignore_ascii_case(name);
    request.headers.iter().filter(named).map(|field| field.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judged(head: &str) -> Result<Option<Head>, Fault> {
        Scan::default().judge(head.as_bytes(), 1024)
    }

    fn framed(fields: &str) -> Option<Framing> {
        judged(&format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n")).ok().flatten().map(|head| head.framing)
    }

    #[test]
    fn one_framing_or_none() {
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
    fn a_line_ends_with_both_bytes() {
        for wrong in ["GET / HTTP/1.1\nhost: a\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\n\n", "\nGET / HTTP/1.1\r\n\r\n"] {
            assert!(matches!(judged(wrong), Err(Fault::Malformed(_))), "{wrong:?}");
        }
        let after_empty_lines = judged("\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("fine").expect("whole");
        assert_eq!(after_empty_lines.length, 31);
    }

    #[test]
    fn what_may_end_http_is_told() {
        let switches = |head: &str| judged(head).expect("fine").expect("whole").switches;
        assert!(switches("CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert!(switches("GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n\r\n"));
        assert!(!switches("GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\n\r\n"));
    }

    #[test]
    fn a_head_has_a_size() {
        let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(1024));
        assert!(matches!(judged(&long), Err(Fault::TooLarge(_))));
        assert!(matches!(judged(&long[..1025]), Err(Fault::TooLarge(_))), "before its end has come");
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x:1\r\n".repeat(101));
        assert!(matches!(judged(&many), Err(Fault::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn pieces_are_judged_like_the_whole(bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), any::<u8>()], 0..200), cut in 0_usize..200) {
            let whole = Scan::default().judge(&bytes, 128);
            let mut scan = Scan::default();
            let first = scan.judge(&bytes[..cut.min(bytes.len())], 128);
            let pieces = if matches!(first, Ok(None)) { scan.judge(&bytes, 128) } else { first };
            prop_assert_eq!(whole, pieces);
        }
    }
}

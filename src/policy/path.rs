//! Path patterns, and ambiguous paths, which a route with a credential refuses because the upstream
//! may interpret them differently.
use super::error::PatternError;
use std::borrow::Cow;

/// An exact path, a path with `*` for a segment, or everything at and below a path (`/x/**`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    segments: Vec<Segment>,
    /// Whether the pattern ends with `/**`, which matches any number of further segments, including
    /// none.
    open: bool,
}

/// A longer literal prefix is more specific; of equal ones, an exact path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PathRank {
    literal_length: usize,
    is_exact: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    Any,
}

impl PathPattern {
    /// The pattern that matches every path.
    pub fn any() -> Self {
        Self { segments: Vec::new(), open: true }
    }

    /// Parses `/v1/events`, `/v1/*/events` or `/v1/**`.
    ///
    /// # Errors
    /// [`PatternError`] says what to write instead.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(PatternError("a path starts with `/`".into()));
        };
        if text.contains(['?', '#']) {
            return Err(PatternError("a path must not have a query or a fragment: routes match the path alone".into()));
        }
        if ambiguity(text).is_some() {
            return Err(PatternError(
                "a path with dot segments, `//`, a backslash or an encoded slash never matches".into(),
            ));
        }
        let (rest, open) = match rest.strip_suffix("**") {
            Some("") => return Ok(Self::any()),
            Some(before) if before.ends_with('/') => (before.strip_suffix('/').unwrap_or(before), true),
            Some(_) => return Err(PatternError("`**` must be the whole last segment: `/x/**`".into())),
            None => (rest, false),
        };
        let segments = normalized(rest)
            .split('/')
            .map(|segment| match segment {
                "*" => Ok(Segment::Any),
                literal if literal.contains('*') => Err(PatternError(
                    "`*` stands for one whole segment, as in `/x/*/y`, and `**` is only allowed at the end, as in `/x/**`".into(),
                )),
                literal => Ok(Segment::Literal(literal.into())),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { segments, open })
    }

    /// Whether a path matches. It must have been normalized by `normalized`.
    pub fn matches(&self, path: &str) -> bool {
        if self.segments.is_empty() {
            return self.open;
        }
        let mut actual = path.strip_prefix('/').unwrap_or(path).split('/');
        for expected in &self.segments {
            match (expected, actual.next()) {
                (Segment::Literal(literal), Some(segment)) if **literal == *segment => {}
                (Segment::Any, Some(segment)) if !segment.is_empty() => {}
                _ => return false,
            }
        }
        self.open || actual.next().is_none()
    }

    pub(super) fn rank(&self) -> PathRank {
        let literal = self.segments.iter().map_while(|segment| match segment {
            Segment::Literal(text) => Some(text.len() + 1),
            Segment::Any => None,
        });
        let exact = !self.open && self.segments.iter().all(|segment| *segment != Segment::Any);
        PathRank { literal_length: literal.sum(), is_exact: exact }
    }

    /// Whether some path matches both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let both = self.segments.iter().zip(&other.segments);
        let agree = both.into_iter().all(|pair| match pair {
            (Segment::Literal(a), Segment::Literal(b)) => a == b,
            _ => true,
        });
        let (mine, theirs) = (self.segments.len(), other.segments.len());
        agree && (mine == theirs || (mine < theirs && self.open) || (theirs < mine && other.open))
    }
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        if self.open { f.write_str("/**") } else { Ok(()) }
    }
}

/// Why an upstream may interpret a path differently from this proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathAmbiguity {
    /// An encoded slash or backslash: `%2F` or `%5C`.
    EncodedSeparator,
    /// A segment `.` or `..`, possibly encoded or followed by a path parameter.
    DotSegment,
    /// An empty segment: `//`.
    EmptySegment,
    /// A backslash.
    Backslash,
    /// A control character, possibly encoded: `%00` to `%1F`, `%7F`.
    Control,
}

impl PathAmbiguity {
    /// Names the ambiguity in a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Self::EncodedSeparator => "an encoded slash or backslash",
            Self::DotSegment => "a dot segment",
            Self::EmptySegment => "an empty segment (`//`)",
            Self::Backslash => "a backslash",
            Self::Control => "a control character",
        }
    }
}

/// Finds the first ambiguity in a path as it was sent.
pub(super) fn ambiguity(path: &str) -> Option<PathAmbiguity> {
    let bytes = path.as_bytes();
    let mut segment = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'/' => {
                if at > 0 && bytes[at - 1] == b'/' {
                    return Some(PathAmbiguity::EmptySegment);
                }
                if is_dots(&path[segment..at]) {
                    return Some(PathAmbiguity::DotSegment);
                }
                segment = at + 1;
            }
            b'\\' => return Some(PathAmbiguity::Backslash),
            0..=0x1f | 0x7f => return Some(PathAmbiguity::Control),
            b'%' => match escape(&bytes[at..]) {
                Some(b'/' | b'\\') => return Some(PathAmbiguity::EncodedSeparator),
                Some(0..=0x1f | 0x7f) => return Some(PathAmbiguity::Control),
                _ => {}
            },
            _ => {}
        }
    }
    is_dots(&path[segment..]).then_some(PathAmbiguity::DotSegment)
}

/// Decodes escaped unreserved characters (RFC 3986 §2.3) for matching, so that `%61dmin` matches
/// `admin`, as it does at the upstream. The path that is forwarded is not changed.
pub(super) fn normalized(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        match escape(&rest.as_bytes()[at..]) {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            _ => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The byte that `%XX` at the start of `bytes` encodes.
fn escape(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match bytes {
        [b'%', high, low, ..] => Some(digit(*high)? * 16 + digit(*low)?),
        _ => None,
    }
}

/// Whether some implementation may read a segment as `.` or `..`: encoded, or followed by a path
/// parameter (`..;x`).
fn is_dots(segment: &str) -> bool {
    let name = segment.split_once(';').map_or(segment, |(name, _)| name);
    if name.len() > 6 || name.is_empty() {
        return false;
    }
    matches!(&*normalized(name), "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        PathPattern::parse(text).expect(text)
    }

    #[test]
    fn pattern_matches_whole_segments() {
        assert!(pattern("/v1/events").matches("/v1/events"));
        assert!(!pattern("/v1/events").matches("/v1/events/"));
        assert!(!pattern("/v1/events").matches("/v1/eventsX"));
        assert!(pattern("/v1/**").matches("/v1/a/b"));
        assert!(pattern("/v1/**").matches("/v1"));
        assert!(!pattern("/v1/**").matches("/v10"));
        assert!(pattern("/a/*/c").matches("/a/b/c"));
        assert!(!pattern("/a/*/c").matches("/a//c"));
        assert!(!pattern("/a/*/c").matches("/a/b/b/c"));
        assert!(PathPattern::any().matches("/"));
        assert!(pattern("/").matches("/"));
        assert!(!pattern("/").matches("/x"));
    }

    #[test]
    fn invalid_pattern_is_refused() {
        for text in ["v1", "/v1/a*", "/v1/**/x", "/a?x=1", "/a/../b", "/a//b", "/x**"] {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ambiguous_path_is_found() {
        use PathAmbiguity::*;
        for (path, expected) in [
            ("/a%2Fb", Some(EncodedSeparator)),
            ("/a%5cb", Some(EncodedSeparator)),
            ("/a/../b", Some(DotSegment)),
            ("/a/%2e%2E/b", Some(DotSegment)),
            ("/a/..;x=1/b", Some(DotSegment)),
            ("/a/.", Some(DotSegment)),
            ("//a", Some(EmptySegment)),
            ("/a\\b", Some(Backslash)),
            ("/a%00", Some(Control)),
            ("/a%7f", Some(Control)),
            ("/a/...", None),
            ("/a/b/", None),
            ("/%zz", None),
            ("/%", None),
        ] {
            assert_eq!(ambiguity(path), expected, "{path}");
        }
    }

    #[test]
    fn escaped_unreserved_characters_are_decoded_for_matching() {
        assert_eq!(normalized("/%61dmin/%7Eme/%20x%"), "/admin/~me/%20x%");
        assert!(matches!(normalized("/plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn overlapping_patterns_are_found() {
        assert!(pattern("/a/*/x").overlaps(&pattern("/a/**")));
        assert!(!pattern("/a/*/x").overlaps(&pattern("/a/*/y")));
        assert!(!pattern("/a").overlaps(&pattern("/a/b")));
    }
}

//! Finds the end of a chunked body (RFC 9112 §7.1) without decoding it, because the next request's
//! head follows.

/// The most digits of a chunk's size, for 64 bits. A recipient must anticipate large sizes and
/// prevent overflow (RFC 9112 §7.1).
const MAX_SIZE_DIGITS: u8 = 16;
/// The most bytes of one chunk's extensions. A recipient ought to limit their length (RFC 9112
/// §7.1.1).
const MAX_EXTENSION: u16 = 4 * 1024;
/// The most bytes of the trailer section.
const MAX_TRAILERS: u16 = 16 * 1024;

/// The state of a parser that has read a part of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChunkedBody {
    Size { size: u64, digits: u8 },
    Extension { size: u64, length: u16 },
    SizeEnd { size: u64 },
    Data { remaining: u64 },
    DataReturn,
    DataFeed,
    Trailers(Trailers),
    End,
}

/// How much of the trailer section has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trailers {
    /// The bytes of the section that have been read.
    length: u16,
    /// The bytes of the current line that have been read.
    line: u16,
    /// Whether the last byte was a carriage return.
    returned: bool,
}

/// The bytes are not a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl ChunkedBody {
    /// Before the first chunk.
    pub(super) const START: Self = Self::Size { size: 0, digits: 0 };

    /// Parses `bytes`, and returns how many of them belong to the body.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && *self != Self::End {
            if let Self::Data { remaining } = self {
                let step = usize::try_from(*remaining).unwrap_or(usize::MAX).min(bytes.len() - at);
                *remaining -= step as u64;
                at += step;
                if *remaining == 0 {
                    *self = Self::DataReturn;
                }
                continue;
            }
            *self = self.after(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn after(self, byte: u8) -> Result<Self, Malformed> {
        match (self, byte) {
            (Self::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                let size = size << 4 | u64::from(digit);
                if digits < MAX_SIZE_DIGITS { Ok(Self::Size { size, digits: digits + 1 }) } else { Err(Malformed) }
            }
            (Self::Size { digits: 0, .. }, _) => Err(Malformed),
            (Self::Size { size, .. } | Self::Extension { size, .. }, b'\r') => Ok(Self::SizeEnd { size }),
            (Self::Size { size, .. }, b';' | b' ' | b'\t') => Ok(Self::Extension { size, length: 1 }),
            (Self::Extension { size, length }, b'\t' | b' '..=b'~' | 0x80..) if length < MAX_EXTENSION => {
                Ok(Self::Extension { size, length: length + 1 })
            }
            (Self::SizeEnd { size: 0 }, b'\n') => Ok(Self::Trailers(Trailers::default())),
            (Self::SizeEnd { size }, b'\n') => Ok(Self::Data { remaining: size }),
            (Self::DataReturn, b'\r') => Ok(Self::DataFeed),
            (Self::DataFeed, b'\n') => Ok(Self::START),
            (Self::Trailers(trailers), _) if trailers.length < MAX_TRAILERS => trailers.after(byte),
            _ => Err(Malformed),
        }
    }
}

impl Trailers {
    fn after(self, byte: u8) -> Result<ChunkedBody, Malformed> {
        let (length, line) = (self.length + 1, self.line);
        let next = match (byte, self.returned) {
            (b'\n', true) if line == 0 => return Ok(ChunkedBody::End),
            (b'\n', true) => Self { length, line: 0, returned: false },
            (b'\r', false) => Self { length, line, returned: true },
            (_, true) | (b'\n', false) => return Err(Malformed),
            (_, false) => Self { length, line: line + 1, returned: false },
        };
        Ok(ChunkedBody::Trailers(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let mut body = ChunkedBody::START;
        let length = body.advance(bytes)?;
        Ok((body == ChunkedBody::End).then_some(length))
    }

    #[test]
    fn body_ends_after_its_last_chunk_and_trailers() {
        for (body, rest) in [
            ("0\r\n\r\n", "GET"),
            ("3\r\nabc\r\n0\r\n\r\n", "GET"),
            ("A;name=\"v\"\r\n0123456789\r\n00\r\n\r\n", ""),
            ("1\r\n\n\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\n", "\r\n"),
        ] {
            assert_eq!(length(format!("{body}{rest}").as_bytes()), Ok(Some(body.len())), "{body:?}");
            assert_eq!(length(&body.as_bytes()[..body.len() - 1]), Ok(None), "{body:?}");
        }
    }

    #[test]
    fn ambiguous_chunks_are_refused() {
        for wrong in [
            "\r\n",
            "-1\r\n",
            "0x1\r\n",
            "1\nA",
            "1\r\r",
            "1;a\n",
            "1;\0\r\n",
            "1\r\nab",
            "1\r\na\n",
            "0\r\nx: 1\n\r\n",
            "0\r\n\n",
            "0\r\nx\r1\r\n",
            "00000000000000001\r\n",
        ] {
            assert_eq!(length(wrong.as_bytes()), Err(Malformed), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_are_parsed_like_the_whole(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'1'), any::<u8>()],
                0..300,
            ),
            cut in 0_usize..300,
        ) {
            let cut = cut.min(bytes.len());
            let mut pieces = ChunkedBody::START;
            let first = pieces.advance(&bytes[..cut]);
            let both = first.and_then(|first| {
                if first < cut { Ok(first) } else { Ok(first + pieces.advance(&bytes[cut..])?) }
            });
            let mut whole = ChunkedBody::START;
            prop_assert_eq!(whole.advance(&bytes), both);
        }
    }
}

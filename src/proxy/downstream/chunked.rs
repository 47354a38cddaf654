//! Where a chunked body ends (RFC 9112 §7.1), without decoding it: what follows is the next request's head.

/// Digits of a chunk's size: 64 bits.
const DIGITS: u8 = 16;
/// Bytes of one chunk's extensions, and of the trailer section (FR-7).
const EXTENSION: u16 = 4 * 1024;
const TRAILERS: u16 = 16 * 1024;

/// How far a chunked body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    Size { size: u64, digits: u8 },
    Extension { size: u64, length: u16 },
    SizeEnd { size: u64 },
    Data { left: u64 },
    DataReturn,
    DataFeed,
    Trailers { length: u16, line: u16, returned: bool },
    End,
}

/// It is not a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Chunks {
    /// Before the first chunk.
    pub(super) const START: Self = Self::Size { size: 0, digits: 0 };

    /// Takes what belongs to the body, and says how many bytes that was.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && *self != Self::End {
            if let Self::Data { left } = self {
                let step = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                *left -= step as u64;
                at += step;
                if *left == 0 {
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
                if digits < DIGITS { Ok(Self::Size { size, digits: digits + 1 }) } else { Err(Malformed) }
            }
            (Self::Size { digits: 0, .. }, _) => Err(Malformed),
            (Self::Size { size, .. } | Self::Extension { size, .. }, b'\r') => Ok(Self::SizeEnd { size }),
            (Self::Size { size, .. }, b';' | b' ' | b'\t') => Ok(Self::Extension { size, length: 1 }),
            (Self::Extension { size, length }, b'\t' | b' '..=b'~' | 0x80..) if length < EXTENSION => {
                Ok(Self::Extension { size, length: length + 1 })
            }
            (Self::SizeEnd { size: 0 }, b'\n') => Ok(Self::Trailers { length: 0, line: 0, returned: false }),
            (Self::SizeEnd { size }, b'\n') => Ok(Self::Data { left: size }),
            (Self::DataReturn, b'\r') => Ok(Self::DataFeed),
            (Self::DataFeed, b'\n') => Ok(Self::START),
            (Self::Trailers { length, line, returned }, _) if length < TRAILERS => {
                Self::trailers(byte, (length + 1, line, returned))
            }
            _ => Err(Malformed),
        }
    }

    fn trailers(byte: u8, (length, line, returned): (u16, u16, bool)) -> Result<Self, Malformed> {
        match (byte, returned) {
            (b'\n', true) if line == 0 => Ok(Self::End),
            (b'\n', true) => Ok(Self::Trailers { length, line: 0, returned: false }),
            (b'\r', false) => Ok(Self::Trailers { length, line, returned: true }),
            (_, true) | (b'\n', false) => Err(Malformed),
            (_, false) => Ok(Self::Trailers { length, line: line + 1, returned: false }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let mut chunks = Chunks::START;
        let length = chunks.advance(bytes)?;
        Ok((chunks == Chunks::End).then_some(length))
    }

    #[test]
    fn a_body_ends_where_it_says() {
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
    fn what_two_readers_may_read_differently_is_refused() {
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
        fn any_bytes_in_any_pieces(bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'1'), any::<u8>()], 0..300), cut in 0_usize..300) {
            let cut = cut.min(bytes.len());
            let mut pieces = Chunks::START;
            let first = pieces.advance(&bytes[..cut]);
            let both = first.and_then(|first| if first < cut { Ok(first) } else { Ok(first + pieces.advance(&bytes[cut..])?) });
            let mut whole = Chunks::START;
            prop_assert_eq!(whole.advance(&bytes), both);
        }
    }
}

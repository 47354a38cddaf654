//! HTTP/2 frames (RFC 9113 §4.1) that no library would send.
use super::agent::Raw;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// A flag of DATA and HEADERS.
pub(crate) const END_STREAM: u8 = 1;
/// A flag of HEADERS and CONTINUATION.
pub(crate) const END_HEADERS: u8 = 4;

/// A parameter of SETTINGS.
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// An error code, as are those below (RFC 9113 §7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const LARGEST_WINDOW: u32 = (1 << 31) - 1;

/// A frame that was received.
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(crate) fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        pairs.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    reset_with(CANCEL, stream)
}

pub(crate) fn reset_with(code: u32, stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A GOAWAY that says that nothing after stream `last` was or will be processed.
pub(crate) fn goaway(last: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), NO_ERROR.to_be_bytes()].concat())
}

/// A response of 200 without a body.
pub(crate) fn ok(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88])
}

/// A header block (RFC 7541) with method and scheme by index, and host and path as literals that
/// are not indexed.
pub(crate) fn block(method: &str, host: &str, path: &str) -> Vec<u8> {
    let method = if method == "POST" { 0x83 } else { 0x82 };
    [&[method, 0x86], &literal(1, host)[..], &literal(4, path)].concat()
}

/// A literal that is not indexed, with its name by index.
pub(crate) fn literal(name: u8, value: &str) -> Vec<u8> {
    [&[name], &string(value)[..]].concat()
}

/// A string of at most 126 bytes without Huffman coding.
pub(crate) fn string(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("short");
    [&[length], text.as_bytes()].concat()
}

/// A complete `GET` request.
pub(crate) fn get(stream: u32, host: &str, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block("GET", host, path))
}

/// The stream numbers that a client uses, which are odd.
pub(crate) fn streams() -> impl Iterator<Item = u32> {
    (1..LARGEST_WINDOW).step_by(2)
}

/// An HTTP/2 connection that sends and receives single frames.
pub(crate) struct Frames(Raw);

impl Frames {
    /// Connects and sends the preface with these settings.
    pub(crate) async fn connect(proxy: SocketAddr, pairs: &[(u16, u32)]) -> Self {
        let mut raw = Raw::connect(proxy).await;
        raw.write([PREFACE, &settings(pairs)].concat()).await;
        Self(raw)
    }

    /// Accepts a connection: reads the preface of the client, and sends nothing.
    pub(crate) async fn greeted(stream: TcpStream) -> Option<Self> {
        let mut raw = Raw::over(stream);
        raw.exactly(PREFACE.len()).await.filter(|preface| preface == PREFACE)?;
        Some(Self(raw))
    }

    /// Accepts a connection and sends settings.
    pub(crate) async fn accept(stream: TcpStream) -> Option<Self> {
        let mut frames = Self::greeted(stream).await?;
        frames.write(settings(&[])).await.then_some(frames)
    }

    /// Writes, and returns whether the other side still accepts data.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Reads the next frame, or returns `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let head = self.0.exactly(9).await?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| (number << 8) | u32::from(*byte));
        let payload = self.0.exactly(number(&head[..3]) as usize).await?;
        Some(Frame { kind: head[3], stream: number(&head[5..9]) & LARGEST_WINDOW, payload })
    }

    /// Reads until the next frame of this kind on this stream.
    pub(crate) async fn until(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self.next().await.expect("an open connection");
            if frame.kind == kind && frame.stream == stream {
                return frame;
            }
            assert_ne!(frame.kind, GOAWAY, "{:?}", frame.payload);
        }
    }

    /// Reads until the end of the connection, and returns the error code of the other side's
    /// GOAWAY.
    pub(crate) async fn goaway(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                code = frame.payload.get(4..8).map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four")));
            }
        }
        code
    }
}

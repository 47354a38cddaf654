//! Detects the protocol of a connection by its first bytes, which are then read again.
use bytes::{Buf, Bytes};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
    Tls,
    /// The connection ended before its first byte.
    Nothing,
}

/// A connection whose protocol is known.
pub(crate) struct Detected<S> {
    pub(crate) protocol: Protocol,
    pub(crate) io: PrefixedIo<S>,
}

/// A stream with the bytes that were already read from it.
pub(crate) struct PrefixedIo<S> {
    prefix: Bytes,
    stream: S,
}

/// The whole connection preface (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The type of the record that carries a ClientHello (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Reads no more than is needed to identify the protocol. The caller bounds the time, for an HTTP/2
/// preface as for any other head.
pub(crate) async fn detect<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<Detected<S>> {
    let mut seen = Vec::with_capacity(HTTP2_PREFACE.len());
    let protocol = loop {
        let mut room = [0; HTTP2_PREFACE.len()];
        let wanted = HTTP2_PREFACE.len() - seen.len();
        let read = stream.read(&mut room[..wanted]).await?;
        if read == 0 {
            break if seen.is_empty() { Protocol::Nothing } else { Protocol::Http1 };
        }
        seen.extend_from_slice(&room[..read]);
        if seen[0] == TLS_HANDSHAKE {
            break Protocol::Tls;
        }
        if seen == HTTP2_PREFACE {
            break Protocol::Http2;
        }
        if !HTTP2_PREFACE.starts_with(&seen) {
            break Protocol::Http1;
        }
    };
    Ok(Detected { protocol, io: PrefixedIo { prefix: seen.into(), stream } })
}

impl<S: AsyncRead + Unpin> AsyncRead for PrefixedIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let size = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix[..size]);
        self.prefix.advance(size);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PrefixedIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn detected(pieces: &[&[u8]]) -> (Protocol, Vec<u8>) {
        let (mut near, far) = tokio::io::duplex(4);
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let write = async move {
            for piece in pieces {
                near.write_all(&piece).await.expect("write");
                tokio::task::yield_now().await;
            }
        };
        let read = async {
            let Detected { protocol, mut io } = detect(far).await.expect("detected");
            let mut all = Vec::new();
            io.read_to_end(&mut all).await.expect("read");
            (protocol, all)
        };
        tokio::join!(write, read).1
    }

    #[tokio::test]
    async fn detected_bytes_are_read_again() {
        for (pieces, protocol) in [
            (&[&b"GET / HTTP/1.1\r\n"[..]][..], Protocol::Http1),
            (&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0"], Protocol::Http2),
            (&[b"P", b"R", b"I", b" * HTTP/2.0\r\n\r\n", b"SM\r\n\r\n"], Protocol::Http2),
            (&[b"PRI * HTTP/2.0\r\n\r\nSMS\r\n\r\n"], Protocol::Http1),
            (&[b"P", b"OST / HTTP/1.1"], Protocol::Http1),
            (&[b"PRINT /"], Protocol::Http1),
            (&[&[0x16, 3, 1]], Protocol::Tls),
            (&[], Protocol::Nothing),
        ] {
            let (seen, all) = detected(pieces).await;
            assert_eq!(seen, protocol);
            assert_eq!(all, pieces.concat());
        }
    }
}

//! A stream whose first bytes have been looked at: they are read again before the rest.
use bytes::{Buf, Bytes};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What a connection speaks, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
    Tls,
    Nothing,
}

/// A stream and what was read of it already.
pub(crate) struct Prefixed<S> {
    prefix: Bytes,
    stream: S,
}

/// RFC 9113 §3.4, all of it: who has sent a part of it is waited for no longer than for any other head.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// RFC 8446 §5.1: a ClientHello comes in a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// Reads as little as tells the protocol.
pub(crate) async fn sniff<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(Speaks, Prefixed<S>)> {
    let mut seen = Vec::with_capacity(HTTP2.len());
    let speaks = loop {
        let mut room = [0; HTTP2.len()];
        let wanted = HTTP2.len() - seen.len();
        let read = stream.read(&mut room[..wanted]).await?;
        if read == 0 {
            break if seen.is_empty() { Speaks::Nothing } else { Speaks::Http1 };
        }
        seen.extend_from_slice(&room[..read]);
        if seen[0] == TLS_HANDSHAKE {
            break Speaks::Tls;
        }
        if seen == HTTP2 {
            break Speaks::Http2;
        }
        if !HTTP2.starts_with(&seen) {
            break Speaks::Http1;
        }
    };
    Ok((speaks, Prefixed { prefix: seen.into(), stream }))
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
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

    async fn sniffed(pieces: &[&[u8]]) -> (Speaks, Vec<u8>) {
        let (mut near, far) = tokio::io::duplex(4);
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let write = async move {
            for piece in pieces {
                near.write_all(&piece).await.expect("write");
                tokio::task::yield_now().await;
            }
        };
        let read = async {
            let (speaks, mut stream) = sniff(far).await.expect("sniff");
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.expect("read");
            (speaks, all)
        };
        tokio::join!(write, read).1
    }

    #[tokio::test]
    async fn nothing_that_was_looked_at_is_lost() {
        for (pieces, speaks) in [
            (&[&b"GET / HTTP/1.1\r\n"[..]][..], Speaks::Http1),
            (&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0"], Speaks::Http2),
            (&[b"P", b"R", b"I", b" * HTTP/2.0\r\n\r\n", b"SM\r\n\r\n"], Speaks::Http2),
            (&[b"PRI * HTTP/2.0\r\n\r\nSMS\r\n\r\n"], Speaks::Http1),
            (&[b"P", b"OST / HTTP/1.1"], Speaks::Http1),
            (&[b"PRINT /"], Speaks::Http1),
            (&[&[0x16, 3, 1]], Speaks::Tls),
            (&[], Speaks::Nothing),
        ] {
            let (seen, all) = sniffed(pieces).await;
            assert_eq!(seen, speaks);
            assert_eq!(all, pieces.concat());
        }
    }
}

//! A stream that can be aborted from outside, whatever protocol it carries and whichever task
//! drives it: hyper drives HTTP/2 in a task of its own, and hands over a stream that was upgraded.
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot::{self, error::TryRecvError};

/// A stream on which every operation fails once it has been aborted. The sender's owner aborts it,
/// and can tell from the sender that the stream has ended.
pub(super) struct Abortable<S> {
    inner: S,
    abort: Option<oneshot::Receiver<()>>,
    is_aborted: bool,
}

impl<S> Abortable<S> {
    /// `abort` is absent if nothing ever needs to abort the stream.
    pub(super) fn new(inner: S, abort: Option<oneshot::Receiver<()>>) -> Self {
        Self { inner, abort, is_aborted: false }
    }

    /// Checks for an abort on the read path; an abort wakes the reader.
    fn poll_abort(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(abort) = self.abort.as_mut()
            && let Poll::Ready(received) = Pin::new(abort).poll(cx)
        {
            self.abort = None;
            self.is_aborted = received.is_ok();
        }
        self.check()
    }

    /// Checks for an abort on the write path. It registers no waker: the abort wakes the reader,
    /// and if nobody is reading, the agent has stalled.
    fn check(&mut self) -> io::Result<()> {
        let received = self.abort.as_mut().map(oneshot::Receiver::try_recv);
        if let Some(Ok(()) | Err(TryRecvError::Closed)) = received {
            self.abort = None;
            self.is_aborted = received == Some(Ok(()));
        }
        if self.is_aborted { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Abortable<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_abort(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Abortable<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Data that is still buffered must not leave either.
        self.check()?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn abortable() -> (Abortable<DuplexStream>, DuplexStream, oneshot::Sender<()>) {
        let (near, far) = duplex(64);
        let (abort, aborted) = oneshot::channel();
        (Abortable::new(near, Some(aborted)), far, abort)
    }

    #[tokio::test]
    async fn aborted_stream_fails_every_operation() {
        for first in 0..4 {
            let (mut stream, mut far, abort) = abortable();
            stream.write_all(b"before").await.expect("open");
            abort.send(()).expect("held");
            for turn in first..first + 4 {
                let result = match turn % 4 {
                    0 => stream.write(b"after").await.map(|_| ()),
                    1 => stream.flush().await,
                    2 => stream.read(&mut [0; 8]).await.map(|_| ()),
                    _ => stream.shutdown().await,
                };
                assert_eq!(result.expect_err("aborted").kind(), io::ErrorKind::ConnectionAborted, "{first} {turn}");
            }
            drop(stream);
            let mut seen = Vec::new();
            far.read_to_end(&mut seen).await.expect("ended");
            assert_eq!(seen, b"before");
        }
    }

    #[tokio::test]
    async fn abort_wakes_a_reader_after_a_write() {
        let (mut stream, _far, abort) = abortable();
        let mut buffer = [0; 8];
        let aborting = async {
            tokio::task::yield_now().await;
            abort.send(()).expect("held");
        };
        stream.write_all(b"x").await.expect("open");
        let (read, ()) = tokio::join!(stream.read(&mut buffer), aborting);
        assert_eq!(read.expect_err("aborted").kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn dropped_sender_does_not_abort() {
        let (mut stream, mut far, abort) = abortable();
        drop(abort);
        stream.write_all(b"x").await.expect("open");
        far.write_all(b"y").await.expect("open");
        assert_eq!(stream.read_u8().await.expect("open"), b'y');
    }
}

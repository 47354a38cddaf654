//! A connection that can be cut from outside, whatever it speaks and whoever drives it by now: hyper drives HTTP/2 in a task of its
//! own, and lets go of what was upgraded.
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot::{self, error::TryRecvError};

/// Everything fails once it is cut. Whoever holds the other end of the channel cuts it, and sees there that it is gone.
pub(super) struct Severable<S> {
    inner: S,
    cut: Option<oneshot::Receiver<()>>,
    severed: bool,
}

impl<S> Severable<S> {
    /// `cut`: where somebody may want to.
    pub(super) fn new(inner: S, cut: Option<oneshot::Receiver<()>>) -> Self {
        Self { inner, cut, severed: false }
    }

    /// Of whoever reads, who is woken when it is cut.
    fn await_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(cut) = self.cut.as_mut()
            && let Poll::Ready(answer) = Pin::new(cut).poll(cx)
        {
            self.cut = None;
            self.severed = answer.is_ok();
        }
        self.check()
    }

    /// Of whoever writes, and is not woken: the one who reads waits for the cut, or waits for an agent who takes nothing.
    fn check(&mut self) -> io::Result<()> {
        let answer = self.cut.as_mut().map(oneshot::Receiver::try_recv);
        if let Some(Ok(()) | Err(TryRecvError::Closed)) = answer {
            self.cut = None;
            self.severed = answer == Some(Ok(()));
        }
        if self.severed { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Severable<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.await_cut(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Severable<S> {
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
        // What is still held back must not leave either.
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

    fn cuttable() -> (Severable<DuplexStream>, DuplexStream, oneshot::Sender<()>) {
        let (near, far) = duplex(64);
        let (cut, is_cut) = oneshot::channel();
        (Severable::new(near, Some(is_cut)), far, cut)
    }

    #[tokio::test]
    async fn whatever_comes_first_after_the_cut_fails_and_everything_after_it() {
        for first in 0..4 {
            let (mut stream, mut far, cut) = cuttable();
            stream.write_all(b"before").await.expect("open");
            cut.send(()).expect("held");
            for turn in first..first + 4 {
                let result = match turn % 4 {
                    0 => stream.write(b"after").await.map(|_| ()),
                    1 => stream.flush().await,
                    2 => stream.read(&mut [0; 8]).await.map(|_| ()),
                    _ => stream.shutdown().await,
                };
                assert_eq!(result.expect_err("cut").kind(), io::ErrorKind::ConnectionAborted, "{first} {turn}");
            }
            drop(stream);
            let mut seen = Vec::new();
            far.read_to_end(&mut seen).await.expect("ended");
            assert_eq!(seen, b"before");
        }
    }

    #[tokio::test]
    async fn who_reads_is_woken_and_a_writer_beside_does_not_change_that() {
        let (mut stream, _far, cut) = cuttable();
        let mut buffer = [0; 8];
        let cutting = async {
            tokio::task::yield_now().await;
            cut.send(()).expect("held");
        };
        stream.write_all(b"x").await.expect("open");
        let (read, ()) = tokio::join!(stream.read(&mut buffer), cutting);
        assert_eq!(read.expect_err("cut").kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn nobody_left_who_could_cut_it_is_no_cut() {
        let (mut stream, mut far, cut) = cuttable();
        drop(cut);
        stream.write_all(b"x").await.expect("open");
        far.write_all(b"y").await.expect("open");
        assert_eq!(stream.read_u8().await.expect("open"), b'y');
    }
}

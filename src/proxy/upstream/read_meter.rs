//! Counts what an upstream has sent on a connection.
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// A stream that counts the bytes that are read from it.
pub(super) struct ReadMeter<S> {
    inner: S,
    count: Arc<ReadCount>,
}

/// The number of bytes that have been read.
#[derive(Default)]
pub(super) struct ReadCount {
    bytes: AtomicU64,
    first: Notify,
}

impl<S> ReadMeter<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, count: Arc::default() }
    }

    pub(super) fn count(&self) -> Arc<ReadCount> {
        Arc::clone(&self.count)
    }
}

impl ReadCount {
    /// How many bytes have been read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits for the first bytes, or the end of the stream. For one caller.
    pub(super) async fn first(&self) {
        self.first.notified().await;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadMeter<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let read = (buffer.filled().len() - before) as u64;
        // Only the task that drives the connection reads, so nothing is lost between the two steps.
        let bytes = self.count.bytes();
        self.count.bytes.store(bytes + read, Ordering::Relaxed);
        if bytes == 0 && read > 0 {
            self.count.first.notify_one();
        }
        polled
    }
}

impl<S> Drop for ReadMeter<S> {
    fn drop(&mut self) {
        self.count.first.notify_one();
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadMeter<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

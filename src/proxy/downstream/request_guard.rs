//! Validates every request head of a connection before hyper reads it, and follows the framing of
//! bodies to find the next head. A head that is refused is replaced by a placeholder, whose request
//! is then refused like any other: in its turn, with a problem body, a metric and a log line, none
//! of which hyper's own 400 has.
use super::chunked::ChunkedBody;
use super::head::{Framing, Head, HeadScanner};
use super::violations::Violations;
use super::write_timeout::WriteTimeout;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The placeholder for a refused head. Its content is never acted on.
const PLACEHOLDER: &[u8] = b"REFUSED / HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";

/// A stream that lets only valid request heads through.
pub(super) struct RequestGuard<S> {
    stream: S,
    /// The most bytes of a head.
    limit: usize,
    violations: Arc<Violations>,
    write_timeout: WriteTimeout,
    position: Position,
    scanner: HeadScanner,
    heads: u64,
    /// The beginning of a head whose rest has not arrived: hyper gets whole heads.
    partial: Vec<u8>,
    /// Bytes that have been checked, and that hyper has not yet read.
    checked: Vec<u8>,
}

/// The part of a request to which the next byte belongs.
#[derive(Clone, Copy, Debug)]
enum Position {
    Head,
    Body { remaining: u64, switches: bool },
    Chunked { body: ChunkedBody, switches: bool },
    Switched,
    Refused,
    Broken,
}

impl<S> RequestGuard<S> {
    /// Checks the bytes that are read from `stream`. A head may have `limit` bytes. Writes report
    /// to `write_timeout`.
    pub(super) fn new(stream: S, limit: usize, violations: Arc<Violations>, write_timeout: WriteTimeout) -> Self {
        Self {
            stream,
            limit,
            violations,
            write_timeout,
            position: Position::Head,
            scanner: HeadScanner::default(),
            heads: 0,
            partial: Vec::new(),
            checked: Vec::new(),
        }
    }

    /// Returns how many of `bytes` hyper may read. The rest is an unfinished head, or follows a
    /// refusal.
    fn check(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            let rest = &bytes[taken..];
            match &mut self.position {
                Position::Head => match self.scanner.scan(rest, self.limit) {
                    Ok(Some(head)) => {
                        taken += head.length;
                        self.enter(head);
                    }
                    Ok(None) => break,
                    Err(violation) => {
                        self.heads += 1;
                        self.position = Position::Refused;
                        self.violations.refuse(self.heads, violation);
                        break;
                    }
                },
                Position::Body { remaining, switches } => {
                    let step = usize::try_from(*remaining).unwrap_or(usize::MAX).min(rest.len());
                    *remaining -= step as u64;
                    taken += step;
                    if *remaining == 0 {
                        self.position = if *switches { Position::Switched } else { Position::Head };
                    }
                }
                Position::Chunked { body, switches } => {
                    let Ok(step) = body.advance(rest) else {
                        self.position = Position::Broken;
                        break;
                    };
                    taken += step;
                    if *body == ChunkedBody::End {
                        self.position = if *switches { Position::Switched } else { Position::Head };
                    }
                }
                Position::Switched => taken = bytes.len(),
                Position::Refused | Position::Broken => break,
            }
        }
        taken
    }

    /// Moves to the body of a valid head, or to the next head.
    fn enter(&mut self, head: Head) {
        self.scanner = HeadScanner::default();
        self.heads += 1;
        if head.is_server_wide {
            self.violations.record_server_wide(self.heads);
        }
        if head.switches {
            self.violations.record_switch(self.heads);
        }
        self.position = match head.framing {
            Framing::Length(0) if head.switches => Position::Switched,
            Framing::Length(0) => Position::Head,
            Framing::Length(remaining) => Position::Body { remaining, switches: head.switches },
            Framing::Chunked => Position::Chunked { body: ChunkedBody::START, switches: head.switches },
        };
    }

    /// Checks the bytes that were just read into `buffer`, from `start` on, and leaves those that
    /// hyper may read.
    fn filter(&mut self, buffer: &mut ReadBuf<'_>, start: usize) {
        let fresh = &buffer.filled()[start..];
        if self.partial.is_empty() {
            let taken = self.check(fresh);
            if matches!(self.position, Position::Head) {
                self.partial = fresh[taken..].to_vec();
            }
            buffer.set_filled(start + taken);
        } else {
            let mut all = std::mem::take(&mut self.partial);
            all.extend_from_slice(fresh);
            buffer.set_filled(start);
            let taken = self.check(&all);
            if matches!(self.position, Position::Head) {
                self.partial = all.split_off(taken);
            }
            all.truncate(taken);
            self.checked = all;
        }
        if matches!(self.position, Position::Refused) {
            self.checked.extend_from_slice(PLACEHOLDER);
        }
    }

    /// Passes checked bytes to hyper.
    fn hand_over(&mut self, buffer: &mut ReadBuf<'_>) {
        let size = self.checked.len().min(buffer.remaining());
        buffer.put_slice(&self.checked[..size]);
        self.checked.drain(..size);
        if self.checked.is_empty() {
            self.checked = Vec::new();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RequestGuard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = buffer.filled().len();
        loop {
            if !this.checked.is_empty() {
                this.hand_over(buffer);
                return Poll::Ready(Ok(()));
            }
            match this.position {
                Position::Switched => return Pin::new(&mut this.stream).poll_read(cx, buffer),
                Position::Broken => return Poll::Ready(Err(io::Error::from(io::ErrorKind::InvalidData))),
                Position::Refused => return this.discard(cx, buffer, start),
                Position::Head | Position::Body { .. } | Position::Chunked { .. } => {}
            }
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            if buffer.filled().len() == start {
                return Poll::Ready(Ok(()));
            }
            this.filter(buffer, start);
            if buffer.filled().len() > start {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> RequestGuard<S> {
    /// After a refusal, bytes are read only to discard them: closing with unread bytes would reset
    /// the connection, and the agent might never see the answer. The end of the stream is not
    /// passed on, because hyper would conclude that the agent has left.
    fn discard(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>, start: usize) -> Poll<io::Result<()>> {
        loop {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            if buffer.filled().len() == start {
                return Poll::Pending;
            }
            buffer.set_filled(start);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RequestGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.report(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.report(written)
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

impl<S> RequestGuard<S> {
    /// Reports to the write timeout whether the agent reads its answer.
    fn report(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            self.write_timeout.report_blocked();
        } else {
            self.write_timeout.report_progress();
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::HeadViolation;
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What hyper would read of `bytes` if they arrived in pieces of the given size and it read
    /// into small buffers.
    async fn read(bytes: &[u8], piece: usize) -> (Vec<u8>, Arc<Violations>) {
        let (mut near, far) = tokio::io::duplex(piece);
        let violations = Arc::new(Violations::default());
        let mut guarded = RequestGuard::new(
            far,
            1024,
            Arc::clone(&violations),
            WriteTimeout::new(std::time::Duration::from_secs(60)),
        );
        let write = async {
            // In some cases the reader stops early.
            let _ = near.write_all(bytes).await;
            drop(near);
        };
        let read = async {
            let mut all = Vec::new();
            let mut buffer = [0; 7];
            loop {
                let reading = guarded.read(&mut buffer);
                match tokio::time::timeout(std::time::Duration::from_secs(1), reading).await {
                    Ok(Ok(0) | Err(_)) | Err(_) => return all,
                    Ok(Ok(size)) => all.extend_from_slice(&buffer[..size]),
                }
            }
        };
        (tokio::join!(write, read).1, violations)
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const CHUNKED: &str =
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\na\nb\r\n0\r\nx: 1\r\n\r\n";
    const OPTIONS: &str = "OPTIONS http://a HTTP/1.1\r\nhost: a\r\n\r\n";
    const LENGTH: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n\n\n\n\n";

    #[tokio::test(start_paused = true)]
    async fn valid_requests_pass_unchanged_in_any_pieces() {
        let all = [GET, CHUNKED, LENGTH, GET].concat();
        for piece in [1, 2, 3, 5, 17, 64, 4096] {
            let (seen, violations) = read(all.as_bytes(), piece).await;
            assert_eq!(String::from_utf8_lossy(&seen), all);
            assert_eq!((1..9).find_map(|request| violations.of(request)), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_arrives_in_its_turn_and_ends_the_stream() {
        let bad = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc";
        let all = [GET, LENGTH, bad, GET].concat();
        for piece in [1, 64, 4096] {
            let (seen, violations) = read(all.as_bytes(), piece).await;
            let expected = [GET.as_bytes(), LENGTH.as_bytes(), PLACEHOLDER].concat();
            assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(&expected));
            assert!(matches!(violations.of(3), Some(HeadViolation::Malformed(_))));
            assert_eq!(violations.of(2), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn options_for_the_server_is_reported_in_its_turn() {
        let (_, violations) = read([GET, OPTIONS, GET, OPTIONS].concat().as_bytes(), 4096).await;
        let reported: Vec<u64> = (1..6).filter(|request| violations.is_server_wide(*request)).collect();
        assert_eq!(reported, [2, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_after_a_switch_are_not_checked() {
        let connect = "CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n";
        let all = [connect, "\n\n\x16\x03 anything"].concat();
        let (seen, violations) = read(all.as_bytes(), 8).await;
        assert_eq!(seen, all.as_bytes());
        assert!(violations.switches(1));
    }

    #[tokio::test(start_paused = true)]
    async fn broken_chunk_ends_the_stream_and_nothing_after_it_is_read() {
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let (seen, _) = read([head, "3\r\nabcX", GET].concat().as_bytes(), 4096).await;
        assert!(String::from_utf8_lossy(&seen).starts_with(head));
        assert!(!String::from_utf8_lossy(&seen).contains("GET"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn arbitrary_bytes_do_not_grow(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..400),
            piece in 1_usize..50,
        ) {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().start_paused(true).build().expect("runtime");
            let (seen, _) = runtime.block_on(read(&bytes, piece));
            prop_assert!(seen.len() <= bytes.len() + PLACEHOLDER.len());
        }
    }
}

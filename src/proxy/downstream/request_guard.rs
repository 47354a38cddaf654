//! A connection of the agent's whose every request head is judged before hyper reads it, and whose framing is followed so that the
//! next head is found. A head that is refused is replaced by one that only says so: the answer then leaves by the way of all
//! refusals, in its turn, with a problem body, a metric and a log line, none of which hyper's own 400 has.
use super::chunked::Chunks;
use super::head::{Fault, Framing, Head, Scan};
use super::write_timeout;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What stands for a refused head. Nothing of it is acted on.
const REFUSED: &[u8] = b"REFUSED / HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";

/// What the stream and the service of one connection tell each other; requests are counted from 1.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    refused: OnceLock<(u64, Fault)>,
    /// From this request on bytes are no longer followed: it may switch protocols.
    switches: AtomicU64,
}

impl Verdicts {
    /// Why the given request is refused, if it is.
    pub(crate) fn fault(&self, request: u64) -> Option<Fault> {
        self.refused.get().filter(|(refused, _)| *refused == request).map(|(_, fault)| *fault)
    }

    /// Whether what follows the given request is not looked at: if it did not switch protocols, the connection must end.
    pub(crate) fn switches(&self, request: u64) -> bool {
        self.switches.load(Ordering::Relaxed) == request
    }
}

/// The stream.
pub(crate) struct Strict<S> {
    stream: S,
    /// Bytes of a head.
    limit: usize,
    verdicts: Arc<Verdicts>,
    at: At,
    scan: Scan,
    heads: u64,
    /// The beginning of a head whose rest has not come: hyper gets whole ones.
    partial: Vec<u8>,
    /// Judged, and not yet read by hyper.
    judged: Vec<u8>,
}

/// Where in a request the next byte is.
#[derive(Clone, Copy, Debug)]
enum At {
    Head,
    Body { left: u64, switches: bool },
    Chunks { chunks: Chunks, switches: bool },
    Switched,
    Refused,
    Broken,
}

impl<S> Strict<S> {
    /// Judges what `stream` brings; a head has at most `limit` bytes.
    pub(crate) fn new(stream: S, limit: usize, verdicts: Arc<Verdicts>) -> Self {
        Self {
            stream,
            limit,
            verdicts,
            at: At::Head,
            scan: Scan::default(),
            heads: 0,
            partial: Vec::new(),
            judged: Vec::new(),
        }
    }

    /// How many of `bytes` hyper may have. What is left over is an unfinished head, or follows a refusal.
    fn judge(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            let rest = &bytes[taken..];
            match &mut self.at {
                At::Head => match self.scan.judge(rest, self.limit) {
                    Ok(Some(head)) => {
                        taken += head.length;
                        self.enter(head);
                    }
                    Ok(None) => break,
                    Err(fault) => {
                        self.heads += 1;
                        self.at = At::Refused;
                        // Only ever the first: nothing is judged after it.
                        let _ = self.verdicts.refused.set((self.heads, fault));
                        break;
                    }
                },
                At::Body { left, switches } => {
                    let step = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= step as u64;
                    taken += step;
                    if *left == 0 {
                        self.at = if *switches { At::Switched } else { At::Head };
                    }
                }
                At::Chunks { chunks, switches } => {
                    let Ok(step) = chunks.advance(rest) else {
                        self.at = At::Broken;
                        break;
                    };
                    taken += step;
                    if *chunks == Chunks::End {
                        self.at = if *switches { At::Switched } else { At::Head };
                    }
                }
                At::Switched => taken = bytes.len(),
                At::Refused | At::Broken => break,
            }
        }
        taken
    }

    fn enter(&mut self, head: Head) {
        self.scan = Scan::default();
        self.heads += 1;
        if head.switches {
            self.verdicts.switches.store(self.heads, Ordering::Relaxed);
        }
        self.at = match head.framing {
            Framing::Length(0) if head.switches => At::Switched,
            Framing::Length(0) => At::Head,
            Framing::Length(left) => At::Body { left, switches: head.switches },
            Framing::Chunked => At::Chunks { chunks: Chunks::START, switches: head.switches },
        };
    }

    /// Judges the bytes that were just read into `buffer`, from `start` on, and leaves there what hyper may have.
    fn sift(&mut self, buffer: &mut ReadBuf<'_>, start: usize) {
        let fresh = &buffer.filled()[start..];
        if self.partial.is_empty() {
            let taken = self.judge(fresh);
            if matches!(self.at, At::Head) {
                self.partial = fresh[taken..].to_vec();
            }
            buffer.set_filled(start + taken);
        } else {
            let mut all = std::mem::take(&mut self.partial);
            all.extend_from_slice(fresh);
            buffer.set_filled(start);
            let taken = self.judge(&all);
            if matches!(self.at, At::Head) {
                self.partial = all.split_off(taken);
            }
            all.truncate(taken);
            self.judged = all;
        }
        if matches!(self.at, At::Refused) {
            self.judged.extend_from_slice(REFUSED);
        }
    }

    fn hand_over(&mut self, buffer: &mut ReadBuf<'_>) {
        let size = self.judged.len().min(buffer.remaining());
        buffer.put_slice(&self.judged[..size]);
        self.judged.drain(..size);
        if self.judged.is_empty() {
            self.judged = Vec::new();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = buffer.filled().len();
        loop {
            if !this.judged.is_empty() {
                this.hand_over(buffer);
                return Poll::Ready(Ok(()));
            }
            match this.at {
                At::Switched => return Pin::new(&mut this.stream).poll_read(cx, buffer),
                At::Broken => return Poll::Ready(Err(io::Error::from(io::ErrorKind::InvalidData))),
                At::Refused => return this.discard(cx, buffer, start),
                At::Head | At::Body { .. } | At::Chunks { .. } => {}
            }
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            if buffer.filled().len() == start {
                return Poll::Ready(Ok(()));
            }
            this.sift(buffer, start);
            if buffer.filled().len() > start {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Strict<S> {
    /// After a refusal nothing is read any more but to make room: a close with unread bytes would reset the connection, and the
    /// agent might never see the answer. The end is not passed on, because hyper would take it for an agent that has left.
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        told(Pin::new(&mut self.stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        told(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))
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

/// Whether the agent takes its answer.
fn told(written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    if written.is_pending() {
        write_timeout::offered();
    } else {
        write_timeout::taken();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What hyper would read of `bytes`, when they come in pieces of the given size and it reads into small buffers.
    async fn read(bytes: &[u8], piece: usize) -> (Vec<u8>, Arc<Verdicts>) {
        let (mut near, far) = tokio::io::duplex(piece);
        let verdicts = Arc::new(Verdicts::default());
        let mut strict = Strict::new(far, 1024, Arc::clone(&verdicts));
        let write = async {
            // A reader that has stopped is what some cases are about.
            let _ = near.write_all(bytes).await;
            drop(near);
        };
        let read = async {
            let mut all = Vec::new();
            let mut buffer = [0; 7];
            loop {
                let reading = strict.read(&mut buffer);
                match tokio::time::timeout(std::time::Duration::from_secs(1), reading).await {
                    Ok(Ok(0) | Err(_)) | Err(_) => return all,
                    Ok(Ok(size)) => all.extend_from_slice(&buffer[..size]),
                }
            }
        };
        (tokio::join!(write, read).1, verdicts)
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const CHUNKED: &str =
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\na\nb\r\n0\r\nx: 1\r\n\r\n";
    const LENGTH: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n\n\n\n\n";

    #[tokio::test(start_paused = true)]
    async fn what_is_well_formed_passes_unchanged_in_any_pieces() {
        let all = [GET, CHUNKED, LENGTH, GET].concat();
        for piece in [1, 2, 3, 5, 17, 64, 4096] {
            let (seen, verdicts) = read(all.as_bytes(), piece).await;
            assert_eq!(String::from_utf8_lossy(&seen), all);
            assert_eq!((1..9).find_map(|request| verdicts.fault(request)), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_comes_in_its_turn_and_ends_everything() {
        let bad = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc";
        let all = [GET, LENGTH, bad, GET].concat();
        for piece in [1, 64, 4096] {
            let (seen, verdicts) = read(all.as_bytes(), piece).await;
            let expected = [GET.as_bytes(), LENGTH.as_bytes(), REFUSED].concat();
            assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(&expected));
            assert!(matches!(verdicts.fault(3), Some(Fault::Malformed(_))));
            assert_eq!(verdicts.fault(2), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_switch_bytes_are_bytes() {
        let connect = "CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n";
        let all = [connect, "\n\n\x16\x03 anything"].concat();
        let (seen, verdicts) = read(all.as_bytes(), 8).await;
        assert_eq!(seen, all.as_bytes());
        assert!(verdicts.switches(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_chunk_ends_the_stream_and_what_follows_is_never_read() {
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let (seen, _) = read([head, "3\r\nabcX", GET].concat().as_bytes(), 4096).await;
        assert!(String::from_utf8_lossy(&seen).starts_with(head));
        assert!(!String::from_utf8_lossy(&seen).contains("GET"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..400), piece in 1_usize..50) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("runtime");
            let (seen, _) = runtime.block_on(read(&bytes, piece));
            prop_assert!(seen.len() <= bytes.len() + REFUSED.len());
        }
    }
}

//! How long an answer waits for an agent that does not read it: the idle timeout of its route.
use super::idle::IdleTimer;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use prometheus::IntCounter;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// The write timeout of what one task sends to the agent: a connection with HTTP/1.1, one request
/// with HTTP/2. The request handler sets it, the writers report to it, and [`with_write_timeout`]
/// enforces it. Relays have none: they time both directions together.
///
/// It is shared within one thread. It consists of atomics because hyper demands that a stream that
/// may be upgraded is `Send`.
#[derive(Clone)]
pub(crate) struct WriteTimeout(Arc<State>);

struct State {
    millis: AtomicU64,
    /// Whether there is data that the agent has not taken.
    is_blocked: AtomicBool,
    /// Whether the agent has taken data since the timer was last checked.
    has_progressed: AtomicBool,
    /// Whether the answer was abandoned because the agent did not read it.
    has_passed: AtomicBool,
}

impl WriteTimeout {
    /// Creates a timeout for an agent that may go without reading for `timeout`.
    pub(super) fn new(timeout: Duration) -> Self {
        let this = Self(Arc::new(State {
            millis: AtomicU64::new(0),
            is_blocked: AtomicBool::new(false),
            has_progressed: AtomicBool::new(false),
            has_passed: AtomicBool::new(false),
        }));
        this.set(timeout);
        this
    }

    /// Sets how long the agent may go without reading, from now on.
    pub(crate) fn set(&self, timeout: Duration) {
        self.0.millis.store(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether the answer was abandoned because the agent did not read it.
    pub(crate) fn has_passed(&self) -> bool {
        self.0.has_passed.load(Ordering::Relaxed)
    }

    /// Reports that there is data that the agent has not taken.
    pub(super) fn report_blocked(&self) {
        self.0.is_blocked.store(true, Ordering::Relaxed);
    }

    /// Reports that the agent has taken data.
    pub(super) fn report_progress(&self) {
        self.0.is_blocked.store(false, Ordering::Relaxed);
        self.0.has_progressed.store(true, Ordering::Relaxed);
    }

    /// Whether the agent has not read for the timeout. Called only while waiting; it wakes the
    /// task when the timeout passes.
    fn has_expired(&self, timer: &mut IdleTimer, cx: &mut Context<'_>) -> bool {
        if !self.0.is_blocked.load(Ordering::Relaxed) {
            return false;
        }
        timer.set_timeout(self.timeout());
        if self.0.has_progressed.swap(false, Ordering::Relaxed) {
            timer.reset();
        }
        timer.has_expired(cx)
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.0.millis.load(Ordering::Relaxed))
    }
}

/// Runs `serving`, which sends something to the agent. If the agent reads nothing for the write
/// timeout, it counts that in `unread` and returns `None`.
pub(super) async fn with_write_timeout<F: Future + Unpin>(
    mut serving: F,
    write_timeout: &WriteTimeout,
    unread: &IntCounter,
) -> Option<F::Output> {
    let mut timer = IdleTimer::new(write_timeout.timeout());
    let served = poll_fn(|cx| {
        if let Poll::Ready(output) = Pin::new(&mut serving).poll(cx) {
            return Poll::Ready(Some(output));
        }
        if write_timeout.has_expired(&mut timer, cx) { Poll::Ready(None) } else { Poll::Pending }
    });
    let served = served.await;
    if served.is_none() {
        write_timeout.0.has_passed.store(true, Ordering::Relaxed);
        unread.inc();
        tracing::info!("an answer was abandoned: the agent did not read for the route's idle timeout");
    }
    served
}

/// A body sent over HTTP/2 that reports to a write timeout. hyper asks for the next frame once the
/// agent's window has room for it; by then the agent has taken the previous one, except for the
/// chunk that hyper and h2 hold.
pub(super) struct TrackedBody<B> {
    body: B,
    write_timeout: WriteTimeout,
}

impl<B> TrackedBody<B> {
    pub(super) fn new(body: B, write_timeout: WriteTimeout) -> Self {
        Self { body, write_timeout }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.write_timeout.report_progress();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.write_timeout.report_blocked();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::super::request_guard::RequestGuard;
    use super::*;
    use std::pin::pin;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, sleep};

    const IDLE: Duration = Duration::from_secs(30);

    fn counter() -> IntCounter {
        IntCounter::new("unread", "A counter.").expect("a counter")
    }

    /// Writes eight bytes, as an HTTP/1.1 connection does, to an agent that has room for one.
    async fn write_to(agent: impl Future<Output = ()>, stream: tokio::io::DuplexStream) -> (bool, u64) {
        let (unread, write_timeout) = (counter(), WriteTimeout::new(IDLE));
        let mut guarded = RequestGuard::new(stream, 1024, Arc::default(), write_timeout.clone());
        let serving = pin!(guarded.write_all(b"12345678"));
        let (written, ()) = tokio::join!(with_write_timeout(serving, &write_timeout, &unread), agent);
        (written.is_some(), unread.get())
    }

    #[tokio::test(start_paused = true)]
    async fn agent_that_reads_slowly_is_served_and_one_that_stops_is_not() {
        for (bytes, served) in [(8, true), (4, false)] {
            let (mut near, far) = tokio::io::duplex(1);
            let agent = async move {
                for _ in 0..bytes {
                    sleep(IDLE - Duration::from_secs(1)).await;
                    near.read_u8().await.expect("a byte");
                }
                sleep(IDLE * 2).await;
            };
            assert_eq!(write_to(agent, far).await, (served, u64::from(!served)), "after {bytes} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn timeout_applies_only_while_the_agent_has_something_to_read() {
        let (unread, write_timeout) = (counter(), WriteTimeout::new(IDLE));
        let slow = async {
            write_timeout.report_blocked();
            write_timeout.report_progress();
            sleep(IDLE * 10).await;
        };
        assert_eq!(with_write_timeout(pin!(slow), &write_timeout, &unread).await, Some(()));
        let started = Instant::now();
        let stalled = async {
            write_timeout.report_blocked();
            std::future::pending::<()>().await;
        };
        assert_eq!(with_write_timeout(pin!(stalled), &write_timeout, &unread).await, None);
        assert_eq!(started.elapsed().as_secs(), IDLE.as_secs());
    }
}

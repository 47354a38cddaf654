//! How long an answer waits for an agent that takes nothing of it: for its route's idle timeout.
use crate::proxy::idle::Idle;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use prometheus::IntCounter;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

tokio::task_local! {
    /// Of the task that serves the agent: a connection of HTTP/1.1, one request of HTTP/2. It reaches the places that know, on both
    /// sides of hyper. Relays are tasks of their own and have none: they are timed in both directions together.
    static OFFER: Offer;
}

/// What is held out to the agent.
#[derive(Default)]
struct Offer {
    idle: RefCell<Idle>,
    /// Whether there is something that it has not taken.
    waits: Cell<bool>,
}

/// From here on the agent may take nothing for so long.
pub(crate) fn allow(idle: Duration) {
    // No task of the agent's: nobody to be patient with.
    let _ = OFFER.try_with(|offer| offer.idle.borrow_mut().allow(idle));
}

/// The agent is given something, and takes it now or later.
pub(super) fn offered() {
    let _ = OFFER.try_with(|offer| offer.waits.set(true));
}

/// The agent has taken something.
pub(super) fn taken() {
    let _ = OFFER.try_with(|offer| {
        offer.waits.set(false);
        offer.idle.borrow_mut().moved();
    });
}

/// Serves the agent, and gives it up where it takes nothing, which is counted.
pub(crate) async fn patient<F: Future + Unpin>(mut serving: F, given_up: &IntCounter) -> Option<F::Output> {
    let watched = poll_fn(|cx| {
        if let Poll::Ready(output) = Pin::new(&mut serving).poll(cx) {
            return Poll::Ready(Some(output));
        }
        let is_over = OFFER.with(|offer| offer.waits.get() && offer.idle.borrow_mut().is_over(cx));
        if is_over { Poll::Ready(None) } else { Poll::Pending }
    });
    let served = OFFER.scope(Offer::default(), watched).await;
    if served.is_none() {
        given_up.inc();
        tracing::info!("an answer was given up: the agent took nothing of it for the route's idle timeout");
    }
    served
}

/// A body over HTTP/2. What is asked for next has room within the agent's window; what was given before has been taken, but for what
/// hyper and h2 hold: a chunk.
pub(crate) struct Offered<B>(pub(crate) B);

impl<B: Body<Data = Bytes> + Unpin> Body for Offered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        taken();
        let polled = Pin::new(&mut self.0).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            offered();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, sleep};

    const IDLE: Duration = Duration::from_secs(30);

    fn counter() -> IntCounter {
        IntCounter::new("given_up", "A counter.").expect("a counter")
    }

    /// Writes eight bytes to an agent who has room for one, by the way of a connection over HTTP/1.1.
    async fn written(agent: impl Future<Output = ()>, stream: tokio::io::DuplexStream) -> (bool, u64) {
        let given_up = counter();
        let mut strict = super::super::request_guard::Strict::new(stream, 1024, std::sync::Arc::default());
        let serving = async {
            allow(IDLE);
            strict.write_all(b"12345678").await
        };
        let serving = pin!(serving);
        let (written, ()) = tokio::join!(patient(serving, &given_up), agent);
        (written.is_some(), given_up.get())
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_reads_slowly_is_served_and_one_that_stops_is_not() {
        for (bytes, served) in [(8, true), (4, false)] {
            let (mut near, far) = tokio::io::duplex(1);
            let agent = async move {
                for _ in 0..bytes {
                    sleep(IDLE - Duration::from_secs(1)).await;
                    near.read_u8().await.expect("a byte");
                }
                sleep(IDLE * 2).await;
            };
            assert_eq!(written(agent, far).await, (served, u64::from(!served)), "after {bytes} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_slowly_is_nobodys_fault() {
        let given_up = counter();
        let serving = async {
            allow(IDLE);
            offered();
            taken();
            sleep(IDLE * 10).await;
        };
        assert_eq!(patient(pin!(serving), &given_up).await, Some(()));
        let started = Instant::now();
        let serving = async {
            allow(IDLE);
            offered();
            std::future::pending::<()>().await;
        };
        assert_eq!(patient(pin!(serving), &given_up).await, None);
        assert_eq!(started.elapsed().as_secs(), IDLE.as_secs());
    }
}

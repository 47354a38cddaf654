//! `Expect: 100-continue` (RFC 9110 §10.1.1), end to end: the body of a request is held back until
//! the upstream asks for it.
use futures_util::task::AtomicWaker;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// How long a body is held back for an upstream that says nothing: a client ought not to wait for
/// an indefinite period, because the upstream may not know the expectation.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Holds the body of a request back.
pub(super) struct HeldBack {
    asked: Arc<Asked>,
    /// Set with the first poll: the time begins when the request has been sent.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Whether the upstream has asked for the body. It consists of atomics because hyper demands that
/// what reports an informational response is `Sync`.
#[derive(Default)]
pub(super) struct Asked {
    is_asked: AtomicBool,
    waker: AtomicWaker,
}

impl HeldBack {
    pub(super) fn new() -> Self {
        Self { asked: Arc::default(), timer: None }
    }

    /// By which the upstream's connection reports that it has asked.
    pub(super) fn asked(&self) -> Arc<Asked> {
        Arc::clone(&self.asked)
    }

    /// Waits until the upstream asks for the body, or has said nothing for long enough.
    pub(super) fn poll_asked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.asked.waker.register(cx.waker());
        if self.asked.is_asked.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.timer.get_or_insert_with(|| Box::pin(sleep(MAX_WAIT))).as_mut().poll(cx)
    }
}

impl Asked {
    /// Records that the upstream asks for the body.
    pub(super) fn report(&self) {
        self.is_asked.store(true, Ordering::Release);
        self.waker.wake();
    }
}

//! What moves of one request, in both directions: the state that its upload, its answer and its
//! [`super::session::Session`] share.
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

/// The bytes of a request and its answer, and when something last moved.
#[derive(Debug)]
pub(super) struct Transfer {
    last: Cell<Instant>,
    /// When the whole must have ended, if that is limited.
    end: Cell<Option<Instant>>,
    /// Whether the answer has moved since `last` was set. It spares a look at the clock for each
    /// frame.
    has_moved: Cell<bool>,
    request_bytes: Cell<u64>,
    response_bytes: Cell<u64>,
    upload: Cell<Upload>,
    fault: Cell<Option<UploadFault>>,
    has_left: Cell<bool>,
    /// Woken when the upload ends.
    waker: RefCell<Option<Waker>>,
}

/// How far the body of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    /// The upstream has all of it, or will get no more of it.
    Ended,
    /// The upstream has to ask for it.
    HeldBack,
    /// The agent has to send more.
    WaitsForAgent,
    /// The upstream has to take more.
    WaitsForUpstream,
}

/// Why an upload was abandoned when the agent is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadFault {
    /// The body is larger than its route allows.
    TooLarge,
    /// The body broke off, or was not framed as declared.
    Broken,
    /// No data arrived within the route's idle timeout.
    Idle,
    /// The request as a whole took too long before all of the body had arrived.
    Total,
}

impl Transfer {
    /// The transfer of a request without a body to wait for.
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            last: Cell::new(Instant::now()),
            end: Cell::new(None),
            has_moved: Cell::new(false),
            request_bytes: Cell::new(0),
            response_bytes: Cell::new(0),
            upload: Cell::new(Upload::Ended),
            fault: Cell::new(None),
            has_left: Cell::new(false),
            waker: RefCell::new(None),
        })
    }

    /// When something last moved in either direction.
    pub(super) fn last(&self) -> Instant {
        if self.has_moved.take() {
            self.last.set(Instant::now());
        }
        self.last.get()
    }

    /// Limits when the whole must have ended.
    pub(super) fn set_end(&self, end: Option<Instant>) {
        self.end.set(end);
    }

    /// `due`, or when the whole must have ended, if that is earlier.
    pub(super) fn not_after_end(&self, due: Instant) -> Instant {
        self.end.get().map_or(due, |end| end.min(due))
    }

    /// Whether the whole has taken too long.
    pub(super) fn is_past_end(&self) -> bool {
        self.end.get().is_some_and(|end| end <= Instant::now())
    }

    /// Waits for `future`, at most until the whole must have ended. `None` if it took too long.
    pub(super) async fn before_end<F: Future>(&self, future: F) -> Option<F::Output> {
        match self.end.get() {
            None => Some(future.await),
            Some(end) => timeout_at(end, future).await.ok(),
        }
    }

    /// Records that something moves now: an attempt begins, or a part of the upload has passed.
    pub(super) fn touch(&self) {
        self.last.set(Instant::now());
    }

    /// Records whether the request has been handed to a connection, which may have sent it.
    pub(super) fn set_has_left(&self, has_left: bool) {
        self.has_left.set(has_left);
    }

    /// Whether the request may have reached an upstream.
    pub(super) fn has_left(&self) -> bool {
        self.has_left.get()
    }

    /// Records bytes that go to the upstream.
    pub(super) fn count_request(&self, bytes: usize) {
        self.request_bytes.set(self.request_bytes.get() + bytes as u64);
    }

    /// Records bytes that go to the agent.
    pub(super) fn count_response(&self, bytes: usize) {
        self.response_bytes.set(self.response_bytes.get() + bytes as u64);
        self.has_moved.set(true);
    }

    /// The bytes of bodies, relays and tunnels that went to the upstream.
    pub(super) fn request_bytes(&self) -> u64 {
        self.request_bytes.get()
    }

    /// The bytes of bodies, relays and tunnels that went to the agent.
    pub(super) fn response_bytes(&self) -> u64 {
        self.response_bytes.get()
    }

    /// Records that there is a body to send.
    pub(super) fn begin_upload(&self) {
        self.upload.set(Upload::WaitsForUpstream);
    }

    /// Records that the upstream has to ask for the upload before it begins.
    pub(super) fn hold_upload_back(&self) {
        self.upload.set(Upload::HeldBack);
    }

    /// Whether the upstream has not asked for the upload.
    pub(super) fn upload_is_held_back(&self) -> bool {
        self.upload.get() == Upload::HeldBack
    }

    /// Records that the agent has to send more before the upload can go on.
    pub(super) fn await_agent(&self) {
        self.upload.set(Upload::WaitsForAgent);
    }

    /// Records that a part of the upload has passed.
    pub(super) fn advance_upload(&self) {
        self.upload.set(Upload::WaitsForUpstream);
        self.touch();
    }

    /// Records that the upstream has the whole upload, or will get no more of it.
    pub(super) fn end_upload(&self) {
        if self.upload.replace(Upload::Ended) != Upload::Ended {
            self.touch();
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    /// Records why the upload is abandoned.
    pub(super) fn fail_upload(&self, fault: UploadFault) {
        self.fault.set(Some(fault));
        self.touch();
    }

    /// Whether the upstream has the whole request, or will get no more of it.
    pub(super) fn upload_has_ended(&self) -> bool {
        self.upload.get() == Upload::Ended
    }

    /// Whether only the upstream can move the upload on. One that waits for the agent ends by
    /// itself when the agent leaves.
    pub(super) fn upload_waits_for_upstream(&self) -> bool {
        matches!(self.upload.get(), Upload::WaitsForUpstream | Upload::HeldBack)
    }

    /// Waits until the upload has ended.
    pub(super) async fn upload_ended(&self) {
        poll_fn(|cx| {
            if self.upload_has_ended() {
                return Poll::Ready(());
            }
            self.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Why the upload was abandoned, if the agent is at fault.
    pub(super) fn fault(&self) -> Option<UploadFault> {
        self.fault.get()
    }

    /// The fault if nothing moves because the agent sends nothing.
    pub(super) fn stall(&self) -> Option<UploadFault> {
        (self.upload.get() == Upload::WaitsForAgent).then_some(UploadFault::Idle)
    }
}

/// Ends a transfer in which nothing moves in either direction, or which takes too long as a whole.
/// Its timer is registered only when something has to be waited for, which most small bodies never
/// need.
pub(super) struct Watchdog {
    idle: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Watchdog {
    /// Allows nothing to move for `idle`.
    pub(super) fn new(idle: Duration) -> Self {
        Self { idle, sleep: None }
    }

    /// Whether the transfer must end now. It is called only while waiting, and wakes the task when
    /// that may have changed.
    pub(super) fn poll_expired(&mut self, transfer: &Transfer, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let due = transfer.not_after_end(transfer.last() + self.idle);
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if sleep.deadline() >= due {
                return Poll::Ready(());
            }
            // Something has moved since the timer was set.
            sleep.as_mut().reset(due);
        }
    }

    /// Waits until the transfer must end.
    pub(super) async fn expired(mut self, transfer: &Transfer) {
        poll_fn(|cx| self.poll_expired(transfer, cx)).await;
    }
}

//! The body of a request to an upstream, and how far it has been sent.
use crate::proxy::timed_body::{BodyError, PolledFrame, TimedBody};
use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The body of a request to an upstream.
pub(crate) enum RequestBody {
    /// Streamed as it arrives.
    Streamed(Box<Upload>),
    /// Buffered for a replay; `None` when it is empty or has been sent.
    Buffered(Option<Bytes>),
}

/// A body that is streamed to the upstream.
pub(crate) struct Upload {
    body: TimedBody<Incoming>,
    remaining: Option<u64>,
    progress: Rc<Progress>,
    reserved: Arc<[HeaderName]>,
}

/// What the route demands of the body of a request.
pub(crate) struct UploadRules {
    /// The most bytes that the body may have, if there is a limit.
    pub(crate) limit: Option<u64>,
    /// The longest time without data.
    pub(crate) idle: Duration,
    /// Fields that its trailers must not carry.
    pub(crate) reserved: Arc<[HeaderName]>,
}

/// The progress of an upload. The response timeout starts when it ends.
#[derive(Debug)]
pub(crate) struct Progress {
    last: Cell<Instant>,
    /// Whether the upload waits for the agent and not for the upstream.
    waiting: Cell<bool>,
    ended: Cell<bool>,
    fault: Cell<Option<UploadFault>>,
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
}

impl Progress {
    /// The progress of a request without a body to wait for.
    pub(crate) fn new() -> Rc<Self> {
        let (last, fault) = (Cell::new(Instant::now()), Cell::new(None));
        Rc::new(Self { last, waiting: Cell::new(false), ended: Cell::new(true), fault })
    }

    /// When the last frame passed, or the request began to be sent.
    pub(super) fn last(&self) -> Instant {
        self.last.get()
    }

    /// Whether the upstream has the whole request, or will get no more of it.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Records that data has moved now.
    pub(super) fn record(&self) {
        self.last.set(Instant::now());
    }

    pub(super) fn fault(&self) -> Option<UploadFault> {
        self.fault.get()
    }

    /// The fault if no data moves because the agent sends none.
    pub(super) fn stall(&self) -> Option<UploadFault> {
        (self.waiting.get() && !self.ended.get()).then_some(UploadFault::Idle)
    }
}

impl RequestBody {
    pub(crate) fn streamed(inner: Incoming, rules: UploadRules, progress: &Rc<Progress>) -> Self {
        progress.ended.set(false);
        let UploadRules { limit: remaining, idle, reserved } = rules;
        let body = TimedBody::new(inner, idle);
        Self::Streamed(Box::new(Upload { body, remaining, progress: Rc::clone(progress), reserved }))
    }

    /// Buffers the whole body for a replay. The route's idle timeout applies here, too.
    pub(crate) async fn buffer(self, progress: &Progress) -> Result<Self, UploadFault> {
        let collected = self.collect().await;
        collected
            .map(|body| Self::Buffered(Some(body.to_bytes())))
            .map_err(|_| progress.fault().unwrap_or(UploadFault::Broken))
    }
}

impl Upload {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame {
        let polled = self.body.poll_frame(&self.reserved, cx);
        let Poll::Ready(Some(Ok(frame))) = &polled else { return polled };
        if let Some(remaining) = &mut self.remaining {
            let size = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(rest) = remaining.checked_sub(size) else { return Poll::Ready(Some(Err(BodyError::TooLarge))) };
            *remaining = rest;
        }
        polled
    }

    fn observe(&self, polled: &PolledFrame) {
        let progress = &self.progress;
        progress.waiting.set(polled.is_pending());
        match polled {
            Poll::Pending => return,
            Poll::Ready(Some(Ok(_))) => progress.ended.set(self.body.is_end_stream()),
            Poll::Ready(Some(Err(error))) => progress.fault.set(Some(match error {
                BodyError::TooLarge => UploadFault::TooLarge,
                BodyError::Idle => UploadFault::Idle,
                BodyError::Source(_) => UploadFault::Broken,
            })),
            Poll::Ready(None) => progress.ended.set(true),
        }
        progress.record();
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // hyper drops a body that it has sent, or that the upstream does not want.
        if !self.progress.ended.replace(true) {
            self.progress.record();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        match self.get_mut() {
            Self::Buffered(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Streamed(upload) => {
                let polled = upload.poll_frame(cx);
                upload.observe(&polled);
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(upload) => upload.body.is_end_stream(),
            Self::Buffered(body) => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(upload) => upload.body.size_hint(),
            Self::Buffered(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
        }
    }
}

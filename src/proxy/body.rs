//! Bodies, streamed both ways and never collected: what passes through here is a frame at a time.
use super::headers::strip_trailers;
use super::idle::Idle;
use super::traffic::InFlight;
use super::upstream::Lease;
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

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection that it came from broke.
    #[error(transparent)]
    Source(#[from] hyper::Error),
    /// It is larger than its route allows.
    #[error("the body is larger than its route allows")]
    TooLarge,
    /// Nothing moved for the route's idle timeout.
    #[error("nothing moved for the idle timeout")]
    Idle,
}

/// The body of a response to the agent.
pub enum AgentBody {
    /// The upstream's, streamed.
    Upstream(Box<Streamed>),
    /// Our own, or none.
    Message(Option<Bytes>),
}

impl AgentBody {
    /// Our own text.
    pub fn message(text: Bytes) -> Self {
        Self::Message(Some(text))
    }

    /// None.
    pub fn empty() -> Self {
        Self::Message(None)
    }
}

/// An upstream's response body, with what must live exactly as long: the connection that it comes from, and the request's place
/// among those in flight.
pub struct Streamed {
    inner: Incoming,
    idle: Idle,
    lease: Option<Lease>,
    _in_flight: InFlight,
}

impl Streamed {
    pub(super) fn new(inner: Incoming, idle: Duration, lease: Lease, in_flight: InFlight) -> Self {
        Self { inner, idle: Idle::new(idle), lease: Some(lease), _in_flight: in_flight }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        // A connection with an unread rest must not serve another request.
        if self.inner.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}

impl Body for AgentBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Upstream(streamed) => {
                let polled = poll_source(&mut streamed.inner, (&mut streamed.idle, &[]), cx);
                if matches!(polled, Poll::Ready(None))
                    && let Some(lease) = streamed.lease.take()
                {
                    lease.give_back();
                }
                polled
            }
            Self::Message(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream(streamed) => streamed.inner.is_end_stream(),
            Self::Message(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream(streamed) => streamed.inner.size_hint(),
            Self::Message(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
        }
    }
}

/// The body of a request to the upstream.
pub(super) enum RequestBody {
    /// The agent's, streamed.
    Streamed(Box<Upload>),
    /// Kept for a replay, or none.
    Kept(Option<Bytes>),
}

/// An agent's body on its way up.
pub(super) struct Upload {
    inner: Incoming,
    left: Option<u64>,
    idle: Idle,
    progress: Rc<Progress>,
    reserved: Arc<[HeaderName]>,
}

/// What an upload is held to by its route.
pub(super) struct UploadRules {
    /// Bytes; absent: any size.
    pub(super) limit: Option<u64>,
    /// The longest without a byte.
    pub(super) idle: Duration,
    /// Fields that no trailer may have.
    pub(super) reserved: Arc<[HeaderName]>,
}

/// How far an upload is, for the deadline of the response, which begins when it ends.
#[derive(Debug)]
pub(super) struct Progress {
    last: Cell<Instant>,
    /// The agent is waited for, and not the upstream.
    waiting: Cell<bool>,
    ended: Cell<bool>,
    fault: Cell<Option<UploadFault>>,
}

/// Why an upload was given up, where that was the agent's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadFault {
    /// It is larger than its route allows.
    TooLarge,
    /// It broke off, or was not framed as it said.
    Broken,
    /// Nothing came for the route's idle timeout.
    Idle,
}

impl Progress {
    /// None yet, of a request without a body to wait for.
    pub(super) fn new() -> Rc<Self> {
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

    /// Something passed.
    pub(super) fn moved(&self) {
        self.last.set(Instant::now());
    }

    pub(super) fn fault(&self) -> Option<UploadFault> {
        self.fault.get()
    }

    /// Whose fault it is that nothing moves: the agent's, where it is the one that is waited for.
    pub(super) fn stall(&self) -> Option<UploadFault> {
        (self.waiting.get() && !self.ended.get()).then_some(UploadFault::Idle)
    }
}

impl RequestBody {
    pub(super) fn streamed(inner: Incoming, rules: UploadRules, progress: &Rc<Progress>) -> Self {
        progress.ended.set(false);
        let UploadRules { limit: left, idle, reserved } = rules;
        Self::Streamed(Box::new(Upload { inner, left, idle: Idle::new(idle), progress: Rc::clone(progress), reserved }))
    }
}

impl RequestBody {
    /// Collects it for a replay. The route's idle timeout holds here too.
    pub(super) async fn keep(self, progress: &Progress) -> Result<Self, UploadFault> {
        let collected = self.collect().await;
        collected
            .map(|kept| Self::Kept(Some(kept.to_bytes())))
            .map_err(|_| progress.fault().unwrap_or(UploadFault::Broken))
    }
}

impl Upload {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = poll_source(&mut self.inner, (&mut self.idle, &self.reserved), cx);
        let Poll::Ready(Some(Ok(frame))) = &polled else { return polled };
        if let Some(left) = &mut self.left {
            let size = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(rest) = left.checked_sub(size) else { return Poll::Ready(Some(Err(BodyError::TooLarge))) };
            *left = rest;
        }
        polled
    }

    fn observe(&self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) {
        let progress = &self.progress;
        progress.waiting.set(polled.is_pending());
        match polled {
            Poll::Pending => return,
            Poll::Ready(Some(Ok(_))) => progress.ended.set(self.inner.is_end_stream()),
            Poll::Ready(Some(Err(error))) => progress.fault.set(Some(match error {
                BodyError::TooLarge => UploadFault::TooLarge,
                BodyError::Idle => UploadFault::Idle,
                BodyError::Source(_) => UploadFault::Broken,
            })),
            Poll::Ready(None) => progress.ended.set(true),
        }
        progress.moved();
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // hyper lets go of a body that is done with, or that the upstream does not want.
        if !self.progress.ended.replace(true) {
            self.progress.moved();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Kept(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Streamed(upload) => {
                let polled = upload.poll_frame(cx);
                upload.observe(&polled);
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(upload) => upload.inner.is_end_stream(),
            Self::Kept(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(upload) => upload.inner.size_hint(),
            Self::Kept(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
        }
    }
}

fn poll_source(
    inner: &mut Incoming,
    (idle, reserved): (&mut Idle, &[HeaderName]),
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    match Pin::new(inner).poll_frame(cx) {
        Poll::Ready(Some(Ok(frame))) => {
            idle.moved();
            // RFC 9110 §6.5.1: a trailer never carries a credential or framing.
            Poll::Ready(Some(Ok(match frame.into_trailers() {
                Ok(trailers) => Frame::trailers(strip_trailers(trailers, reserved)),
                Err(frame) => frame,
            })))
        }
        Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
        Poll::Ready(None) => Poll::Ready(None),
        Poll::Pending if idle.is_over(cx) => Poll::Ready(Some(Err(BodyError::Idle))),
        Poll::Pending => Poll::Pending,
    }
}

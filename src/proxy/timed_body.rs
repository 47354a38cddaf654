//! A body that fails when it stalls, and whose trailers carry no credential.
use super::headers::strip_trailers;
use super::idle::IdleTimer;
use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection that it came from broke.
    #[error(transparent)]
    Source(#[from] hyper::Error),
    /// It is larger than its route allows.
    #[error("the body is larger than its route allows")]
    TooLarge,
    /// No frame arrived within the route's idle timeout.
    #[error("no data within the idle timeout")]
    Idle,
}

/// The result of polling a body for its next frame.
pub(super) type PolledFrame = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// A body with an idle timeout between its frames.
pub(super) struct TimedBody<B> {
    inner: B,
    idle: IdleTimer,
}

impl<B> TimedBody<B>
where
    B: Body<Data = Bytes, Error = hyper::Error> + Unpin,
{
    /// Fails with [`BodyError::Idle`] once nothing has arrived for `idle`.
    pub(super) fn new(inner: B, idle: Duration) -> Self {
        Self { inner, idle: IdleTimer::new(idle) }
    }

    /// Polls for the next frame. `reserved` names fields that are removed from trailers in addition
    /// to those that no trailer may carry (RFC 9110 §6.5.1).
    pub(super) fn poll_frame(&mut self, reserved: &[HeaderName], cx: &mut Context<'_>) -> PolledFrame {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.reset();
                Poll::Ready(Some(Ok(match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(strip_trailers(trailers, reserved)),
                    Err(frame) => frame,
                })))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if self.idle.has_expired(cx) => Poll::Ready(Some(Err(BodyError::Idle))),
            Poll::Pending => Poll::Pending,
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

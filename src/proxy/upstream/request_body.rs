//! The body of a request to an upstream.
use crate::proxy::body_error::{BodyError, PolledFrame};
use crate::proxy::headers::strip_trailers;
use crate::proxy::received_body::ReceivedBody;
use crate::proxy::transfer::{Transfer, UploadFault, Watchdog};
use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The body of a request to an upstream.
pub(crate) enum RequestBody {
    /// Streamed as it arrives.
    Streamed(Box<Upload>),
    /// Buffered for a replay; `None` when it is empty or has been sent.
    Buffered(Option<Bytes>),
}

/// A body that is streamed to the upstream.
pub(crate) struct Upload {
    body: ReceivedBody,
    rules: UploadRules,
    transfer: Rc<Transfer>,
}

/// What the route demands of the body of a request.
pub(crate) struct UploadRules {
    /// The most bytes that may still come, if there is a limit.
    pub(crate) limit: Option<u64>,
    /// Fields that its trailers must not carry.
    pub(crate) reserved: Arc<[HeaderName]>,
}

impl RequestBody {
    pub(crate) fn streamed(body: ReceivedBody, rules: UploadRules, transfer: &Rc<Transfer>) -> Self {
        transfer.begin_upload();
        Self::Streamed(Box::new(Upload { body, rules, transfer: Rc::clone(transfer) }))
    }

    /// Buffers the whole body for a replay, of which some part must arrive within each `idle`.
    pub(crate) async fn buffer(self, transfer: &Transfer, idle: Duration) -> Result<Self, UploadFault> {
        let watchdog = Watchdog::new(idle);
        let collected = tokio::select! {
            collected = self.collect() => collected,
            () = watchdog.expired(transfer) => {
                transfer.fail_upload(UploadFault::Idle);
                return Err(UploadFault::Idle);
            }
        };
        collected
            .map(|body| Self::Buffered(Some(body.to_bytes())))
            .map_err(|_| transfer.fault().unwrap_or(UploadFault::Broken))
    }
}

impl Upload {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => {
                self.transfer.fail_upload(UploadFault::Broken);
                return Poll::Ready(Some(Err(error.into())));
            }
            Poll::Ready(None) => {
                self.transfer.end_upload();
                return Poll::Ready(None);
            }
            Poll::Pending => {
                self.transfer.await_agent();
                return Poll::Pending;
            }
        };
        let frame = match frame.into_trailers() {
            Ok(trailers) => Frame::trailers(strip_trailers(trailers, &self.rules.reserved)),
            Err(frame) => frame,
        };
        let size = frame.data_ref().map_or(0, Bytes::len);
        if let Some(remaining) = &mut self.rules.limit {
            let Some(rest) = remaining.checked_sub(size as u64) else {
                self.transfer.fail_upload(UploadFault::TooLarge);
                return Poll::Ready(Some(Err(BodyError::TooLarge)));
            };
            *remaining = rest;
        }
        self.transfer.count_request(size);
        if self.body.is_end_stream() {
            self.transfer.end_upload();
        } else {
            self.transfer.advance_upload();
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // hyper drops a body that it has sent, or that the upstream does not want.
        self.transfer.end_upload();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        match self.get_mut() {
            Self::Buffered(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Streamed(upload) => upload.poll_frame(cx),
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

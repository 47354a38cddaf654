//! The body of a request to an upstream.
use super::held_back::HeldBack;
use crate::proxy::body_error::{BodyError, PolledFrame};
use crate::proxy::headers::strip_trailers;
use crate::proxy::received_body::ReceivedBody;
use crate::proxy::transfer::{Transfer, UploadFault, Watchdog};
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Request, StatusCode};
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
    /// Present until the upstream asks for the body, if it is to be asked.
    held_back: Option<HeldBack>,
    rules: UploadRules,
    transfer: Rc<Transfer>,
}

/// What the route demands of the body of a request.
pub(crate) struct UploadRules {
    /// The most bytes that may still come, if there is a limit.
    pub(crate) limit: Option<u64>,
    /// Fields that its trailers must not carry.
    pub(crate) reserved: Arc<[HeaderName]>,
    /// Whether the agent waits until the upstream asks for the body.
    pub(crate) expects_continue: bool,
}

impl RequestBody {
    pub(crate) fn streamed(body: ReceivedBody, rules: UploadRules, transfer: &Rc<Transfer>) -> Self {
        transfer.begin_upload();
        Self::Streamed(Box::new(Upload {
            body,
            held_back: rules.expects_continue.then(HeldBack::new),
            rules,
            transfer: Rc::clone(transfer),
        }))
    }

    /// Makes a request ask the upstream for `100-continue` (RFC 9110 §10.1.1), if its body is held
    /// back. Only HTTP/1.1 can do that: hyper does not report informational responses over HTTP/2.
    pub(super) fn expect_continue(request: &mut Request<Self>) {
        let Self::Streamed(upload) = request.body() else { return };
        let Some(asked) = upload.held_back.as_ref().map(HeldBack::asked) else { return };
        request.headers_mut().insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        hyper::ext::on_informational(request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                asked.report();
            }
        });
    }

    /// Lets the body go without being asked for it.
    pub(super) fn release(&mut self) {
        if let Self::Streamed(upload) = self {
            upload.held_back = None;
        }
    }

    /// Buffers the whole body for a replay, of which some part must arrive within each `idle`.
    pub(crate) async fn buffer(mut self, transfer: &Transfer, idle: Duration) -> Result<Self, UploadFault> {
        self.release();
        let watchdog = Watchdog::new(idle);
        let collected = tokio::select! {
            collected = self.collect() => collected,
            () = watchdog.expired(transfer) => {
                let fault = if transfer.is_past_end() { UploadFault::Total } else { UploadFault::Idle };
                transfer.fail_upload(fault);
                return Err(fault);
            }
        };
        collected
            .map(|body| Self::Buffered(Some(body.to_bytes())))
            .map_err(|_| transfer.fault().unwrap_or(UploadFault::Broken))
    }
}

impl Upload {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame {
        if let Some(held_back) = &mut self.held_back {
            if held_back.poll_asked(cx).is_pending() {
                self.transfer.hold_upload_back();
                return Poll::Pending;
            }
            self.held_back = None;
        }
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

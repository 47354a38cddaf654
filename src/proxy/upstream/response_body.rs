//! The body of an upstream's response, which owns its connection until it has been read.
use super::origin::Lease;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll};

/// An upstream's response body with the lease of the connection that it is read from. The lease is
/// given back when the body is dropped, if the body has been read to its end.
pub(crate) struct UpstreamBody {
    inner: Incoming,
    lease: Option<Lease>,
    has_ended: bool,
}

impl UpstreamBody {
    pub(super) fn new(inner: Incoming, lease: Lease) -> Self {
        Self { inner, lease: Some(lease), has_ended: false }
    }

    /// The lease of the connection, as long as this body has it.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Takes the lease of the connection, for a response that switches protocols or whose upload is
    /// not over. Such a connection does not return to the pool with the end of the response.
    pub(crate) fn take_lease(&mut self) -> Option<Lease> {
        self.lease.take()
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        self.has_ended |= matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // A connection with unread data must not serve another request.
        if self.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}

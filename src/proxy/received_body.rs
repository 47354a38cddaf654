//! The body of a request of the agent. Whoever drops it early need not care for an agent that is
//! still writing: the rest is read and discarded. Otherwise the agent would find its connection
//! reset, and many clients then never read the answer that says why.
use bytes::Bytes;
use http::{Request, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long the rest of a body is read.
const MAX_TIME: Duration = Duration::from_secs(5);
/// How many bytes of the rest are read.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The body of a request of the agent.
pub(crate) struct ReceivedBody {
    /// Absent only while this value is dropped.
    inner: Option<Incoming>,
    /// Whether the rest is discarded: a stream of HTTP/2 ends without its connection.
    is_http1: bool,
    /// Whether the agent waits for a 100 before it writes. The first poll makes hyper send it.
    is_awaited: bool,
}

impl ReceivedBody {
    /// The body of `request`.
    pub(crate) fn of(request: Request<Incoming>) -> Request<Self> {
        let is_http1 = request.version() < Version::HTTP_2;
        let has_body = !request.body().is_end_stream();
        let is_awaited =
            has_body && request.version() == Version::HTTP_11 && request.headers().contains_key(header::EXPECT);
        request.map(|body| Self { inner: Some(body), is_http1, is_awaited })
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.is_awaited = false;
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for ReceivedBody {
    fn drop(&mut self) {
        if self.is_http1
            && !self.is_awaited
            && let Some(rest) = self.inner.take().filter(|rest| !rest.is_end_stream())
        {
            // Its connection ends with the limits at the latest, and with the agent.
            tokio::task::spawn_local(tokio::time::timeout(MAX_TIME, discard(rest)));
        }
    }
}

async fn discard(mut rest: Incoming) {
    let mut remaining = MAX_BYTES;
    while let Some(Ok(frame)) = rest.frame().await {
        let size = frame.data_ref().map_or(0, Bytes::len);
        let Some(left) = remaining.checked_sub(size) else { return };
        remaining = left;
    }
}

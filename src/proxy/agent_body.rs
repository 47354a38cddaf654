//! The body of a response to the agent, streamed and never collected.
use super::timed_body::{BodyError, PolledFrame, TimedBody};
use super::traffic::InFlight;
use super::upstream::UpstreamBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// The body of a response to the agent.
pub(super) enum AgentBody {
    /// The upstream's body, streamed.
    Upstream(Box<StreamedBody>),
    /// A message of the proxy itself; `None` when it is empty or has been read.
    Message(Option<Bytes>),
}

/// An upstream's body with its request's place among those in flight.
pub(super) struct StreamedBody {
    body: TimedBody<UpstreamBody>,
    _in_flight: InFlight,
}

impl AgentBody {
    /// An empty body.
    pub(super) fn empty() -> Self {
        Self::Message(None)
    }

    /// Streams the upstream's body; it fails once nothing has arrived for `idle`.
    pub(super) fn streamed(body: UpstreamBody, idle: Duration, in_flight: InFlight) -> Self {
        Self::Upstream(Box::new(StreamedBody { body: TimedBody::new(body, idle), _in_flight: in_flight }))
    }
}

impl From<Bytes> for AgentBody {
    fn from(message: Bytes) -> Self {
        Self::Message(Some(message).filter(|message| !message.is_empty()))
    }
}

impl Body for AgentBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        match self.get_mut() {
            Self::Upstream(streamed) => streamed.body.poll_frame(&[], cx),
            Self::Message(message) => Poll::Ready(message.take().map(|message| Ok(Frame::data(message)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream(streamed) => streamed.body.is_end_stream(),
            Self::Message(message) => message.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream(streamed) => streamed.body.size_hint(),
            Self::Message(message) => SizeHint::with_exact(message.as_ref().map_or(0, |message| message.len() as u64)),
        }
    }
}

//! The body of a response to the agent, streamed and never collected.
use super::body_error::{BodyError, PolledFrame};
use super::dialect::is_unauthenticated;
use super::ended::EndedBy;
use super::headers::strip_trailers;
use super::session::Session;
use super::transfer::Watchdog;
use super::upstream::{Lease, UpstreamBody, was_distrusted};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long an upload may go on once the agent has its whole answer.
const UPLOAD_LINGER: Duration = Duration::from_secs(5);

/// The body of a response to the agent.
pub(super) enum AgentBody {
    /// The upstream's body, streamed.
    Upstream(Box<StreamedBody>),
    /// A message of the proxy itself; `None` when it is empty or has been read.
    Message(Option<Bytes>),
}

/// An upstream's body with the session that ends with it.
pub(super) struct StreamedBody {
    body: UpstreamBody,
    watchdog: Watchdog,
    /// Present until it is finished, here or when this body is dropped.
    session: Option<Session>,
    /// What broke the answer off, until what came before it has been written.
    error: Option<hyper::Error>,
    unauthenticated: Option<Unauthenticated>,
}

/// What happens to the token of a gRPC call that the upstream refuses for it.
pub(super) type Unauthenticated = Box<dyn FnOnce()>;

impl AgentBody {
    /// An empty body.
    pub(super) fn empty() -> Self {
        Self::Message(None)
    }

    /// Streams the upstream's body. It fails once nothing has moved for `idle`.
    pub(super) fn streamed(body: UpstreamBody, idle: Duration, session: Session) -> Self {
        Self::Upstream(Box::new(StreamedBody {
            body,
            watchdog: Watchdog::new(idle),
            session: Some(session),
            error: None,
            unauthenticated: None,
        }))
    }

    /// Calls `unauthenticated` if the trailers say that a gRPC call was refused for its token.
    pub(super) fn or_unauthenticated(mut self, unauthenticated: Option<Unauthenticated>) -> Self {
        if let Self::Upstream(streamed) = &mut self {
            streamed.unauthenticated = unauthenticated;
        }
        self
    }
}

impl StreamedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame {
        if let Some(error) = self.error.take() {
            let by = if was_distrusted(&error) { EndedBy::Trust } else { EndedBy::Upstream };
            self.fail(by);
            return Poll::Ready(Some(Err(error.into())));
        }
        let Some(session) = &self.session else { return Poll::Ready(None) };
        // An upstream that always has more to send never makes the watchdog wait.
        if session.transfer().is_past_end() && !self.body.is_end_stream() {
            self.fail(EndedBy::Timeout);
            return Poll::Ready(Some(Err(BodyError::Timeout)));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                session.transfer().count_response(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(Ok(match frame.into_trailers() {
                    Ok(trailers) => {
                        if let Some(unauthenticated) =
                            self.unauthenticated.take().filter(|_| is_unauthenticated(&trailers))
                        {
                            unauthenticated();
                        }
                        Frame::trailers(strip_trailers(trailers, &[]))
                    }
                    Err(frame) => frame,
                })))
            }
            Poll::Ready(Some(Err(error))) => {
                // hyper drops what it has not written, the head included, once a body fails.
                // Without a byte of an answer, clients take the connection for a stale one and send
                // the request again, whatever its method. While the body is pending hyper writes.
                self.error = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match self.watchdog.poll_expired(session.transfer(), cx) {
                Poll::Ready(()) => {
                    self.fail(EndedBy::Timeout);
                    Poll::Ready(Some(Err(BodyError::Timeout)))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn fail(&mut self, by: EndedBy) {
        if let Some(session) = self.session.take() {
            tracing::info!(ended = by.as_str(), "an answer was broken off");
            self.end_upload(&session);
            session.fail(by);
        }
    }
}

impl StreamedBody {
    /// Ends an upload that has lost its answer. Dropping the answer is not enough over HTTP/2,
    /// where hyper does not poll the body of a request while the upstream takes nothing.
    fn end_upload(&mut self, session: &Session) {
        if session.transfer().upload_waits_for_upstream()
            && let Some(lease) = self.body.take_lease()
        {
            lease.abort();
        }
    }
}

impl Drop for StreamedBody {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        if !self.body.is_end_stream() {
            // The agent has left, or the process stops: the session finds out.
            self.end_upload(&session);
            return;
        }
        if session.transfer().upload_has_ended() {
            session.finish(EndedBy::Whole);
        } else {
            tokio::task::spawn_local(linger(session, self.body.take_lease()));
        }
    }
}

/// Lets the upload of a request that has been answered go on for a while. Then the connection to
/// the upstream ends, and with it the upload: hyper does not poll the body of a request while the
/// upstream takes nothing, so that nothing else would notice.
async fn linger(session: Session, lease: Option<Lease>) {
    // An upload that the upstream has not asked for will never begin.
    let time = if session.transfer().upload_is_held_back() { Duration::ZERO } else { UPLOAD_LINGER };
    let has_ended = tokio::time::timeout(time, session.transfer().upload_ended()).await.is_ok();
    match lease {
        Some(lease) if has_ended => lease.give_back(),
        Some(lease) => lease.abort(),
        None => {}
    }
    session.finish(EndedBy::Whole);
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
            Self::Upstream(streamed) => streamed.poll_frame(cx),
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

//! Why a streamed body ends early.
use bytes::Bytes;
use http_body::Frame;
use std::task::Poll;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection that it came from broke.
    #[error(transparent)]
    Source(#[from] hyper::Error),
    /// It is larger than its route allows.
    #[error("the body is larger than its route allows")]
    TooLarge,
    /// Nothing moved in either direction for the route's idle timeout, or the whole took too long.
    #[error("a timeout of the route has passed")]
    Timeout,
}

/// The result of polling a body for its next frame.
pub(super) type PolledFrame = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

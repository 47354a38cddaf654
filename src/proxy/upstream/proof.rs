//! What the failure of an attempt proves about the request.
use super::request_body::RequestBody;
use http::Request;
use std::error::Error as _;
use std::io;

/// What the failure of an attempt proves about the request.
pub(super) enum Proof {
    /// Nothing of it was written; this is the request.
    NotSent(Box<Request<RequestBody>>),
    /// The peer says that it did not process it: `REFUSED_STREAM`, or a stream beyond the last one
    /// of a GOAWAY (RFC 9113 §8.7).
    NotProcessed,
    /// The connection ended before a byte of the answer, so the request may have been processed.
    ConnectionEnded,
    /// The peer ended the stream before a byte of the answer, and the connection goes on.
    StreamReset,
    /// The attempt took longer than the route allows one to take, and may have been processed.
    Slow,
    /// The attempt failed for another reason, such as a malformed answer, which another attempt
    /// would not change.
    Failed,
}

impl Proof {
    /// What an error proves about a request that was written in part or in whole. `answered` is
    /// whether a byte of the answer has come.
    pub(super) fn of(error: &hyper::Error, answered: bool) -> Self {
        let http2 = causes(error).find_map(|cause| cause.downcast_ref::<h2::Error>());
        match http2 {
            // A GOAWAY or a reset of our own is about what the peer has sent.
            Some(cause) if !cause.is_remote() => Self::Failed,
            Some(cause) if cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM) => {
                Self::NotProcessed
            }
            // The peer asks for fewer requests.
            Some(cause) if cause.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) => Self::Failed,
            Some(_) => Self::StreamReset,
            None if answered || !has_ended(error) => Self::Failed,
            None => Self::ConnectionEnded,
        }
    }

    /// Whether the connection can take further requests.
    pub(super) fn spares_connection(error: &hyper::Error) -> bool {
        causes(error).filter_map(|cause| cause.downcast_ref::<h2::Error>()).any(h2::Error::is_reset)
    }
}

/// Whether the error is the end of the connection.
fn has_ended(error: &hyper::Error) -> bool {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return true;
    }
    let mut io = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    io.any(|error| is_end(error.kind()))
}

/// Whether an I/O error of this kind means that the peer, or a machine between, has ended the
/// connection.
pub(super) fn is_end(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}

/// The sources of an error.
pub(super) fn causes(error: &hyper::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}

//! Why the Workload API's stream ended or could not be opened, with messages that say what to do.
use super::Endpoint;
use std::error::Error;
use std::io;
use std::time::Duration;
use tonic::{Code, Status};

/// Why a stream ended, or could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StreamError {
    /// The socket could not be reached.
    Connect(io::ErrorKind, String),
    /// The connection was made, and nothing was received within this time.
    Silent(Duration),
    /// The call failed with `PermissionDenied`.
    Denied(String),
    /// The call failed with `InvalidArgument` or `Unimplemented`; a retry would fail the same way.
    NotWorkloadApi(String),
    /// The server ended the stream.
    Closed,
    /// The stream ended with another status.
    Broken(String),
    /// A message was larger than the limit.
    TooLarge(String),
    /// The stream was open for this long without delivering a usable SVID.
    NoUsableSvid(Duration),
    /// The SVID has expired or is about to, and the stream has delivered no new one.
    Overdue,
}

impl StreamError {
    pub(super) fn connect(error: &(dyn Error + 'static)) -> Self {
        let io = chain(error).find_map(|cause| cause.downcast_ref::<io::Error>());
        match io {
            Some(io) => Self::Connect(io.kind(), io.to_string()),
            None => {
                Self::Connect(io::ErrorKind::Other, chain(error).last().map_or_else(String::new, ToString::to_string))
            }
        }
    }

    pub(super) fn status(status: &Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::PermissionDenied => Self::Denied(message),
            Code::InvalidArgument | Code::Unimplemented => {
                Self::NotWorkloadApi(format!("{:?}: {message}", status.code()))
            }
            Code::OutOfRange => Self::TooLarge(message),
            code => Self::Broken(format!("{code:?}: {message}")),
        }
    }

    /// Returns a stable name.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Connect(io::ErrorKind::NotFound, _) => "no socket",
            Self::Connect(..) => "no connection",
            Self::Silent(_) => "silent",
            Self::Denied(_) => "denied",
            Self::NotWorkloadApi(_) => "not the Workload API",
            Self::Closed => "closed",
            Self::Broken(_) => "broken off",
            Self::TooLarge(_) => "too large",
            Self::NoUsableSvid(_) => "nothing usable",
            Self::Overdue => "overdue",
        }
    }

    /// Explains to people what is wrong at `endpoint` and what to do.
    pub(super) fn explain(&self, endpoint: &Endpoint) -> String {
        match self {
            Self::Connect(io::ErrorKind::NotFound, _) => format!(
                "the socket {endpoint} does not exist yet: start the SPIRE agent, or mount the directory of its socket here"
            ),
            Self::Connect(io::ErrorKind::ConnectionRefused, _) => {
                format!("nothing listens at {endpoint}: the SPIRE agent is not running")
            }
            Self::Connect(io::ErrorKind::PermissionDenied, _) => {
                format!("this process may not open {endpoint}: give its user access to the socket and its directory")
            }
            Self::Connect(io::ErrorKind::TimedOut, _) => {
                format!("{endpoint} does not accept a connection: the SPIRE agent may hang")
            }
            Self::Connect(_, why) => format!("{endpoint} cannot be reached: {why}"),
            Self::Silent(waited) => format!(
                "the Workload API at {endpoint} accepted the connection and sent nothing within {} s: the SPIRE agent may hang",
                waited.as_secs_f32()
            ),
            Self::Denied(message) => format!(
                "the Workload API at {endpoint} has no identity for this workload (PermissionDenied: {message}): \
                 register an entry whose selectors match this process"
            ),
            Self::NotWorkloadApi(message) => format!(
                "the server at {endpoint} rejects the call itself ({message}): check that it is a SPIFFE Workload API, \
                 and that nothing in between drops metadata; the call is retried only at long intervals"
            ),
            Self::Closed => format!("the Workload API at {endpoint} ended the stream"),
            Self::Broken(why) => format!("the stream from {endpoint} broke ({why})"),
            Self::TooLarge(why) => format!("the Workload API at {endpoint} sent a message over the size limit ({why})"),
            Self::NoUsableSvid(waited) => {
                format!("the Workload API at {endpoint} sent no usable SVID within {} s", waited.as_secs_f32())
            }
            Self::Overdue => format!("the Workload API at {endpoint} has not renewed the SVID in time"),
        }
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| <dyn Error>::source(*error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_classified_by_its_code() {
        let kind = |status: Status| StreamError::status(&status).kind();
        assert_eq!(kind(Status::permission_denied("no identity issued")), "denied");
        assert_eq!(kind(Status::invalid_argument("security header missing")), "not the Workload API");
        assert_eq!(kind(Status::unimplemented("")), "not the Workload API");
        assert_eq!(kind(Status::unavailable("")), "broken off");
        assert_eq!(kind(Status::out_of_range("")), "too large");
    }
}

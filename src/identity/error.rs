//! Why the Workload API's stream is not there, in words that say what to do, and how soon to try again.
use super::Endpoint;
use std::error::Error;
use std::io;
use std::time::Duration;
use tonic::{Code, Status};

/// Why a session ended, or never began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StreamError {
    /// The socket could not be reached.
    Connect(io::ErrorKind, String),
    /// Connected, nothing came.
    Silent(Duration),
    /// PermissionDenied.
    Denied(String),
    /// InvalidArgument or Unimplemented: asking again gives the same answer.
    NotWorkloadApi(String),
    /// The stream ended in order.
    Closed,
    /// It ended with another status.
    Broken(String),
    /// The answer was larger than any that we read.
    TooLarge(String),
    /// It was open, but brought no SVID that may be used for this long.
    NoUsableSvid(Duration),
    /// The SVID is near its end or over it, and the stream brought no new one.
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

    /// A stable name.
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

    /// For people: what is the matter at `endpoint`, and what to do.
    pub(super) fn explain(&self, endpoint: &Endpoint) -> String {
        match self {
            Self::Connect(io::ErrorKind::NotFound, _) => format!(
                "there is no socket at {endpoint} yet: start the SPIRE agent, or mount the directory of its socket here"
            ),
            Self::Connect(io::ErrorKind::ConnectionRefused, _) => {
                format!("nobody listens at {endpoint}: the SPIRE agent is not running")
            }
            Self::Connect(io::ErrorKind::PermissionDenied, _) => {
                format!("this process may not open {endpoint}: give its user access to the socket and its directory")
            }
            Self::Connect(io::ErrorKind::TimedOut, _) => {
                format!("{endpoint} takes no connection: does its agent hang?")
            }
            Self::Connect(_, why) => format!("{endpoint} cannot be reached: {why}"),
            Self::Silent(waited) => format!(
                "the Workload API at {endpoint} is connected and sent nothing within {} s: its agent hangs",
                waited.as_secs_f32()
            ),
            Self::Denied(message) => format!(
                "the Workload API at {endpoint} has no identity for this workload (PermissionDenied: {message}): \
                 register an entry whose selectors match this process"
            ),
            Self::NotWorkloadApi(message) => format!(
                "what listens at {endpoint} refuses the question itself ({message}): is it the agent's Workload API, \
                 with nothing between that drops metadata? asked again only at long intervals"
            ),
            Self::Closed => format!("the Workload API at {endpoint} ended the stream"),
            Self::Broken(why) => format!("the stream from {endpoint} broke off ({why})"),
            Self::TooLarge(why) => format!("the Workload API at {endpoint} sent more than is read ({why})"),
            Self::NoUsableSvid(waited) => {
                format!("the Workload API at {endpoint} sent no usable SVID within {} s", waited.as_secs_f32())
            }
            Self::Overdue => format!("the Workload API at {endpoint} has sent no new SVID although it is time"),
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
    fn a_status_is_told_by_its_code() {
        let kind = |status: Status| StreamError::status(&status).kind();
        assert_eq!(kind(Status::permission_denied("no identity issued")), "denied");
        assert_eq!(kind(Status::invalid_argument("security header missing")), "not the Workload API");
        assert_eq!(kind(Status::unimplemented("")), "not the Workload API");
        assert_eq!(kind(Status::unavailable("")), "broken off");
        assert_eq!(kind(Status::out_of_range("")), "too large");
    }
}

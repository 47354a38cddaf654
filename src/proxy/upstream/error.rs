//! Why a request got no response from its upstream.
use super::proof::{causes, is_end};
use crate::egress_proxy::TunnelError;
use crate::proxy::error::{Reason, Refusal};
use crate::proxy::guard::AddressError;
use crate::proxy::transfer::UploadFault;
use std::sync::Arc;

/// Why a request got no response.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The name has no address.
    #[error("the name does not resolve: {0}")]
    Resolve(#[source] Arc<std::io::Error>),
    /// The name leads to an address that no name may lead to.
    #[error("the name leads to an address that is not allowed: {0}")]
    Prohibited(#[source] AddressError),
    /// There is no connection to the egress proxy.
    #[error("the egress proxy cannot be reached: {0}")]
    EgressProxyUnreachable(#[source] Box<Self>),
    /// The egress proxy opened no tunnel.
    #[error(transparent)]
    EgressProxy(TunnelError),
    /// The process has no file descriptor for a connection.
    #[error("no file descriptor is left for a connection to it (RLIMIT_NOFILE)")]
    NoDescriptor,
    /// The TCP connection failed.
    #[error("the connection failed: {0}")]
    Connect(#[source] Arc<std::io::Error>),
    /// TCP and TLS took too long.
    #[error("no connection within the connect timeout")]
    ConnectTimeout,
    /// The upstream ended the connection during the TLS handshake, without an alert.
    #[error("the upstream broke off during the TLS handshake: {0}")]
    TlsBrokenOff(#[source] Arc<std::io::Error>),
    /// TLS failed; the text says why.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The HTTP handshake failed.
    #[error("the HTTP connection could not begin: {}", crate::tls::reason(&**.0))]
    Handshake(#[source] Arc<hyper::Error>),
    /// The connection broke before a response arrived.
    #[error("no valid answer came from the upstream: {}", crate::tls::reason(&**.0))]
    Broken(#[source] Arc<hyper::Error>),
    /// The credential cannot be part of a header field.
    #[error("the credential cannot be part of a header field")]
    Credential,
    /// The request as a whole took too long.
    #[error("the request took longer than its total timeout")]
    TotalTimeout,
    /// No response arrived in time.
    #[error("no response within the response timeout")]
    ResponseTimeout,
    /// The upload was abandoned, and the agent is at fault.
    #[error("the request's body ended early: {0:?}")]
    Upload(UploadFault),
}

impl SendError {
    /// The failure to connect to the egress proxy instead of the upstream itself.
    pub(super) fn at_egress_proxy(self) -> Self {
        match self {
            Self::NoDescriptor => Self::NoDescriptor,
            error => Self::EgressProxyUnreachable(Box::new(error)),
        }
    }

    /// A name that resolves to nothing.
    pub(super) fn no_address() -> Self {
        Self::Resolve(Arc::new(std::io::Error::other("the name has no address")))
    }

    /// The failure of a TCP connection.
    pub(super) fn connect(error: std::io::Error) -> Self {
        Self::Connect(Arc::new(error))
    }

    /// The failure to begin HTTP on a new connection.
    pub(super) fn handshake(error: hyper::Error) -> Self {
        Self::Handshake(Arc::new(error))
    }

    /// Whether another connection may succeed: this one could not begin, or there was no
    /// descriptor for it.
    pub(super) fn is_worth_another_connection(&self) -> bool {
        match self {
            Self::Connect(_) | Self::TlsBrokenOff(_) | Self::Handshake(_) | Self::NoDescriptor => true,
            Self::EgressProxyUnreachable(error) => error.is_worth_another_connection(),
            _ => false,
        }
    }

    /// The failure of a TLS handshake.
    pub(super) fn from_handshake(error: std::io::Error) -> Self {
        match crate::tls::refusal(&error) {
            Some(refusal) => Self::Tls(refusal),
            None if is_end(error.kind()) => Self::TlsBrokenOff(Arc::new(error)),
            None => Self::Tls(error.to_string()),
        }
    }

    /// Classifies the failure of a connection that was open. With TLS 1.3 a server refuses a client
    /// certificate only after the handshake, so the refusal shows up when the response is read.
    pub(super) fn classify_broken(error: hyper::Error) -> Self {
        let refusal = crate::tls::refusal(&error).or_else(|| tls_over_http2(&error));
        refusal.map_or_else(|| Self::Broken(Arc::new(error)), Self::Tls)
    }
}

impl From<AddressError> for SendError {
    fn from(error: AddressError) -> Self {
        Self::Prohibited(error)
    }
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        let (reason, proxy_status, detail) = match &error {
            SendError::NoDescriptor => {
                return Self::too_many("The proxy has too many connections open for another one to the upstream.");
            }
            SendError::EgressProxy(error) => {
                let mut detail = error.to_string().replacen("the egress", "The egress", 1);
                detail.push('.');
                return Self::new(Reason::UpstreamUnreachable, detail).with_proxy_status("destination_unavailable");
            }
            SendError::EgressProxyUnreachable(_) => {
                (Reason::UpstreamUnreachable, "destination_unavailable", "The egress proxy cannot be reached.")
            }
            SendError::Resolve(_) => {
                (Reason::UpstreamUnreachable, "dns_error", "The upstream's name does not resolve.")
            }
            SendError::Prohibited(AddressError::Loop(_)) => {
                (Reason::Loop, "proxy_loop_detected", "The request leads back to this proxy.")
            }
            SendError::Prohibited(AddressError::Metadata(_)) => (
                Reason::AddressProhibited,
                "destination_ip_prohibited",
                "The upstream's name leads to a link-local or metadata address.",
            ),
            SendError::Prohibited(AddressError::Refused(_)) => (
                Reason::AddressProhibited,
                "destination_ip_prohibited",
                "The upstream's name leads to an address that the configuration refuses.",
            ),
            SendError::Connect(_) => {
                (Reason::UpstreamUnreachable, "connection_refused", "The upstream does not accept connections.")
            }
            SendError::ConnectTimeout => {
                (Reason::UpstreamTimeout, "connection_timeout", "The upstream did not accept a connection in time.")
            }
            SendError::TlsBrokenOff(_) => {
                (Reason::UpstreamBroken, "connection_terminated", "The upstream broke off during the TLS handshake.")
            }
            SendError::Tls(_) => (
                Reason::UpstreamTls,
                "tls_certificate_error",
                "TLS with the upstream failed; the proxy's log says why.",
            ),
            // hyper's limit of fields. A higher one costs each request 6 % of its instructions,
            // because hyper then keeps room for the fields on the heap.
            SendError::Broken(error) if error.is_parse_too_large() => (
                Reason::UpstreamBroken,
                "http_response_header_section_size",
                "The upstream's answer has more than 100 header fields, or a head of more than 64KiB.",
            ),
            SendError::Broken(error) if error.is_parse() => {
                (Reason::UpstreamBroken, "http_protocol_error", "The upstream's answer is not valid HTTP.")
            }
            SendError::Handshake(_) | SendError::Broken(_) => {
                (Reason::UpstreamBroken, "connection_terminated", "The upstream broke off before it answered.")
            }
            SendError::ResponseTimeout => {
                (Reason::UpstreamTimeout, "http_response_timeout", "The upstream did not answer in time.")
            }
            SendError::TotalTimeout => return Self::total_timeout(),
            SendError::Credential => {
                return Self::new(Reason::TokenUnavailable, "The credential of this route cannot be sent.");
            }
            SendError::Upload(fault) => return (*fault).into(),
        };
        Self::new(reason, detail).with_proxy_status(proxy_status)
    }
}

impl From<UploadFault> for Refusal {
    fn from(fault: UploadFault) -> Self {
        match fault {
            UploadFault::TooLarge => Self::new(Reason::BodyTooLarge, "The body is larger than its route allows."),
            UploadFault::Broken => {
                Self::new(Reason::MalformedRequest, "The body broke off, or is not framed as it says.")
            }
            UploadFault::Total => Self::total_timeout(),
            UploadFault::Idle => Self::new(Reason::MalformedRequest, "The body did not come within the idle timeout."),
        }
    }
}

/// Whether a connection was aborted because its peer is no longer trusted: nothing else aborts one
/// from this side.
pub(crate) fn was_distrusted(error: &hyper::Error) -> bool {
    // h2 does not name the I/O error as its source.
    let io = |cause: &'_ (dyn std::error::Error + 'static)| match cause.downcast_ref::<h2::Error>() {
        Some(error) => error.get_io().map(std::io::Error::kind),
        None => cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind),
    };
    causes(error).filter_map(io).any(|kind| kind == std::io::ErrorKind::ConnectionAborted)
}

/// h2 keeps the kind and the text of an I/O error, but not the error. Only TLS reports
/// `InvalidData`.
fn tls_over_http2(error: &hyper::Error) -> Option<String> {
    let mut reads = causes(error).filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    reads.find(|error| error.kind() == std::io::ErrorKind::InvalidData).map(ToString::to_string)
}

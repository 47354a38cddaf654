//! Why a peer or its certificate is refused.
use crate::identity::{LeafProblem, Missing, SpiffeId};
use rustls::{CertificateError, OtherError};
use std::sync::Arc;

/// Why a peer is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// The peer cannot be verified, because our own identity is missing.
    #[error("our own identity is missing: {0}")]
    NoIdentity(Missing),
    /// Its certificate is not an X.509-SVID (SPIFFE X.509-SVID §2 to §4).
    #[error("the server's certificate is not an X.509-SVID: {0}")]
    Leaf(#[from] LeafProblem),
    /// Its SPIFFE ID is not an expected one. What it presented has not been verified yet.
    #[error("the server claims to be {presented}, and {expected} was expected")]
    NotPinned {
        /// The SPIFFE ID in its certificate.
        presented: SpiffeId,
        /// The SPIFFE IDs of the configuration.
        expected: String,
    },
    /// The trust bundle of its trust domain is missing (SPIFFE Workload API §4.6).
    #[error(
        "the server claims to be {presented}, and there is no trust bundle for {}: \
         check that it is federated with our trust domain, and that our registration entry says `federatesWith`", presented.trust_domain()
    )]
    NoBundle {
        /// The SPIFFE ID in its certificate.
        presented: SpiffeId,
    },
    /// The bundle of its trust domain does not vouch for its certificate (RFC 5280 §6).
    #[error("the server claims to be {presented}, and the authorities of {} do not vouch for it: {why}", presented.trust_domain())]
    Untrusted {
        /// The SPIFFE ID in its certificate.
        presented: SpiffeId,
        /// Why the path validation failed.
        why: String,
    },
}

impl PeerRefused {
    /// Returns a stable name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoIdentity(_) => "no_identity",
            Self::Leaf(problem) => problem.kind(),
            Self::NotPinned { .. } => "not_pinned",
            Self::NoBundle { .. } => "no_bundle",
            Self::Untrusted { .. } => "untrusted",
        }
    }
}

impl From<PeerRefused> for rustls::Error {
    fn from(refused: PeerRefused) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

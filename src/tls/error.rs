//! Why a peer or its certificate is refused.
use crate::identity::{LeafProblem, Missing, SpiffeId};
use rustls::{CertificateError, Error, OtherError};
use std::sync::Arc;

/// Why a peer is not talked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// It is we who lack something.
    #[error("our own identity is missing: {0}")]
    NoIdentity(Missing),
    /// X5-1, X5-2.
    #[error("the server's certificate is no X.509-SVID: {0}")]
    Leaf(#[from] LeafProblem),
    /// X5-4. What it presented has not been verified.
    #[error("the server claims to be {presented}, expected was {expected}")]
    NotPinned {
        /// From its certificate.
        presented: SpiffeId,
        /// From the configuration.
        expected: String,
    },
    /// X5-3.
    #[error(
        "the server claims to be {presented}, and there is no trust bundle for {}: \
         is it federated with our trust domain, and is that in our registration entry?", presented.trust_domain()
    )]
    NoBundle {
        /// From its certificate.
        presented: SpiffeId,
    },
    /// X5-3.
    #[error("the server claims to be {presented}, and the authorities of {} do not vouch for it: {why}", presented.trust_domain())]
    Untrusted {
        /// From its certificate.
        presented: SpiffeId,
        /// What the path validation says.
        why: String,
    },
}

impl PeerRefused {
    /// A stable name for metrics.
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

/// What is wrong with a certificate, without jargon where there is a word for it.
pub(super) fn certificate_problem(error: &Error) -> String {
    let Error::InvalidCertificate(problem) = error else { return error.to_string() };
    match problem {
        CertificateError::BadEncoding => "it is not a certificate that can be read".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: compare the clocks".to_owned()
        }
        CertificateError::UnknownIssuer => "no authority that is trusted here has signed it".to_owned(),
        CertificateError::BadSignature => "its signature is wrong".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("it is for {}, not for {}", presented.join(", "), expected.to_str())
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it may not be used by a server (extended key usage)".to_owned()
        }
        other => other.to_string(),
    }
}

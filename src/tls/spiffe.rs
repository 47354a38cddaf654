//! Verifying a server by its SPIFFE ID (X509-SVID §5).
use super::ServerTrust;
use crate::clock::Timestamp;
use crate::identity::{Identity, Leaf, LeafProblem, Missing, Snapshot, SpiffeId, crypto_provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The SPIFFE IDs that a server may have: an exact, non-empty list. A federated trust domain is trusted only where one of its IDs
/// stands here by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIds(BTreeSet<SpiffeId>);

/// Why a list of SPIFFE IDs is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdsError {
    /// It would let anyone or no one in.
    #[error("the list of SPIFFE IDs is empty: name at least one, such as spiffe://example.org/reports")]
    Empty,
    /// One entry is no SPIFFE ID, or none that a workload can have.
    #[error("{text:?} is no workload's SPIFFE ID: {why}")]
    NotAnId {
        /// The entry.
        text: String,
        /// The rule.
        why: String,
    },
}

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

impl PeerIds {
    /// From the configuration's list.
    ///
    /// # Errors
    /// It is empty, or an entry is no SPIFFE ID with a path.
    pub fn new<T: AsRef<str>>(ids: impl IntoIterator<Item = T>) -> Result<Self, PeerIdsError> {
        let ids: BTreeSet<_> = ids.into_iter().map(|text| peer_id(text.as_ref())).collect::<Result<_, _>>()?;
        if ids.is_empty() { Err(PeerIdsError::Empty) } else { Ok(Self(ids)) }
    }

    /// The IDs in order.
    pub fn iter(&self) -> impl Iterator<Item = &SpiffeId> {
        self.0.iter()
    }
}

impl fmt::Display for PeerIds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, id) in self.0.iter().enumerate() {
            write!(out, "{}{id}", if index == 0 { "" } else { " or " })?;
        }
        Ok(())
    }
}

fn peer_id(text: &str) -> Result<SpiffeId, PeerIdsError> {
    let refuse = |why: String| PeerIdsError::NotAnId { text: text.to_owned(), why };
    let id = SpiffeId::new(text).map_err(|error| refuse(error.to_string()))?;
    if id.to_string() != text {
        return Err(refuse(format!("write {id}")));
    }
    if id.path().is_empty() {
        return Err(refuse("a trust domain is not enough, name the workload".to_owned()));
    }
    Ok(id)
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

/// Whether a connection that is open may stay so after `snapshot` came: its peer must still be vouched for at `now`. `chain` is what
/// the peer showed in its handshake. A Web PKI peer is not judged by bundles.
///
/// # Errors
/// [`PeerRefused`]: close it.
pub fn recheck(
    trust: &ServerTrust,
    chain: &[CertificateDer<'_>],
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<(), PeerRefused> {
    let ServerTrust::Spiffe(peers) = trust else { return Ok(()) };
    let Some((end_entity, intermediates)) = chain.split_first() else { return Err(LeafProblem::NotDer.into()) };
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now.unix_millis()));
    let algorithms = crypto_provider().signature_verification_algorithms;
    verify(peers, (end_entity, intermediates), snapshot, (now, &algorithms))
}

/// The rules, in the order in which a refusal says most: is it an SVID, is it the one expected, is it genuine.
fn verify(
    peers: &PeerIds,
    (end_entity, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
    snapshot: &Snapshot,
    (now, algorithms): (UnixTime, &WebPkiSupportedAlgorithms),
) -> Result<(), PeerRefused> {
    let presented = Leaf::from_der(end_entity)?.id;
    if !peers.0.contains(&presented) {
        return Err(PeerRefused::NotPinned { presented, expected: peers.to_string() });
    }
    // X5-3: the bundle of the leaf's own trust domain and no other, so that no domain can speak for another.
    let Some(authorities) = snapshot.authorities(presented.trust_domain()) else {
        return Err(PeerRefused::NoBundle { presented });
    };
    let parsed = ParsedCertificate::try_from(end_entity).map_err(|_| LeafProblem::NotDer)?;
    verify_server_cert_signed_by_trust_anchor(&parsed, &authorities.roots, intermediates, now, algorithms.all)
        .map_err(|error| PeerRefused::Untrusted { presented, why: super::refusal::certificate_problem(&error) })
}

/// Verifies a server by the snapshot of the moment.
#[derive(Debug)]
pub(super) struct SpiffeVerifier {
    peers: Arc<PeerIds>,
    identity: Identity,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SpiffeVerifier {
    pub(super) fn new(peers: Arc<PeerIds>, identity: Identity, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { peers, identity, algorithms }
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let snapshot = self.identity.current().map_err(PeerRefused::NoIdentity)?;
        verify(&self.peers, (end_entity, intermediates), &snapshot, (now, &self.algorithms))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_peers_is_exact_and_not_empty() {
        assert_eq!(PeerIds::new(Vec::<String>::new()), Err(PeerIdsError::Empty));
        let two = PeerIds::new(["spiffe://example.org/b", "spiffe://example.org/a", "spiffe://example.org/a"]);
        assert_eq!(two.expect("good").to_string(), "spiffe://example.org/a or spiffe://example.org/b");
        for bad in ["spiffe://example.org", "spiffe://Example.org/a", "example.org/a", "spiffe://example.org/*", ""] {
            assert!(matches!(PeerIds::new([bad]), Err(PeerIdsError::NotAnId { .. })), "{bad}");
        }
    }
}

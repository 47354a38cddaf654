//! Verifies a server by its SPIFFE ID (SPIFFE X.509-SVID §5).
use super::certificate::certificate_problem;
use super::error::PeerRefused;
use super::peer_ids::PeerIds;
use super::trust::ServerTrust;
use crate::clock::Timestamp;
use crate::identity::{Identity, Leaf, LeafProblem, Snapshot, crypto_provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;

/// Checks whether an open connection may stay open under a new `snapshot`: at `now`, the bundles
/// must still vouch for its peer. `chain` is what the peer presented in its handshake. A Web PKI
/// peer is not affected by bundles.
///
/// # Errors
/// [`PeerRefused`]: the connection must be closed.
pub fn recheck(
    trust: &ServerTrust,
    chain: &[CertificateDer<'_>],
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<(), PeerRefused> {
    let ServerTrust::Spiffe(peers) = trust else { return Ok(()) };
    let Some((leaf, intermediates)) = chain.split_first() else { return Err(LeafProblem::NotDer.into()) };
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now.unix_millis()));
    let algorithms = crypto_provider().signature_verification_algorithms;
    Verification { peers, snapshot, algorithms: &algorithms }.check(PeerChain { leaf, intermediates }, now)
}

/// The certificates that a peer presented.
#[derive(Clone, Copy)]
struct PeerChain<'c, 'der> {
    leaf: &'c CertificateDer<'der>,
    intermediates: &'c [CertificateDer<'der>],
}

/// The rules and authorities that a peer is checked against.
struct Verification<'v> {
    peers: &'v PeerIds,
    snapshot: &'v Snapshot,
    algorithms: &'v WebPkiSupportedAlgorithms,
}

impl Verification<'_> {
    /// Applies the rules in the order that gives the most helpful refusal: whether it is an SVID,
    /// whether it is an expected one, whether it is genuine.
    fn check(&self, chain: PeerChain<'_, '_>, now: UnixTime) -> Result<(), PeerRefused> {
        let presented = Leaf::from_der(chain.leaf)?.id;
        if !self.peers.contains(&presented) {
            return Err(PeerRefused::NotPinned { presented, expected: self.peers.to_string() });
        }
        // The bundle of the leaf's own trust domain and no other, so that no domain can speak for
        // another (SPIFFE Workload API §4.6).
        let Some(authorities) = self.snapshot.authorities(presented.trust_domain()) else {
            return Err(PeerRefused::NoBundle { presented });
        };
        let parsed = ParsedCertificate::try_from(chain.leaf).map_err(|_| LeafProblem::NotDer)?;
        let (roots, algorithms) = (&authorities.roots, self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, chain.intermediates, now, algorithms)
            .map_err(|error| PeerRefused::Untrusted { presented, why: certificate_problem(&error) })
    }
}

/// Verifies servers with the identity's current snapshot.
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
        let verification = Verification { peers: &self.peers, snapshot: &snapshot, algorithms: &self.algorithms };
        verification.check(PeerChain { leaf: end_entity, intermediates }, now)?;
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

//! Builds rustls' client configurations.
use super::error::PeerRefused;
use super::trust::{ClientCertificate, ClientTls, ServerTrust};
use super::verify::SpiffeVerifier;
use crate::clock::Clock;
use crate::identity::{Identity, crypto_provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;

/// Why a client configuration cannot be built. The checks of the configuration file rule out both
/// cases.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// It trusts SPIFFE IDs or presents the SVID, and no identity source is configured.
    #[error("this TLS setting needs an identity: configure identity.workload_api or identity.files")]
    NoIdentity,
    /// There is no authority to trust.
    #[error("no certificate authority can be trusted: {0}")]
    NoRoots(String),
}

/// Builds the configuration for `tls`. It uses every later SVID and bundle without being rebuilt.
///
/// # Errors
/// The settings need an identity or authorities that do not exist.
pub fn client_config(
    tls: &ClientTls,
    identity: Option<&Identity>,
    clock: &Clock,
) -> Result<Arc<ClientConfig>, SetupError> {
    let provider = Arc::new(crypto_provider());
    let needed = || identity.cloned().ok_or(SetupError::NoIdentity);
    let verifier: Arc<dyn ServerCertVerifier> = match &tls.trust {
        ServerTrust::Spiffe(peers) => {
            Arc::new(SpiffeVerifier::new(peers.clone(), needed()?, provider.signature_verification_algorithms))
        }
        ServerTrust::WebPki(roots) => {
            WebPkiServerVerifier::builder_with_provider(roots.store.clone(), provider.clone())
                .build()
                .map_err(|error| SetupError::NoRoots(error.to_string()))?
        }
    };
    let builder = ClientConfig::builder_with_details(provider, Arc::new(WallTime(clock.clone())))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("the provider has cipher suites and key exchanges for both versions")
        .dangerous();
    let mut config = match tls.client_certificate {
        ClientCertificate::None => builder.with_custom_certificate_verifier(verifier).with_no_client_auth(),
        ClientCertificate::Svid => {
            let identity = needed()?;
            let gate = RequireIdentity { identity: identity.clone(), then: verifier };
            builder
                .with_custom_certificate_verifier(Arc::new(gate))
                .with_client_cert_resolver(Arc::new(CurrentSvid(identity)))
        }
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols.clone_from(&tls.alpn);
    Ok(Arc::new(config))
}

/// The crate's own clock, so that certificates and SVIDs are compared with the same time.
#[derive(Debug)]
struct WallTime(Clock);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now().unix_millis())))
    }
}

/// Presents the current SVID.
#[derive(Debug)]
struct CurrentSvid(Identity);

impl ResolvesClientCert for CurrentSvid {
    /// The server's list of acceptable issuers is ignored. It may be incomplete, and a server that
    /// does not accept our certificate refuses it with an alert, which says more than a handshake
    /// without a certificate.
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.current().ok().map(|snapshot| snapshot.svid.certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Fails with our own error if the SVID is missing. Otherwise the server would see a handshake
/// without a certificate, and its refusal would not say why.
#[derive(Debug)]
struct RequireIdentity {
    identity: Identity,
    then: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for RequireIdentity {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.identity.current().map_err(PeerRefused::NoIdentity)?;
        self.then.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.then.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.then.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.then.supported_verify_schemes()
    }
}

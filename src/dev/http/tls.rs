//! TLS settings of the dev servers.
use crate::clock::Clock;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;
use std::time::Duration;

/// Whether the server asks for a client certificate.
#[derive(Clone, Debug)]
pub enum ClientCertificates {
    /// The server does not ask for one.
    NotAsked,
    /// The server asks, and a certificate that is presented must chain to these authorities.
    Optional(Vec<CertificateDer<'static>>),
    /// The handshake fails without a certificate that chains to these authorities.
    Required(Vec<CertificateDer<'static>>),
}

/// The TLS settings of a server.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The server's certificate: an SVID, or a certificate of [`crate::dev::ca::WebCa`].
    pub certificate: Arc<CertifiedKey>,
    /// Which clients are admitted.
    pub clients: ClientCertificates,
    /// The protocols offered through ALPN, preferred first; empty for no ALPN.
    pub alpn: Vec<&'static str>,
}

impl ServerTls {
    /// Admits any client and prefers HTTP/2 to HTTP/1.1.
    pub fn new(certificate: Arc<CertifiedKey>) -> Self {
        Self { certificate, clients: ClientCertificates::NotAsked, alpn: vec!["h2", "http/1.1"] }
    }

    /// Sets which clients are admitted.
    pub fn clients(mut self, clients: ClientCertificates) -> Self {
        self.clients = clients;
        self
    }

    /// Offers HTTP/1.1 only.
    pub fn http1_only(mut self) -> Self {
        self.alpn = vec!["http/1.1"];
        self
    }

    pub(super) fn config(&self, clock: &Clock) -> anyhow::Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(ClockTime(clock.clone())))
            .with_safe_default_protocol_versions()?;
        let verifier = |authorities: &[CertificateDer<'static>]| -> anyhow::Result<_> {
            let mut roots = RootCertStore::empty();
            for authority in authorities {
                roots.add(authority.clone())?;
            }
            Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider))
        };
        let builder = match &self.clients {
            ClientCertificates::NotAsked => builder.with_no_client_auth(),
            ClientCertificates::Optional(authorities) => {
                builder.with_client_cert_verifier(verifier(authorities)?.allow_unauthenticated().build()?)
            }
            ClientCertificates::Required(authorities) => {
                builder.with_client_cert_verifier(verifier(authorities)?.build()?)
            }
        };
        let resolver = SingleCertAndKey::from((*self.certificate).clone());
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}

#[derive(Debug)]
struct ClockTime(Clock);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now().unix_millis())))
    }
}

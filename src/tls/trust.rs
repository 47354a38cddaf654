//! Which servers a connection trusts, and whether the SVID is presented on it.
use super::peer_ids::PeerIds;
use super::roots::Roots;
use aws_lc_rs::digest::{Context, SHA256};
use std::sync::Arc;

/// How a server proves its identity.
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// By a certificate for its host name that one of these authorities signed: the public ones, or
    /// those of a `ca_file`.
    WebPki(Roots),
    /// By an X.509-SVID with one of these SPIFFE IDs. Its host name does not matter.
    Spiffe(Arc<PeerIds>),
}

impl ServerTrust {
    /// Returns the SHA-256 of what is trusted. It is the same for the same trust, wherever that was
    /// read from.
    pub fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        match self {
            Self::WebPki(roots) => context.update(&roots.digest),
            Self::Spiffe(peers) => context.update(format!("spiffe: {peers}").as_bytes()),
        }
        context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// The certificate that is presented to a server that asks for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    /// No certificate is presented.
    #[default]
    None,
    /// The X.509-SVID. Without a valid one, no handshake succeeds.
    Svid,
}

/// The TLS settings of a connection.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// How the server proves its identity.
    pub trust: ServerTrust,
    /// The certificate that is presented to the server.
    pub client_certificate: ClientCertificate,
    /// The application protocols to offer (ALPN), the preferred one first; empty for none.
    pub alpn: Vec<Vec<u8>>,
}

impl ClientTls {
    /// Whether a connection needs the workload's identity.
    pub fn needs_identity(&self) -> bool {
        self.client_certificate == ClientCertificate::Svid || matches!(self.trust, ServerTrust::Spiffe(_))
    }
}

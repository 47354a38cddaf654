//! Whom a connection trusts, and whether we show our SVID on it.
use super::peer_ids::PeerIds;
use super::roots::Roots;
use aws_lc_rs::digest::{Context, SHA256};
use std::sync::Arc;

/// How a server proves who it is.
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// By a certificate for its host name, signed under one of these roots: the public ones, or a `ca_file`.
    WebPki(Roots),
    /// By an X.509-SVID with one of these SPIFFE IDs. Its host name means nothing.
    Spiffe(Arc<PeerIds>),
}

impl ServerTrust {
    /// SHA-256 of who is trusted; equal for equal trust, wherever it was read from.
    pub fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        match self {
            Self::WebPki(roots) => context.update(&roots.digest),
            Self::Spiffe(peers) => context.update(format!("spiffe: {peers}").as_bytes()),
        }
        context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// What we show a server that asks for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Present {
    /// None.
    #[default]
    Nothing,
    /// The X.509-SVID. Without a valid one no handshake succeeds.
    Svid,
}

/// One way to connect.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// The server's side.
    pub trust: ServerTrust,
    /// Our side.
    pub present: Present,
    /// Application protocols, the preferred one first; empty for none.
    pub alpn: Vec<Vec<u8>>,
}

impl ClientTls {
    /// Whether it works only with an identity.
    pub fn needs_identity(&self) -> bool {
        self.present == Present::Svid || matches!(self.trust, ServerTrust::Spiffe(_))
    }
}

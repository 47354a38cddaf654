//! TLS as a client: whom we trust at the other end, and whether we show our SVID.
//!
//! Resolver and verifier are our own. They read one immutable [`Snapshot`](crate::identity::Snapshot) in which the next SVID, its
//! key and its bundles are ready to use, so a rotation never meets a handshake half way. A config is made once per upstream or
//! server; rotation needs no new one. Sessions are never resumed: a resumed one would skip the check of the peer, and its
//! certificate would be the one of another day.
mod client;
mod refusal;
mod roots;
mod spiffe;

pub use client::{SetupError, client_config};
pub use refusal::{reason, refusal};
pub use roots::{Roots, RootsError, roots_from_pem, web_roots};
pub use spiffe::{PeerIds, PeerIdsError, PeerRefused, recheck};

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

#[cfg(test)]
mod tests;

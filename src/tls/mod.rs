//! TLS as a client: which servers are trusted, and whether the SVID is presented to them.
//!
//! The certificate resolver and the verifier are our own. Both read one immutable
//! [`Snapshot`](crate::identity::Snapshot) of the SVID, its key and the bundles, so that a rotation
//! is never half visible to a handshake. There is one configuration for each upstream or
//! authorization server, and rotation does not replace it. Sessions are never resumed, because
//! resumption would skip the check of the peer and rely on an earlier certificate.
mod certificate;
mod client;
mod error;
mod peer_ids;
mod refusal;
mod roots;
mod trust;
mod verify;

pub use client::{SetupError, client_config};
pub use error::PeerRefused;
pub use peer_ids::{PeerIds, PeerIdsError};
pub use refusal::{reason, refusal};
pub use roots::{Roots, RootsError, roots_from_pem, web_roots};
pub use trust::{ClientCertificate, ClientTls, ServerTrust};
pub use verify::recheck;

#[cfg(test)]
mod tests;

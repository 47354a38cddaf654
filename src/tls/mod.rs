//! TLS as a client: whom we trust at the other end, and whether we show our SVID.
//!
//! Resolver and verifier are our own. They read one immutable [`Snapshot`](crate::identity::Snapshot) in which the next SVID, its
//! key and its bundles are ready to use, so a rotation never meets a handshake half way. A config is made once per upstream or
//! server; rotation needs no new one. Sessions are never resumed: a resumed one would skip the check of the peer, and its
//! certificate would be the one of another day.
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
pub use trust::{ClientTls, Present, ServerTrust};
pub use verify::recheck;

#[cfg(test)]
mod tests;

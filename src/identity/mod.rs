//! The workload's identity: its X.509-SVID and key, trust bundles and JWT-SVIDs. One task keeps it
//! current, and readers see it as one immutable snapshot.
//!
//! A source ([`WorkloadApi`] or [`Files`]) checks every update before a reader can see it. A bad
//! update is refused, counted and logged, and the last good one stays in use until it expires. An
//! SVID that has expired or was withdrawn is never handed out. Readers hold an [`Identity`]; a read
//! costs one atomic load and one reading of the clock. Errors say what the source is waiting for
//! and what to do about it.
//!
//! The `spiffe` crate changes its interface every few weeks, so of its names only [`SpiffeId`] and
//! [`TrustDomain`] leave this module.
mod endpoint;
mod error;
mod files;
mod handle;
mod jwt;
mod leaf;
mod material;
mod metrics;
mod pem;
mod publisher;
mod snapshot;
mod source;
mod state;
#[cfg(test)]
pub(crate) mod testing;
mod wire;
mod workload_api;

pub use endpoint::{Endpoint, EndpointError, parse_endpoint};
pub use files::{Files, FilesSettings};
pub use handle::{Identity, SourceStatus};
pub use jwt::{JwtSvid, JwtSvidError};
pub use leaf::{Leaf, LeafProblem};
pub(crate) use material::provider as crypto_provider;
pub use metrics::Metrics;
pub use snapshot::{Authorities, Snapshot, Svid};
pub use source::{IdentitySource, IdentityTask};
pub use spiffe::{SpiffeId, TrustDomain};
pub use state::{Missing, MissingKind};
pub use workload_api::{BackoffRange, WorkloadApi, WorkloadApiSettings, WorkloadApiTiming};

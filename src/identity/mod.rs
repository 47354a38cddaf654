//! Who we are: X.509-SVID, key, trust bundles and JWT-SVIDs, kept current by one owner task and read as one immutable snapshot.
//!
//! A source ([`WorkloadApi`] or [`Files`]) checks every delivery before anyone sees it. A bad one is refused, counted and logged,
//! and the last good one stays until it expires; what has expired or was withdrawn is never handed out. Readers hold an
//! [`Identity`]: one atomic load and a look at the clock. Errors say what is waited for and what to do.
//!
//! The `spiffe` crate breaks its interface every few weeks; of its names only [`SpiffeId`] and [`TrustDomain`] leave this module.
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

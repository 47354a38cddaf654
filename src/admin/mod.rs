//! What operators see: probes and metrics on a TCP port, the status and the log level on a Unix socket that the agent, who
//! shares the network, cannot reach.
mod health;
mod jwks;
mod socket;
mod status;

pub use health::Health;
pub use jwks::serve_jwks;
pub use socket::{AdminSocket, Client, ClientError};
pub use status::{IdentityStatus, ReloadStatus, RouteStatus, Status, TokenStatus};

//! What operators use: probes and metrics on a TCP port, and the status and the log level on a Unix
//! socket. The agent shares the network with the proxy, but cannot open the socket.
mod health;
mod jwks;
mod socket;
mod status;

pub use health::Health;
pub use jwks::serve_jwks;
pub use socket::{AdminSocket, Client, ClientError};
pub use status::{IdentityStatus, ReloadStatus, RouteStatus, Status, TokenStatus};

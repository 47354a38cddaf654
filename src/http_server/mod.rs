//! A small HTTP/1.1 server for the control plane: it serves few connections, and
//! builds each response in memory.
mod connections;
mod flush_watch;
mod metrics;
mod response;
mod server;

#[cfg(feature = "kubernetes")]
pub(crate) use connections::{Activity, Connections};
pub use metrics::{MetricsEndpoint, Probe};
pub(crate) use response::{FullResponse, READ_ONLY, method_not_allowed, not_found, response, text};
pub use server::ConnectionBudget;
pub(crate) use server::Server;

//! A small HTTP/1.1 server for the control plane: few connections, and answers that are whole in
//! memory.
mod metrics;
mod response;
mod server;

pub use metrics::{MetricsEndpoint, Probe};
pub(crate) use response::{FullResponse, method_not_allowed, not_found, response, text};
pub(crate) use server::serve;

//! The data plane: plain HTTP from the agent in, an authenticated request over (m)TLS out.
mod body;
mod downstream;
mod error;
mod headers;
mod idle;
mod metrics;
mod outbound;
mod outcome;
mod relay;
mod traffic;
mod upstream;
mod worker;

pub use error::{Reason, Refusal};
pub use headers::{Own, strip_request};
pub use metrics::Metrics;
pub use outbound::{Table, TableParts};
pub use traffic::Traffic;
pub use upstream::Guard;
pub use worker::{Limits, Pulse, Shared, SharedParts, run_worker};

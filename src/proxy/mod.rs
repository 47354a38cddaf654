//! The data plane: plain HTTP from the agent in, an authenticated request over (m)TLS out.
mod agent_body;
mod downstream;
mod error;
mod guard;
mod headers;
mod idle;
mod limits;
mod metrics;
mod outbound;
mod outcome;
mod pulse;
mod relay;
mod runtime;
mod timed_body;
mod traffic;
mod upstream;
mod worker;

pub use error::{ErrorFormat, Reason, Refusal};
pub use guard::Guard;
pub use headers::{AgentCredentials, strip_request};
pub use limits::Limits;
pub use metrics::Metrics;
pub use outbound::{Shared, SharedParts, Table, TableParts};
pub use pulse::Pulse;
pub use traffic::Traffic;
pub use worker::run_worker;

//! The data plane: plain HTTP from the agent in, an authenticated request over (m)TLS out.
mod body;
mod chunks;
mod connect;
mod error;
mod executor;
mod head;
mod headers;
mod metrics;
mod outbound;
mod outcome;
mod prefixed;
mod relay;
mod strict;
mod table;
mod target;
mod traffic;
mod upgrade;
mod upstream;
mod worker;

pub use error::{Reason, Refusal};
pub use headers::{Own, strip_request};
pub use metrics::Metrics;
pub use table::{Parts as TableParts, Table};
pub use traffic::Traffic;
pub use upstream::Guard;
pub use worker::{Limits, Pulse, Shared, SharedParts, run_worker};

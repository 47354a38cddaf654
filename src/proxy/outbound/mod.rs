//! The agent's calls: from one request to the route it takes, the credential that it gets, and the upstream's answer.
mod connect;
mod destination;
mod handle;
mod table;
mod upgrade;

pub(super) use destination::{Arrival, Destination};
pub(super) use handle::handle;
pub use table::{Parts as TableParts, Table};

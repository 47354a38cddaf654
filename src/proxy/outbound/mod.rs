//! The agent's calls: the route that a request takes, the credential that it gets, and the
//! upstream's answer.
mod connect;
mod context;
mod credential;
mod destination;
mod forward;
mod handle;
mod switched;
mod table;
mod upgrade;
mod way_back;

pub(super) use context::Context;
pub use context::{Shared, SharedParts};
pub(super) use handle::handle;
pub use table::{Table, TableParts};

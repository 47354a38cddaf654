//! Access tokens: held once, minted once, and never used past their end.
//!
//! What a reader touches is a [`Slot`]: one atomic pointer for each grant of the workload's own. Everything that changes goes
//! through one owner task, which applies events one after another; fetches run beside it, so a caller that hangs up cancels
//! nothing and every waiter shares one result.
mod entry;
mod key;
mod metrics;
mod owner;
mod schedule;
mod slot;
#[cfg(test)]
mod tests;
mod tokens;

pub use key::UserToken;
pub use metrics::Metrics;
pub use owner::{Mint, Owner};
pub use slot::{AccessToken, Slot};
pub use tokens::{Delegated, Settings, TokenError, Tokens};

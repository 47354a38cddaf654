//! The cache of access tokens. A token is minted once for all callers and never used after it
//! expires.
//!
//! Readers touch a [`Slot`]: one atomic pointer for each of the workload's own grants. One owner
//! task makes all changes and applies events one after another. Fetches run in tasks of their own,
//! so a caller that hangs up cancels nothing, and all waiters share one result.
mod delegated;
mod entry;
mod event;
mod field_values;
mod key;
mod metrics;
mod owner;
mod schedule;
mod settings;
mod slot;
#[cfg(test)]
mod tests;
mod tokens;

pub use delegated::Delegated;
pub use event::TokenError;
pub use key::UserToken;
pub use metrics::Metrics;
pub use owner::{Mint, Owner};
pub use settings::TokenSettings;
pub use slot::{AccessToken, Slot};
pub use tokens::Tokens;

//! Access tokens: held once, minted once, and never used past their end.
//!
//! What a reader touches is a [`Slot`]: one atomic pointer for each grant of the workload's own. Everything that changes goes
//! through one owner task, which applies events one after another; fetches run beside it, so a caller that hangs up cancels
//! nothing and every waiter shares one result.
mod delegated;
mod entry;
mod event;
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
pub use settings::Settings;
pub use slot::{AccessToken, Slot};
pub use tokens::Tokens;

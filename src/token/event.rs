//! What the owner is asked, and what it answers.
use super::key::UserToken;
use super::slot::{AccessToken, Slot};
use crate::exchange::ExchangeError;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// The exchange failed; every waiter has the same.
    #[error(transparent)]
    Exchange(ExchangeError),
    /// Nothing came within the token timeout; the exchange goes on for those who come later.
    #[error("no token within the time that a request waits for one")]
    Timeout,
    /// More requests wait for tokens than the owner takes.
    #[error("too many requests are waiting for a token")]
    Busy,
    /// The process is going down.
    #[error("the proxy is shutting down")]
    Stopped,
}

pub(super) enum Event {
    Want { slot: Arc<Slot>, user: Option<UserToken>, waiter: Waiter },
    Rejected { slot: Arc<Slot>, user: Option<UserToken>, serial: u64, waiter: Waiter },
    Eager { slot: Arc<Slot> },
}

/// Where the answer goes.
pub(super) type Reply = oneshot::Sender<Result<Arc<AccessToken>, TokenError>>;

/// A caller that waits for an answer.
pub(super) struct Waiter {
    pub(super) reply: Reply,
}

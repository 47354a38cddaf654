//! The events that the owner processes, and its answers.
use super::key::UserToken;
use super::slot::{AccessToken, Slot};
use crate::exchange::ExchangeError;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Why no token could be obtained.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// The exchange failed. All waiters get the same error.
    #[error(transparent)]
    Exchange(ExchangeError),
    /// No token arrived within the token timeout. The exchange continues for later callers.
    #[error("no token within the time that a request waits for one")]
    Timeout,
    /// Too many requests are waiting for tokens.
    #[error("too many requests are waiting for a token")]
    Busy,
    /// The process is shutting down.
    #[error("the proxy is shutting down")]
    Stopped,
}

/// An event that the owner processes.
pub(super) enum Event {
    /// A caller wants a token.
    Want { slot: Arc<Slot>, user: Option<UserToken>, waiter: Waiter },
    /// An upstream refused the token with this serial number.
    Rejected { slot: Arc<Slot>, user: Option<UserToken>, serial: u64, waiter: Waiter },
    /// The token of an eager grant is to be obtained.
    Eager { slot: Arc<Slot> },
}

/// The channel that carries the answer to a waiter.
pub(super) type Reply = oneshot::Sender<Result<Arc<AccessToken>, TokenError>>;

/// A caller that waits for an answer.
pub(super) struct Waiter {
    pub(super) reply: Reply,
}

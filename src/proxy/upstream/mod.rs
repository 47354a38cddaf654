//! Upstreams: reached, pooled and spoken to, one worker's connections apart from the next one's.
mod connect;
mod names;
mod peer;
mod pool;
mod send;
mod severable;

pub(super) use connect::Allowed;
pub use connect::Guard;
pub(super) use names::{AT_ONCE, Names};
pub(super) use peer::{Key, Peer, Protocol};
pub(super) use pool::{Lease, Pool};
pub(super) use send::{Call, Repeat, SendError, dial, send};

//! Upstreams: reached, pooled and spoken to, one worker's connections apart from the next one's.
mod abortable;
mod config;
mod connect;
mod pool;
mod resolver;
mod send;

pub(super) use config::{Key, Peer, Protocol};
pub(super) use connect::Allowed;
pub use connect::Guard;
pub(super) use pool::{Lease, Pool};
pub(super) use resolver::{AT_ONCE, Names};
pub(super) use send::{Call, Repeat, SendError, dial, send};

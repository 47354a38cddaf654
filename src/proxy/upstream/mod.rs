//! Upstreams: resolving, connecting, pooling and sending. Each worker has connections of its own.
//! Nothing here refers to the connection of the agent.
mod abortable;
mod acquire;
mod addresses;
mod config;
mod connect;
mod connection;
mod credential;
mod dial;
mod error;
mod held_back;
mod origin;
mod pool;
mod proof;
mod queue;
mod read_meter;
mod request_body;
mod request_copy;
mod resolver;
mod response_body;
mod retry;
mod retry_budget;
mod send;
#[cfg(test)]
mod tests;

pub(super) use config::{PoolKey, Protocol, UpstreamConfig, UpstreamParts};
pub(super) use credential::Credential;
pub(super) use dial::dial;
pub(super) use error::{SendError, was_distrusted};
pub(super) use origin::Lease;
pub(super) use pool::Pool;
pub(super) use request_body::{RequestBody, UploadRules};
pub(super) use request_copy::RequestCopy;
pub(super) use resolver::{MAX_LOOKUPS, Resolver};
pub(super) use response_body::UpstreamBody;
pub(super) use retry::Retrying;
pub(super) use send::{Call, send};

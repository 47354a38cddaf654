//! The agent's connections: which protocol they speak, how their requests are framed, and how long
//! an answer may go unread. Nothing here knows a route.
mod chunked;
mod detect;
mod head;
mod idle;
mod listener;
mod request_guard;
mod serve;
mod violations;
mod write_timeout;

pub(super) use detect::{Detected, Protocol, detect};
pub(super) use head::check_list_size;
pub(super) use listener::Acceptor;
pub(super) use serve::{Arrival, Downstream, ReceivedRequest, Server};
pub(super) use write_timeout::WriteTimeout;

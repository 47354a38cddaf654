//! The agent's connections: which protocol they speak, their requests' framing, and how long an answer may go unread.
mod chunked;
mod detect;
mod executor;
mod head;
mod request_guard;
mod write_timeout;

pub(super) use detect::{Prefixed, Speaks, sniff};
pub(super) use executor::{Answers, Local, block_on};
pub(super) use head::{Fault, judge_list};
pub(super) use request_guard::{Strict, Verdicts};
pub(super) use write_timeout::{Offered, allow, patient};

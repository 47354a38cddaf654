//! Logs and process metrics. A leaf: it receives values and knows no domain word.
mod logs;
mod process;
mod queue;

pub use logs::{Format, LevelError, Logs};
pub use process::{Process, descriptor_limit};

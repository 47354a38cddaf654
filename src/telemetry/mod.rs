//! Logs and metrics. This module receives values and knows nothing of routes, tokens or identities.
mod level;
mod logs;
mod process;
mod queue;
mod registrar;

pub use level::Level;
pub use logs::{LevelError, LogFormat, LogSettings, Logs};
pub use process::{ProcessMetrics, descriptor_limit};
pub use registrar::{Registrar, gauge_value};

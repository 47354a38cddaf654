//! A pod in, the same pod with the sidecar out, or why not. Pure: no cluster, no file.
mod edits;
mod environment;
mod hazard;
mod pod;
mod quantity;
mod resources;
mod settings;
mod sidecar;
mod socket;

pub(crate) use pod::{Existing, Opt, Refusal, inject, opt};
pub(crate) use settings::is_object_name;
pub use settings::{Defaults, PullPolicy};
pub use socket::Socket;

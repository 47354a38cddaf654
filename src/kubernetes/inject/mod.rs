//! Turns a pod into the same pod with the sidecar, or says why it cannot have one. This module is
//! pure: it contacts no cluster and reads no file.
mod edits;
mod environment;
mod host_path;
mod injection;
mod json;
mod pod;
mod quantity;
mod resources;
mod settings;
mod sidecar;
mod socket;
mod violation;

pub(crate) use injection::{InjectError, InjectLabel, OnExisting, inject, inject_label};
pub(crate) use settings::is_object_name;
pub use settings::{Defaults, PullPolicy};
pub use socket::Socket;

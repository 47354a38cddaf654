//! The configuration file is parsed into a tree that knows its lines (`tree`), decoded into the
//! types that describe the file (`file`), and built into the runtime types of the other modules
//! (`build`). Each of the three steps collects every problem that it finds.
//!
//! Each file type is described once, by `record!` or `choice!`; both its decoder and its JSON
//! Schema are generated from that description.
mod build;
mod decode;
mod describe;
mod file;
mod leaf;
mod load;
mod problem;
mod read;
mod runtime;
mod schema;
mod summary;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tree;
mod watch;

pub use load::{Environment, Loaded, Problems, Source, load};
pub use problem::Problem;
pub use runtime::{Config, Listen, ListenAddress, ListenSocket, Overrides, ProcessLimits, ProcessSettings};
pub use schema::schema;
pub use summary::summary;
pub use watch::{Changes, Fingerprint, Watch};

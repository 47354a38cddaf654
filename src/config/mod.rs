//! The configuration file: read once into a tree that knows its lines, decoded into the file types of [`file`], and built into
//! the runtime types of the parts.
mod decode;
mod describe;
mod file;
mod leaf;
mod problem;
mod read;
mod schema;
mod tree;
mod watch;

pub use problem::{Problem, Problems};
pub use schema::schema;
pub use watch::{Changes, Fingerprint, Watch};

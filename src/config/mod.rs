//! The configuration file: read once into a tree that knows its lines, decoded into the file types of [`file`], and built into
//! the runtime types of the parts.
mod decode;
mod describe;
mod file;
mod leaf;
mod problem;
mod read;
mod tree;

pub use problem::{Problem, Problems};

use decode::{Decode, Definitions};
use serde_json::json;

/// The JSON Schema (draft 2020-12) of the configuration file: an editor completes and validates with it.
pub fn schema() -> serde_json::Value {
    let mut definitions = Definitions::new();
    let root = file::File::describe(&mut definitions);
    let mut schema = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "idjag-proxy" });
    for key in ["$ref"] {
        schema[key] = root[key].clone();
    }
    schema["$defs"] = definitions.into();
    schema
}

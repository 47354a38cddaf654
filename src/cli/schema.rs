//! `idjag-proxy schema`: prints the JSON Schema of the configuration file.
use super::terminal::print;
use crate::config::schema;
use std::process::ExitCode;

pub(super) fn run() -> ExitCode {
    print(&format!("{:#}\n", schema()));
    ExitCode::SUCCESS
}

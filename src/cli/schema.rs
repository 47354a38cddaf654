//! `idjag-proxy schema`
use super::print;
use crate::config::schema;
use std::process::ExitCode;

pub(super) fn run() -> ExitCode {
    print(&format!("{:#}\n", schema()));
    ExitCode::SUCCESS
}

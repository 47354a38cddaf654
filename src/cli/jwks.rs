//! `idjag-proxy jwks`: prints the key set that `listen.jwks` serves, so that it can be hosted
//! elsewhere.
use super::terminal::{EX_CONFIG, environment, print, print_error};
use crate::config::{Overrides, load};
use crate::jose::jwks;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(file: &Path) -> ExitCode {
    match load(file, &environment, &Overrides::default()) {
        Ok(loaded) if loaded.config.published_keys.is_empty() => {
            print_error(
                "There is no key to publish: this configuration signs with the SVID's key, which is verified through its certificate.",
            );
            print("{\"keys\":[]}\n");
            ExitCode::SUCCESS
        }
        Ok(loaded) => {
            print(&format!("{:#}\n", jwks(&loaded.config.published_keys)));
            ExitCode::SUCCESS
        }
        Err(problems) => {
            print_error(&problems.to_string());
            ExitCode::from(EX_CONFIG)
        }
    }
}

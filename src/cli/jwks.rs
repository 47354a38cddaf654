//! `idjag-proxy jwks`: the same set as the listener's, to host anywhere.
use super::{EX_CONFIG, complain, environment, print};
use crate::config::{Overrides, load};
use crate::jose::jwks;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(file: &Path) -> ExitCode {
    match load(file, &environment, &Overrides::default()) {
        Ok(loaded) if loaded.config.published_keys.is_empty() => {
            complain(
                "This configuration signs with the SVID's key, which verifies by its certificate: there is no key to publish.",
            );
            print("{\"keys\":[]}\n");
            ExitCode::SUCCESS
        }
        Ok(loaded) => {
            print(&format!("{:#}\n", jwks(&loaded.config.published_keys)));
            ExitCode::SUCCESS
        }
        Err(problems) => {
            complain(&problems.to_string());
            ExitCode::from(EX_CONFIG)
        }
    }
}

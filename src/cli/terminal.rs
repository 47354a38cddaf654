//! What the commands share: exit codes, output for people, the environment and a runtime.
use crate::telemetry::Level;

/// The input data is invalid (sysexits(3)).
#[cfg(feature = "kubernetes")]
pub(super) const EX_DATAERR: u8 = 65;
/// The configuration is invalid (sysexits(3)).
pub(super) const EX_CONFIG: u8 = 78;
/// An operation failed.
pub(super) const EX_FAILED: u8 = 1;

/// Parses the value of a flag for a log level.
pub(super) fn log_level(text: &str) -> Result<Level, String> {
    Level::parse(text).ok_or_else(|| "use error, warn, info, debug or trace".to_owned())
}

/// Reads one environment variable.
#[expect(clippy::disallowed_methods, reason = "the one place that hands the environment to `config`")]
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Prints one line for people on standard error.
#[expect(clippy::print_stderr, reason = "the command line talks to people")]
pub(super) fn print_error(text: &str) {
    eprintln!("{text}");
}

/// Prints a result on standard output. It is not an error if the reader has gone away.
pub(super) fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A runtime for one short request.
pub(super) fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

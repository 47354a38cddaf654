//! The integration tests: one binary, real protocols over real sockets.
#[cfg(feature = "dev")]
mod identity;
#[cfg(feature = "dev")]
mod log;

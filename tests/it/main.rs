//! The integration tests: one binary, real protocols over real sockets.
#[cfg(feature = "dev")]
mod addressing;
#[cfg(feature = "dev")]
mod agent;
mod dependencies;
#[cfg(feature = "dev")]
mod identity;
mod layers;
#[cfg(feature = "dev")]
mod log;
#[cfg(feature = "dev")]
mod rig;

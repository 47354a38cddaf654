//! The integration tests: one binary, real protocols over real sockets.
#[cfg(feature = "dev")]
mod abuse;
#[cfg(feature = "dev")]
mod addressing;
#[cfg(feature = "dev")]
mod agent;
#[cfg(feature = "dev")]
mod binary;
#[cfg(feature = "dev")]
mod connect;
#[cfg(feature = "dev")]
mod demo;
mod dependencies;
#[cfg(feature = "dev")]
mod downloads;
#[cfg(feature = "dev")]
mod exchange;
#[cfg(feature = "dev")]
mod floods;
#[cfg(feature = "dev")]
mod frames;
#[cfg(feature = "dev")]
mod grpc;
#[cfg(feature = "dev")]
mod handshakes;
#[cfg(feature = "dev")]
mod hops;
#[cfg(feature = "dev")]
mod identity;
#[cfg(all(feature = "dev", feature = "kubernetes"))]
mod kubernetes;
mod layers;
#[cfg(feature = "dev")]
mod leaks;
#[cfg(feature = "dev")]
mod lines;
#[cfg(feature = "dev")]
mod log;
#[cfg(feature = "dev")]
mod operations;
#[cfg(feature = "dev")]
mod overload;
#[cfg(feature = "dev")]
mod passing;
#[cfg(feature = "dev")]
mod placement;
#[cfg(feature = "dev")]
mod pools;
#[cfg(feature = "dev")]
mod process;
#[cfg(all(feature = "dev", feature = "kubernetes"))]
mod public_names;
#[cfg(feature = "dev")]
mod published;
mod readme;
#[cfg(feature = "dev")]
mod refusals;
#[cfg(feature = "dev")]
mod reloads;
#[cfg(feature = "dev")]
mod revoked;
#[cfg(feature = "dev")]
mod secrets;
#[cfg(feature = "dev")]
mod streams;
#[cfg(feature = "dev")]
mod tokens;
#[cfg(feature = "dev")]
mod turnover;
#[cfg(feature = "dev")]
mod unprocessed;
#[cfg(feature = "dev")]
mod uploads;
#[cfg(feature = "dev")]
mod watched;
#[cfg(feature = "dev")]
mod world;

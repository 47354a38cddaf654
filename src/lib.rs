//! `idjag-proxy`: a sidecar that gives an AI agent's outbound calls an identity.
pub mod admin;
pub mod app;
pub mod assertion;
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(feature = "dev")]
pub mod dev;
pub mod exchange;
pub mod identity;
pub mod policy;
pub mod proxy;
pub mod secret;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod token;

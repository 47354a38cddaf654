//! `idjag-proxy`: a sidecar that gives an AI agent's outbound calls an identity.
pub mod assertion;
pub mod clock;
pub mod config;
pub mod exchange;
pub mod identity;
pub mod policy;
pub mod secret;
pub mod tasks;
pub mod tls;

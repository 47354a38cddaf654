//! `idjag-proxy`: a sidecar that gives an AI agent's outbound calls an identity.
pub mod clock;
pub mod config;
/// stage
pub mod policy {
    mod matcher;
    mod path;
    pub use matcher::*;
    pub use path::*;
}
pub mod secret;
pub mod tasks;

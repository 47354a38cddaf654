//! Issuers: what is configured of them, how they are asked, and what is known of them.
pub(super) mod connector;
mod document_cache;
pub(super) mod freshness;
pub(super) mod http_client;
mod metadata;
pub(super) mod runtime;
pub(super) mod settings;
pub(super) mod verify;

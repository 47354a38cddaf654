//! The peers of the integration tests and the demo, in one process: certificate and JWT authorities
//! of a trust domain, a SPIFFE Workload API, an OAuth authorization server and a resource server.
//! They speak the real protocols over real sockets.
//!
//! Of the crate, this module imports only `clock`, `secret`, `sync` and `tasks`, because it must
//! not check the proxy's assertions with the code that made them. It is not meant for production:
//! keys live in memory, and nothing here is fast or hardened.
pub mod authorization_server;
pub mod ca;
pub mod faults;
pub mod http;
pub mod jwt;
mod request_log;
pub mod resource_server;
pub mod workload_api;

//! The Kubernetes half: the webhook over TLS beside an API server of five calls, and `inject` as a process.
//! A real API server is asked in `tests/cluster`.
mod api_server;
mod inject;
mod webhook;

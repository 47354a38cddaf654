//! The Kubernetes half: the webhook over TLS beside an API server of five calls, `inject` as a process, and the manifests in `deploy/`.
//! A real API server is asked in `tests/cluster`.
mod api_server;
mod deploy;
mod inject;
mod webhook;
mod webhook_load;

pub(crate) use webhook::scrape as scrape_injector;

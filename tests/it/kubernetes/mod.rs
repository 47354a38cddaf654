//! Tests of the Kubernetes parts: the webhook over TLS with an API server that knows five calls,
//! `inject` as a process, and the manifests in `deploy/`. `tests/cluster` uses a real API server.
mod api_server;
mod deploy;
mod inject;
mod webhook;
mod webhook_load;

pub(crate) use webhook::scrape as scrape_injector;

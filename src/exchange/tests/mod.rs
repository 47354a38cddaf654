//! Tests of requests to issuers, through the exchange. Each has a server that behaves in one
//! particular way.
mod discovery;
mod http_client;

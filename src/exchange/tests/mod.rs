//! How issuers are asked, seen from the exchange. Each test has a server that behaves in one
//! particular way.
mod discovery;
mod http_client;

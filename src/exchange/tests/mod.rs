//! How issuers are asked, seen from the exchange: each test is a server that behaves in one way.
mod discovery;
mod http_client;

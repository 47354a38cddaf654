//! The optional listener that publishes the keys that sign assertions.
use crate::http_server::{ConnectionBudget, READ_ONLY, Server, method_not_allowed, not_found, response};
use crate::tasks::Stop;
use arc_swap::ArcSwap;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;

/// Serves the key set in `keys` at `/jwks` and `/.well-known/jwks.json` until `stop` fires, with
/// connections of `budget`.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve_jwks(
    listener: std::net::TcpListener,
    keys: Arc<ArcSwap<String>>,
    budget: ConnectionBudget,
    stop: Stop,
) -> Result<(), String> {
    let listener =
        tokio::net::TcpListener::from_std(listener).map_err(|error| format!("the JWKS listener failed: {error}"))?;
    let handler = move |request: Request<Incoming>| {
        let answered = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/jwks" | "/.well-known/jwks.json") => {
                response(StatusCode::OK, "application/jwk-set+json", keys.load().as_bytes().to_vec())
            }
            (_, "/jwks" | "/.well-known/jwks.json") => method_not_allowed(READ_ONLY),
            _ => not_found("port", "/jwks and /.well-known/jwks.json"),
        };
        async move { answered }
    };
    Server { handler, budget, stop }.serve(listener).await
}

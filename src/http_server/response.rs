//! Responses whose body is in memory.
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

/// The methods of a resource that can only be read.
pub(crate) const READ_ONLY: &str = "GET, HEAD";

/// A response whose body is in memory.
pub(crate) type FullResponse = Response<Full<Bytes>>;

/// Makes a response that no cache may store.
pub(crate) fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> FullResponse {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Makes a response of plain text.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> FullResponse {
    response(status, "text/plain; charset=utf-8", body)
}

/// Makes the 404 of `place`, a port or a socket. `paths` lists what it serves, in words.
pub(crate) fn not_found(place: &str, paths: &str) -> FullResponse {
    text(StatusCode::NOT_FOUND, format!("not found; this {place} serves {paths}\n"))
}

/// Makes a 405, which says what is `allowed` (RFC 9110 §15.5.6).
pub(crate) fn method_not_allowed(allowed: &'static str) -> FullResponse {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("method not allowed: use {allowed}\n"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

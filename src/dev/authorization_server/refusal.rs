//! Errors of the token endpoint (RFC 6749 §5.2 and its extensions).
use crate::dev::http::{Body, full};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

/// A refused token request: the error code for the client, and the reason for the operator of the
/// server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) reason: String,
}

pub(super) type Outcome<T> = Result<T, Refusal>;

impl Refusal {
    pub(super) fn new(code: &'static str, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    pub(super) fn invalid_request(reason: impl Into<String>) -> Self {
        Self::new("invalid_request", reason)
    }

    pub(super) fn invalid_grant(reason: impl Into<String>) -> Self {
        Self::new("invalid_grant", reason)
    }

    pub(super) fn invalid_client(reason: impl Into<String>) -> Self {
        Self::new("invalid_client", reason)
    }

    /// The answer. `challenge` says that the client used the `Authorization` field, so that RFC
    /// 6749 §5.2 requires `WWW-Authenticate`.
    pub(super) fn response(&self, challenge: bool) -> Response<Body> {
        let (status, description) = match self.code {
            // The client gets no hint as to which check failed.
            "invalid_client" => (StatusCode::UNAUTHORIZED, "client authentication failed"),
            _ => (StatusCode::BAD_REQUEST, self.reason.as_str()),
        };
        let mut response = json_response(status, &json!({ "error": self.code, "error_description": description }));
        if challenge && status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"dev\""));
        }
        response
    }
}

/// A JSON answer that must not be stored (RFC 6749 §5.1).
pub(super) fn json_response(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

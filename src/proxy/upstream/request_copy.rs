//! A copy of a request, so that it can be sent again.
use super::request_body::RequestBody;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, Version};

/// A copy of a request without a body or with a buffered one, for a retry or a replay. It holds no
/// credential of the proxy.
pub(crate) struct RequestCopy {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Option<Bytes>,
}

impl RequestCopy {
    /// Copies a request; `None` if its body is streamed.
    pub(crate) fn of(request: &Request<RequestBody>) -> Option<Self> {
        let RequestBody::Buffered(body) = request.body() else { return None };
        Some(Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            body: body.clone(),
        })
    }

    /// Whether processing it twice is the same as processing it once (RFC 9110 §9.2.2).
    pub(super) fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }

    pub(super) fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// Makes a request from the copy.
    pub(crate) fn request(&self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Buffered(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.clone();
        request
    }
}

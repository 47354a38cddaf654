//! Why the proxy refuses a request, who is at fault, and the response that the agent gets.
use super::dialect::Dialect;
use super::ended::EndedBy;
use crate::issuer::Fault;
use crate::token::TokenError;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use std::time::Duration;

/// The value of `Allow` when TRACE is refused. Methods that it does not list are forwarded, too.
pub(super) const ALLOWED: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT");

/// The status codes of gRPC that are in use (`statuscodes.md` of its specification).
#[derive(Clone, Copy)]
enum GrpcCode {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// Everything that follows from a reason.
struct Facts {
    /// The label in metrics and the end of the problem's `type`.
    label: &'static str,
    status: StatusCode,
    grpc: GrpcCode,
    /// The `error` of `Proxy-Status` (RFC 9209 §2.3).
    proxy_status: &'static str,
    title: &'static str,
    /// Who ended the request.
    ended_by: EndedBy,
    /// Whether the connection ends with the answer.
    close: bool,
}

/// One row for each reason: a new one is added here and nowhere else.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+
       $variant:ident => $label:literal, $status:ident, $grpc:ident, $proxy_status:literal, $title:literal, $ended_by:ident $(, $close:ident)?;)+) => {
        /// Why a request was refused: the label in metrics and the end of the problem's `type`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of the discriminants.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            const fn facts(self) -> &'static Facts {
                match self {
                    $(Self::$variant => &Facts {
                        label: $label,
                        status: StatusCode::$status,
                        grpc: GrpcCode::$grpc,
                        proxy_status: $proxy_status,
                        title: $title,
                        ended_by: EndedBy::$ended_by,
                        close: reasons!(@close $($close)?),
                    },)+
                }
            }
        }
    };
    (@close close) => { true };
    (@close) => { false };
}

reasons! {
    /// No route matches.
    NoRoute => "no_route", FORBIDDEN, PermissionDenied,
        "http_request_denied", "No route for this request", Whole;
    /// The request is malformed or ambiguous.
    MalformedRequest => "malformed_request", BAD_REQUEST, InvalidArgument,
        "http_request_error", "Malformed request", Whole, close;
    /// A browser says that another site made the request.
    CrossSite => "cross_site", FORBIDDEN, PermissionDenied,
        "http_request_denied", "Another site's request", Whole;
    /// The upstream may interpret the path differently from this proxy.
    AmbiguousPath => "ambiguous_path", BAD_REQUEST, InvalidArgument,
        "http_request_error", "Ambiguous path", Whole;
    /// A CONNECT asks for TLS to a route that needs a credential.
    CallAsHttp => "call_as_http", FORBIDDEN, PermissionDenied,
        "http_request_denied", "Call this host as http://", Whole;
    /// The method is TRACE.
    TraceForbidden => "trace_forbidden", METHOD_NOT_ALLOWED, Unimplemented,
        "http_request_denied", "TRACE is refused", Whole;
    /// The workload's identity is missing or has expired.
    IdentityMissing => "identity_missing", SERVICE_UNAVAILABLE, Unavailable,
        "proxy_internal_error", "The workload has no identity now", Whole;
    /// The user's token is missing or was not accepted.
    UserToken => "user_token", UNAUTHORIZED, Unauthenticated,
        "http_request_denied", "The user's token was not accepted", Whole;
    /// The authorization server refuses, and the agent or its user can change that.
    AuthorizationDenied => "authorization_denied", FORBIDDEN, PermissionDenied,
        "http_request_denied", "The authorization server refused", Whole;
    /// The authorization server refuses, and only an operator can change that.
    AuthorizationMisconfigured => "authorization_misconfigured", BAD_GATEWAY, Unavailable,
        "proxy_configuration_error", "The authorization server refused this proxy", Whole;
    /// No token was obtained in time.
    TokenUnavailable => "token_unavailable", SERVICE_UNAVAILABLE, Unavailable,
        "destination_unavailable", "No access token now", Whole;
    /// The upstream cannot be reached.
    UpstreamUnreachable => "upstream_unreachable", BAD_GATEWAY, Unavailable,
        "connection_refused", "The upstream cannot be reached", Upstream;
    /// The upstream's TLS or identity was refused, or it refused ours.
    UpstreamTls => "upstream_tls", BAD_GATEWAY, Unavailable,
        "tls_certificate_error", "TLS with the upstream was refused", Upstream;
    /// The upstream broke off or violated the protocol.
    UpstreamBroken => "upstream_broken", BAD_GATEWAY, Unavailable,
        "http_response_incomplete", "The upstream broke off", Upstream;
    /// The upstream is too slow.
    UpstreamTimeout => "upstream_timeout", GATEWAY_TIMEOUT, DeadlineExceeded,
        "http_response_timeout", "The upstream is too slow", Timeout;
    /// The request as a whole took longer than its route or its client allows.
    TotalTimeout => "total_timeout", GATEWAY_TIMEOUT, DeadlineExceeded,
        "http_response_timeout", "The request took too long", Timeout;
    /// The host's address is one that no route may lead to.
    AddressProhibited => "address_prohibited", BAD_GATEWAY, Unavailable,
        "destination_ip_prohibited", "The host's address is not allowed", Whole;
    /// The request leads back to this proxy.
    Loop => "loop", LOOP_DETECTED, Unavailable,
        "proxy_loop_detected", "The request leads back to this proxy", Whole;
    /// The body is larger than its route allows.
    BodyTooLarge => "body_too_large", PAYLOAD_TOO_LARGE, ResourceExhausted,
        "http_request_error", "The body is too large", Limit;
    /// The URI is longer than the limit.
    UriTooLong => "uri_too_long", URI_TOO_LONG, ResourceExhausted,
        "http_request_error", "The URI is too long", Limit;
    /// The request's head is larger than the limit.
    HeadTooLarge => "head_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, ResourceExhausted,
        "http_request_error", "The request's head is too large", Limit, close;
    /// More requests or connections are open than the limit allows.
    TooManyRequests => "too_many_requests", SERVICE_UNAVAILABLE, ResourceExhausted,
        "connection_limit_reached", "Too many requests at once", Limit;
    /// The route is at one of its own limits.
    RateLimited => "rate_limited", TOO_MANY_REQUESTS, ResourceExhausted,
        "http_request_denied", "The route is at its limit", Limit;
    /// The request expects something other than `100-continue`.
    Expectation => "expectation", EXPECTATION_FAILED, InvalidArgument,
        "http_request_error", "Unknown expectation", Whole;
}

impl Reason {
    /// Who ended a request that got this refusal: the agent got the whole answer, if it was a
    /// decision of this proxy.
    pub(super) fn ended_by(self) -> EndedBy {
        self.facts().ended_by
    }

    /// Whether the upstream gave no answer. It is not a refusal then: this proxy did what it could.
    pub const fn is_upstream_failure(self) -> bool {
        matches!(self, Self::UpstreamUnreachable | Self::UpstreamTls | Self::UpstreamBroken | Self::UpstreamTimeout)
    }

    /// The label of this reason in metrics.
    pub const fn as_str(self) -> &'static str {
        self.facts().label
    }
}

/// Problem details (RFC 9457), with two members of our own.
#[derive(Serialize)]
struct Problem<'p> {
    r#type: &'p str,
    title: &'static str,
    status: u16,
    detail: &'p str,
    /// The error code of the authorization server.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'p str>,
    request_id: &'p str,
}

/// A refusal: the reason, and the explanation for the agent. It contains no text of an
/// authorization server or an upstream.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {detail}", .reason.as_str())]
pub struct Refusal {
    /// Why the request is refused.
    pub reason: Reason,
    detail: String,
    oauth_error: Option<String>,
    retry_after: Option<Duration>,
    proxy_status: Option<&'static str>,
}

impl Refusal {
    /// A refusal with the explanation `detail` for the agent.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { reason, detail, oauth_error: None, retry_after: None, proxy_status: None }
    }

    /// A refusal because a limit is reached. The agent may try again in a second.
    pub fn too_many(detail: impl Into<String>) -> Self {
        Self::new(Reason::TooManyRequests, detail).with_retry_after(Duration::from_secs(1))
    }

    /// A refusal because the request as a whole took too long.
    pub(super) fn total_timeout() -> Self {
        Self::new(Reason::TotalTimeout, "The request took longer than the route's `timeouts.total`, or `grpc-timeout`.")
    }

    /// Sets a more precise `Proxy-Status` error than the reason's own.
    pub fn with_proxy_status(mut self, error: &'static str) -> Self {
        self.proxy_status = Some(error);
        self
    }

    /// Sets the time after which the agent may try again.
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// The explanation that the agent gets.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The status of the answer to an agent that does not speak gRPC.
    pub fn status(&self) -> StatusCode {
        self.reason.facts().status
    }

    /// The response, as the agent's library expects it: problem details (RFC 9457), or for gRPC and
    /// gRPC-Web a head without a body.
    pub fn response(&self, dialect: Dialect, request_id: &str) -> Response<Bytes> {
        let mut response = match dialect {
            Dialect::Plain => self.problem(request_id),
            Dialect::Grpc => self.grpc("application/grpc"),
            Dialect::GrpcWeb => self.grpc("application/grpc-web"),
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let error = self.proxy_status.unwrap_or(self.reason.facts().proxy_status);
        let proxy_status = format!("idjag-proxy; error={error}; details=\"{}\"", self.reason.as_str());
        if let Ok(value) = HeaderValue::try_from(proxy_status) {
            headers.insert("proxy-status", value);
        }
        if let Some(retry_after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
        }
        if self.reason.facts().close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn problem(&self, request_id: &str) -> Response<Bytes> {
        let Facts { label, title, .. } = self.reason.facts();
        let status = self.status();
        let problem = Problem {
            r#type: &format!("urn:idjag-proxy:problem:{label}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            error: self.oauth_error.as_deref(),
            request_id,
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            // A 401 must say how to authenticate (RFC 9110 §15.5.2). Proxy-Status distinguishes
            // ours from the upstream's.
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"idjag-proxy\", error=\"invalid_token\""),
            );
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, ALLOWED);
        }
        response
    }

    /// A `Trailers-Only` response of gRPC (`PROTOCOL-HTTP2.md` of its specification): a 200 without
    /// a body, whose headers hold the status. gRPC-Web has the same form, because trailers may be
    /// sent with the head if no message follows (`PROTOCOL-WEB.md`); its clients make nothing of a
    /// problem document, or of any status other than 200.
    fn grpc(&self, content_type: &'static str) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert("grpc-status", HeaderValue::from(self.reason.facts().grpc as u16));
        let message: String =
            form_urlencoded::byte_serialize(self.detail.as_bytes()).collect::<String>().replace('+', "%20");
        if let Ok(value) = HeaderValue::try_from(message) {
            headers.insert("grpc-message", value);
        }
        response
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        let unavailable = |detail: &str, wait| Self::new(Reason::TokenUnavailable, detail).with_retry_after(wait);
        let error = match error {
            TokenError::Timeout => {
                return unavailable(
                    "The authorization server did not answer in time; the proxy keeps retrying.",
                    Duration::from_secs(2),
                );
            }
            TokenError::Busy => return unavailable("Too many requests wait for tokens.", Duration::from_secs(1)),
            TokenError::Stopped => return unavailable("The proxy is shutting down.", Duration::from_secs(1)),
            TokenError::Exchange(error) => error,
        };
        let reason = match error.fault() {
            Fault::Agent => Reason::AuthorizationDenied,
            Fault::User => Reason::UserToken,
            Fault::Operator => Reason::AuthorizationMisconfigured,
            Fault::Unavailable => Reason::TokenUnavailable,
            Fault::Identity => Reason::IdentityMissing,
        };
        let mut refusal = Self::new(reason, error.advice());
        refusal.oauth_error = error.oauth_code().map(str::to_owned);
        if matches!(reason, Reason::TokenUnavailable | Reason::IdentityMissing) {
            refusal.retry_after = Some(error.retry_after().unwrap_or_else(|| error.negative_ttl()));
        }
        refusal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_listed_in_the_order_of_their_discriminants() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "{reason:?}");
        }
    }
}

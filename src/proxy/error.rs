//! Everything that can go wrong with a request, whose fault it is, and the one place that makes the answer.
use super::body::{AgentBody, UploadFault};
use crate::exchange::Fault;
use crate::token::TokenError;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use std::time::Duration;

/// Methods that are not refused; others of no meaning to a proxy pass too.
pub(super) const ALLOWED: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT");

/// Why a request was refused: the label in metrics and the end of the problem's `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No route matches.
    NoRoute,
    /// Malformed or ambiguous.
    MalformedRequest,
    /// A browser says that another site made it.
    CrossSite,
    /// A path that the upstream may read otherwise than we do.
    AmbiguousPath,
    /// CONNECT for TLS to a route that needs a credential.
    CallAsHttp,
    /// TRACE.
    TraceForbidden,
    /// The workload's identity is missing or has ended.
    IdentityMissing,
    /// The user's token is missing or was not accepted.
    UserToken,
    /// The authorization server refuses, and the agent or its user could change that.
    AuthorizationDenied,
    /// The authorization server refuses, and only an operator can change that.
    AuthorizationMisconfigured,
    /// No token in time.
    TokenUnavailable,
    /// The upstream cannot be reached.
    UpstreamUnreachable,
    /// The upstream's TLS or identity was refused, or it refused ours.
    UpstreamTls,
    /// The upstream broke off or spoke nonsense.
    UpstreamBroken,
    /// The upstream is too slow.
    UpstreamTimeout,
    /// An address that no route may lead to.
    AddressProhibited,
    /// A loop to ourselves.
    Loop,
    /// The body is too large.
    BodyTooLarge,
    /// The URI is too long.
    UriTooLong,
    /// The head is too large.
    HeadTooLarge,
    /// More requests than the limit.
    TooManyRequests,
    /// An expectation other than 100-continue.
    Expectation,
}

impl Reason {
    /// All of them, for the metrics' closed label set.
    pub const ALL: [Self; 22] = [
        Self::NoRoute,
        Self::MalformedRequest,
        Self::CrossSite,
        Self::AmbiguousPath,
        Self::CallAsHttp,
        Self::TraceForbidden,
        Self::IdentityMissing,
        Self::UserToken,
        Self::AuthorizationDenied,
        Self::AuthorizationMisconfigured,
        Self::TokenUnavailable,
        Self::UpstreamUnreachable,
        Self::UpstreamTls,
        Self::UpstreamBroken,
        Self::UpstreamTimeout,
        Self::AddressProhibited,
        Self::Loop,
        Self::BodyTooLarge,
        Self::UriTooLong,
        Self::HeadTooLarge,
        Self::TooManyRequests,
        Self::Expectation,
    ];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        self.facts().0
    }

    /// Label, status, gRPC code (grpc status codes, statuscodes.md), `Proxy-Status` error (RFC 9209 §2.3), title.
    const fn facts(self) -> (&'static str, StatusCode, u8, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::NoRoute => ("no_route", S::FORBIDDEN, 7, "http_request_denied", "No route for this request"),
            Self::MalformedRequest => {
                ("malformed_request", S::BAD_REQUEST, 3, "http_request_error", "Malformed request")
            }
            Self::CrossSite => ("cross_site", S::FORBIDDEN, 7, "http_request_denied", "Another site's request"),
            Self::AmbiguousPath => ("ambiguous_path", S::BAD_REQUEST, 3, "http_request_error", "Ambiguous path"),
            Self::CallAsHttp => ("call_as_http", S::FORBIDDEN, 7, "http_request_denied", "Call this host as http://"),
            Self::TraceForbidden => {
                ("trace_forbidden", S::METHOD_NOT_ALLOWED, 12, "http_request_denied", "TRACE is refused")
            }
            Self::IdentityMissing => (
                "identity_missing",
                S::SERVICE_UNAVAILABLE,
                14,
                "proxy_internal_error",
                "The workload has no identity now",
            ),
            Self::UserToken => {
                ("user_token", S::UNAUTHORIZED, 16, "http_request_denied", "The user's token was not accepted")
            }
            Self::AuthorizationDenied => {
                ("authorization_denied", S::FORBIDDEN, 7, "http_request_denied", "The authorization server refused")
            }
            Self::AuthorizationMisconfigured => (
                "authorization_misconfigured",
                S::BAD_GATEWAY,
                14,
                "proxy_configuration_error",
                "The authorization server refused this proxy",
            ),
            Self::TokenUnavailable => {
                ("token_unavailable", S::SERVICE_UNAVAILABLE, 14, "destination_unavailable", "No access token now")
            }
            Self::UpstreamUnreachable => {
                ("upstream_unreachable", S::BAD_GATEWAY, 14, "connection_refused", "The upstream cannot be reached")
            }
            Self::UpstreamTls => {
                ("upstream_tls", S::BAD_GATEWAY, 14, "tls_certificate_error", "TLS with the upstream was refused")
            }
            Self::UpstreamBroken => {
                ("upstream_broken", S::BAD_GATEWAY, 14, "http_response_incomplete", "The upstream broke off")
            }
            Self::UpstreamTimeout => {
                ("upstream_timeout", S::GATEWAY_TIMEOUT, 4, "http_response_timeout", "The upstream is too slow")
            }
            Self::AddressProhibited => (
                "address_prohibited",
                S::BAD_GATEWAY,
                14,
                "destination_ip_prohibited",
                "The host's address is not allowed",
            ),
            Self::Loop => ("loop", S::LOOP_DETECTED, 14, "proxy_loop_detected", "The request leads back to this proxy"),
            Self::BodyTooLarge => {
                ("body_too_large", S::PAYLOAD_TOO_LARGE, 8, "http_request_error", "The body is too large")
            }
            Self::UriTooLong => ("uri_too_long", S::URI_TOO_LONG, 8, "http_request_error", "The URI is too long"),
            Self::HeadTooLarge => (
                "head_too_large",
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                8,
                "http_request_error",
                "The request's head is too large",
            ),
            Self::TooManyRequests => (
                "too_many_requests",
                S::SERVICE_UNAVAILABLE,
                8,
                "connection_limit_reached",
                "Too many requests at once",
            ),
            Self::Expectation => ("expectation", S::EXPECTATION_FAILED, 3, "http_request_error", "Unknown expectation"),
        }
    }
}

/// A refusal: why, and what the agent is told. Nothing of an issuer's or an upstream's own text is in it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {detail}", .reason.as_str())]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    detail: String,
    oauth_error: Option<String>,
    retry_after: Option<Duration>,
    status: Option<StatusCode>,
    proxy_status: Option<&'static str>,
    close: bool,
}

impl Refusal {
    /// A refusal that tells the agent `detail`.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let close = matches!(reason, Reason::MalformedRequest | Reason::HeadTooLarge);
        Self {
            reason,
            detail: detail.into(),
            oauth_error: None,
            retry_after: None,
            status: None,
            proxy_status: None,
            close,
        }
    }

    /// A limit of ours that may have room again in a moment.
    pub fn too_many(detail: impl Into<String>) -> Self {
        Self::new(Reason::TooManyRequests, detail).with_retry_after(Duration::from_secs(1))
    }

    /// With a more exact `Proxy-Status` error than the reason's own.
    pub fn with_proxy_status(mut self, error: &'static str) -> Self {
        self.proxy_status = Some(error);
        self
    }

    /// With another status than the reason's own.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// With a time to come back after.
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// What the agent is told.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The status that it gets, where it does not speak gRPC.
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or(self.reason.facts().1)
    }

    /// The answer: problem+json (RFC 9457), or trailers only with a code for gRPC.
    pub fn response(&self, grpc: bool) -> Response<AgentBody> {
        let mut response = if grpc { self.grpc() } else { self.problem() };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let error = self.proxy_status.unwrap_or(self.reason.facts().3);
        let proxy_status = format!("idjag-proxy; error={error}; details=\"{}\"", self.reason.as_str());
        if let Ok(value) = HeaderValue::try_from(proxy_status) {
            headers.insert("proxy-status", value);
        }
        if let Some(retry_after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn problem(&self) -> Response<AgentBody> {
        let (label, _, _, _, title) = self.reason.facts();
        let status = self.status();
        let mut problem = json!({
            "type": format!("urn:idjag-proxy:problem:{label}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail,
        });
        if let Some(error) = &self.oauth_error {
            problem["error"] = json!(error);
        }
        let mut response = Response::new(AgentBody::message(Bytes::from(problem.to_string())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §15.5.2: a 401 says how to authenticate. Ours is told from the upstream's by Proxy-Status.
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

    /// PROTOCOL-HTTP2.md of gRPC: `Trailers-Only` is a 200 whose status stands in the headers.
    fn grpc(&self) -> Response<AgentBody> {
        let mut response = Response::new(AgentBody::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(self.reason.facts().2)));
        let message: String =
            form_urlencoded::byte_serialize(self.detail.as_bytes()).collect::<String>().replace('+', "%20");
        if let Ok(value) = HeaderValue::try_from(message) {
            headers.insert("grpc-message", value);
        }
        response
    }
}

impl From<UploadFault> for Refusal {
    fn from(fault: UploadFault) -> Self {
        match fault {
            UploadFault::TooLarge => Self::new(Reason::BodyTooLarge, "The body is larger than its route allows."),
            UploadFault::Broken => {
                Self::new(Reason::MalformedRequest, "The body broke off, or is not framed as it says.")
            }
            UploadFault::Idle => Self::new(Reason::MalformedRequest, "The body did not come within the idle timeout."),
        }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        let unavailable = |detail: &str, wait| Self::new(Reason::TokenUnavailable, detail).with_retry_after(wait);
        let error = match error {
            TokenError::Timeout => {
                return unavailable(
                    "The authorization server did not answer in time; the proxy goes on asking.",
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

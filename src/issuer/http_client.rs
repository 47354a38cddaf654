//! The HTTP client of one authorization server: no redirects, no proxies, bounded answers,
//! deadlines.
use super::connector::{ConnectError, Connector, causes, tls_error};
use super::error::{IssuerError, MAX_RETRY_AFTER};
use super::freshness::http_date;
use super::settings::AuthorizationServer;
use super::workload::Workload;
use crate::clock::Timestamp;
use crate::sync::lock;
use crate::tls::{ClientCertificate, ClientTls, client_config, reason};
use bytes::Bytes;
use http::header::{ACCEPT, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use url::Url;

/// A larger body is not read to its end.
const MAX_BODY: usize = 256 * 1024;
/// The most bytes of the header fields of an answer.
const MAX_HEAD: usize = 64 * 1024;
/// Shorter than the idle timeout of common servers, so that a request rarely meets a connection
/// that is just being closed.
const IDLE: Duration = Duration::from_secs(15);
/// Room for two token requests, metadata and keys; more connections are never idle at once for
/// long.
const MAX_IDLE: usize = 4;

const USER_AGENT_VALUE: HeaderValue = HeaderValue::from_static(concat!("idjag-proxy/", env!("CARGO_PKG_VERSION")));

type PooledClient = Client<Connector, Full<Bytes>>;

/// A server's answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The client of one server.
pub(super) struct HttpClient {
    server: Arc<AuthorizationServer>,
    workload: Workload,
    pool: Mutex<Option<RevisionPool>>,
}

/// Connections that were made with one revision of the identity. If the identity takes part in TLS,
/// every change of it needs new connections, because a pooled one would go on speaking for the old
/// identity.
struct RevisionPool {
    revision: u64,
    client: PooledClient,
}

impl HttpClient {
    pub(super) fn new(server: Arc<AuthorizationServer>, workload: Workload) -> Self {
        Self { server, workload, pool: Mutex::default() }
    }

    pub(super) fn server(&self) -> &Arc<AuthorizationServer> {
        &self.server
    }

    pub(super) fn workload(&self) -> &Workload {
        &self.workload
    }

    /// Sends one request and reads the whole answer. If no connection could be made, nothing was
    /// sent, so it tries once more.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, IssuerError> {
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(USER_AGENT, USER_AGENT_VALUE);
        let client = self.client()?;
        // The request and its answer live on the heap: there are few of them, and the futures
        // around them stay small.
        let exchange = Box::pin(send_with_retry(client, request));
        match tokio::time::timeout(self.server.deadlines.total, exchange).await {
            Ok(result) => result.map_err(IssuerError::from),
            Err(_) => Err(IssuerError::Timeout("its answer")),
        }
    }

    /// Fetches a document with GET.
    pub(super) async fn get(&self, url: &Url) -> Result<Answer, IssuerError> {
        let request = Request::builder().method(Method::GET).uri(url.as_str()).body(Full::default());
        self.send(request.map_err(|_| IssuerError::Configuration(format!("{url} is not an HTTP URL")))?).await
    }

    /// Returns the URL if requests may be sent to it: over https, or to a host to which plain http
    /// is allowed.
    pub(super) fn permitted(&self, url: Url) -> Result<Url, IssuerError> {
        match url.scheme() {
            "https" => Ok(url),
            "http" if self.server.plain_http.allows(&url) => Ok(url),
            _ => Err(IssuerError::PlainHttp(url.to_string())),
        }
    }

    fn client(&self) -> Result<PooledClient, IssuerError> {
        let server = &self.server;
        let client_certificate =
            if server.client_auth.is_certificate() { ClientCertificate::Svid } else { ClientCertificate::None };
        let tls = ClientTls { trust: server.trust.clone(), client_certificate, alpn: vec![b"http/1.1".to_vec()] };
        let revision = match self.workload.identity() {
            Some(_) if tls.needs_identity() => self.workload.snapshot()?.revision,
            _ => 0,
        };
        let mut pool = lock(&self.pool);
        if let Some(pool) = pool.as_ref().filter(|pool| pool.revision == revision) {
            return Ok(pool.client.clone());
        }
        let config = client_config(&tls, self.workload.identity(), self.workload.clock());
        let connector = Connector {
            tls: config.map_err(|error| IssuerError::Configuration(error.to_string()))?.into(),
            plain_http: Arc::new(server.plain_http.clone()),
            deadline: server.deadlines.connect,
            egress_proxy: server.egress_proxy.clone(),
        };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(MAX_HEAD)
            .build(connector);
        *pool = Some(RevisionPool { revision, client: client.clone() });
        Ok(client)
    }
}

impl Answer {
    /// The error of an answer that means "not now" rather than a refusal: 5xx, 408, 425 or 429.
    pub(crate) fn busy(&self, now: Timestamp) -> Option<IssuerError> {
        let is_transient = self.status.is_server_error()
            || matches!(
                self.status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY
            );
        is_transient.then(|| IssuerError::Busy { status: self.status.as_u16(), retry_after: self.retry_after(now) })
    }

    /// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3).
    fn retry_after(&self, now: Timestamp) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?;
        let seconds = text.trim().parse().ok().map(Duration::from_secs);
        let wait = seconds.or_else(|| http_date(text).map(|at| at.since(now)))?;
        Some(wait.min(MAX_RETRY_AFTER))
    }
}

enum RequestError {
    /// No connection could be made, so another attempt may be made.
    NotConnected(String),
    Failed(IssuerError),
}

impl From<RequestError> for IssuerError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NotConnected(why) => Self::Unreachable(why),
            RequestError::Failed(error) => error,
        }
    }
}

/// Sends a request, and tries once more if no connection could be made.
async fn send_with_retry(client: PooledClient, request: Request<Full<Bytes>>) -> Result<Answer, RequestError> {
    match once(&client, request.clone()).await {
        Err(RequestError::NotConnected(_)) => once(&client, request).await,
        result => result,
    }
}

async fn once(client: &PooledClient, request: Request<Full<Bytes>>) -> Result<Answer, RequestError> {
    let url = request.uri().to_string();
    let response = client.request(request).await.map_err(|error| request_error(&error, &url))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| {
        RequestError::Failed(if error.is::<http_body_util::LengthLimitError>() {
            IssuerError::Response(format!("it is longer than {} KiB", MAX_BODY / 1024))
        } else {
            IssuerError::Unreachable(format!("the answer broke off: {}", reason(error.as_ref())))
        })
    })?;
    Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
}

fn request_error(error: &hyper_util::client::legacy::Error, url: &str) -> RequestError {
    let source = std::error::Error::source(error);
    RequestError::Failed(match source.and_then(|source| source.downcast_ref::<ConnectError>()) {
        Some(ConnectError::Tcp(why)) => return RequestError::NotConnected(why.clone()),
        Some(ConnectError::Tls(why)) => IssuerError::Tls(why.clone()),
        Some(ConnectError::Timeout(_)) => IssuerError::Timeout("connecting"),
        Some(ConnectError::PlainHttp) => IssuerError::PlainHttp(url.to_owned()),
        // TLS 1.3 refuses a client certificate only after the handshake, when the answer is read.
        None if causes(error).any(|cause| tls_error(cause).is_some()) => IssuerError::Tls(reason(error)),
        None => IssuerError::Unreachable(reason(error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::Fault;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_767_225_600);

    #[test]
    fn retry_after_accepts_seconds_and_dates_within_bounds() {
        let failure = |status, retry_after: Option<&'static str>| {
            let body = Bytes::from_static(br#"{"error":"invalid_client"}"#);
            let mut answer =
                Answer { status: StatusCode::from_u16(status).expect("a status"), headers: HeaderMap::new(), body };
            if let Some(value) = retry_after {
                answer.headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            }
            answer.busy(NOW)
        };
        for (value, seconds) in [
            (Some("7"), Some(7)),
            (Some("Thu, 01 Jan 2026 00:00:09 GMT"), Some(9)),
            (Some("Wed, 31 Dec 2025 00:00:00 GMT"), Some(0)),
            (Some("999999999"), Some(300)),
            (Some("-1"), None),
            (Some("soon"), None),
            (None, None),
        ] {
            let error = failure(503, value).expect("busy");
            assert_eq!(error.retry_after(), seconds.map(Duration::from_secs), "{value:?}");
            assert_eq!((error.fault(), error.kind()), (Fault::Unavailable, "busy"));
            assert!(error.negative_ttl() >= Duration::from_secs(1));
        }
        assert_eq!(failure(429, Some("7")).expect("busy").negative_ttl(), Duration::from_secs(7));
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert!(failure(status, None).is_some(), "{status}");
        }
        for status in [200, 302, 400, 401, 403, 404] {
            assert!(failure(status, None).is_none(), "{status}");
        }
    }
}

//! One request on one connection; and when another connection may be tried.
use super::config::{Key, Protocol};
use super::connect::{Allowed, Guard, connect, tcp};
use super::pool::{Connection, Lease, Pool};
use crate::policy::{Origin, Scheme, Timeouts};
use crate::proxy::body::{Progress, RequestBody, UploadFault};
use crate::proxy::error::{Reason, Refusal};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use hyper::body::Incoming;
use std::error::Error as _;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A request on its way up: everything but its body.
pub(crate) struct Call<'c> {
    /// Where to.
    pub key: &'c Arc<Key>,
    /// Its deadlines.
    pub timeouts: &'c Timeouts,
    /// Which addresses are refused.
    pub guard: &'c Guard,
    /// How far its upload is.
    pub progress: &'c Progress,
    /// The request once more, where it can be sent again.
    pub repeat: Option<&'c Repeat>,
}

/// A copy of a request that can be sent again: one without a body, or whose body was kept.
pub(crate) struct Repeat {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Option<Bytes>,
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The name has no address.
    #[error("the name does not resolve: {0}")]
    Resolve(#[source] Arc<std::io::Error>),
    /// The name leads to an address that names must not lead to.
    #[error("the name leads to {0}, a link-local address")]
    Prohibited(IpAddr),
    /// The name leads to ourselves.
    #[error("the name leads to this proxy's own port")]
    Loop,
    /// The process has no file descriptor for it.
    #[error("no file descriptor is left for a connection to it (RLIMIT_NOFILE)")]
    NoDescriptor,
    /// TCP refused.
    #[error("the connection failed: {0}")]
    Connect(#[source] std::io::Error),
    /// TCP and TLS took too long.
    #[error("no connection within the connect timeout")]
    ConnectTimeout,
    /// TLS failed, for a reason told to people.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The HTTP connection could not begin.
    #[error("the HTTP connection could not begin: {}", crate::tls::reason(.0))]
    Handshake(#[source] hyper::Error),
    /// It broke before a response.
    #[error("the upstream broke off before it answered: {}", crate::tls::reason(.0))]
    Broken(#[source] hyper::Error),
    /// No response in time.
    #[error("no response within the response timeout")]
    ResponseTimeout,
    /// The upload was given up, and that was the agent's doing.
    #[error("the request's body ended early: {0:?}")]
    Upload(UploadFault),
}

impl SendError {
    pub(super) fn tls(error: &std::io::Error) -> Self {
        Self::Tls(crate::tls::refusal(error).unwrap_or_else(|| error.to_string()))
    }

    /// A connection that was open: TLS 1.3 refuses a client certificate only after the handshake, when the answer is read.
    pub(super) fn broken(error: hyper::Error) -> Self {
        crate::tls::refusal(&error).or_else(|| tls_over_http2(&error)).map_or(Self::Broken(error), Self::Tls)
    }
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        let (reason, proxy_status, detail) = match &error {
            SendError::NoDescriptor => {
                return Self::too_many("The proxy has too many connections open for another one to the upstream.");
            }
            SendError::Resolve(_) => {
                (Reason::UpstreamUnreachable, "dns_error", "The upstream's name does not resolve.")
            }
            SendError::Prohibited(_) => (
                Reason::AddressProhibited,
                "destination_ip_prohibited",
                "The upstream's name leads to a link-local address.",
            ),
            SendError::Loop => (Reason::Loop, "proxy_loop_detected", "The request leads back to this proxy."),
            SendError::Connect(_) => {
                (Reason::UpstreamUnreachable, "connection_refused", "The upstream does not accept connections.")
            }
            SendError::ConnectTimeout => {
                (Reason::UpstreamTimeout, "connection_timeout", "The upstream did not accept a connection in time.")
            }
            SendError::Tls(_) => (
                Reason::UpstreamTls,
                "tls_certificate_error",
                "TLS with the upstream failed; the proxy's log says why.",
            ),
            SendError::Handshake(_) | SendError::Broken(_) => {
                (Reason::UpstreamBroken, "connection_terminated", "The upstream broke off before it answered.")
            }
            SendError::ResponseTimeout => {
                (Reason::UpstreamTimeout, "http_response_timeout", "The upstream did not answer in time.")
            }
            SendError::Upload(fault) => return (*fault).into(),
        };
        Self::new(reason, detail).with_proxy_status(proxy_status)
    }
}

/// Sends a request and waits for the response's head. Another connection is tried only where nothing of the request was
/// processed: it was never written, the peer says so (RFC 9113 §8.7), or it is idempotent without a body and an idle connection was
/// closed under it (RFC 9110 §9.2.2, RE-1).
pub(crate) async fn send(
    pool: &Rc<Pool>,
    call: &Call<'_>,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Lease), SendError> {
    let again = |broken: &hyper::Error| {
        let harmless = |repeat: &&Repeat| repeat.body.is_none() && repeat.method.is_idempotent() && !broken.is_parse();
        call.repeat.filter(|repeat| harmless(repeat) || is_unprocessed(broken))
    };
    if let Some(connection) = take(pool, call.key).await {
        match on(connection, request, call).await {
            Ok(answer) => return Ok(answer),
            Err(Failed { unsent: Some(unsent), .. }) => request = *unsent,
            Err(Failed { error: SendError::Broken(broken), .. }) => match again(&broken) {
                Some(again) => request = again.request(),
                None => return Err(SendError::broken(broken)),
            },
            Err(Failed { error, .. }) => return Err(error),
        }
    }
    let connection = Box::pin(fresh(pool, call)).await?;
    on(connection, request, call).await.map_err(|failed| match failed.error {
        SendError::Broken(broken) => SendError::broken(broken),
        error => error,
    })
}

/// h2 keeps the kind and the words of an I/O error, and not the error: `InvalidData` is only ever TLS's.
fn tls_over_http2(error: &hyper::Error) -> Option<String> {
    let mut reads = causes(error).filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    reads.find(|error| error.kind() == std::io::ErrorKind::InvalidData).map(ToString::to_string)
}

fn causes(error: &hyper::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}

/// Whether the peer says that it did nothing of it: `REFUSED_STREAM`, or a stream beyond the last one of a GOAWAY.
fn is_unprocessed(error: &hyper::Error) -> bool {
    // A GOAWAY of our own, over what the peer has sent, says nothing of what it did before.
    let mut http2 =
        causes(error).filter_map(|cause| cause.downcast_ref::<h2::Error>()).filter(|cause| cause.is_remote());
    http2.any(|cause| cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// A bare connection for a tunnel.
pub(crate) async fn dial(
    pool: &Pool,
    origin: &Origin,
    allowed: Allowed<'_>,
    timeout: Duration,
) -> Result<TcpStream, SendError> {
    tokio::time::timeout(timeout, tcp(pool.names(), origin, allowed)).await.map_err(|_| SendError::ConnectTimeout)?
}

async fn take(pool: &Rc<Pool>, key: &Arc<Key>) -> Option<Connection> {
    if let Some(connection) = pool.take(key) {
        return Some(connection);
    }
    if pool.has_waiting(key) {
        tokio::task::yield_now().await;
        return pool.take(key);
    }
    None
}

/// A new connection, tried again while the upstream refuses, or while there is no descriptor for it: nothing was sent, and a
/// restart takes a moment.
async fn fresh(pool: &Rc<Pool>, call: &Call<'_>) -> Result<Connection, SendError> {
    let deadline = Instant::now() + call.timeouts.connect;
    let mut pauses = [50, 150, 400, 900].map(Duration::from_millis).into_iter();
    loop {
        let error = match tokio::time::timeout_at(deadline, connect(pool, call.key, call.guard)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error @ (SendError::Connect(_) | SendError::Handshake(_)))) => error,
            Ok(Err(error @ SendError::NoDescriptor)) => {
                pool.let_go();
                error
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(SendError::ConnectTimeout),
        };
        match pauses.next().filter(|pause| Instant::now() + *pause < deadline) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(error),
        }
    }
}

struct Failed {
    error: SendError,
    unsent: Option<Box<Request<RequestBody>>>,
}

async fn on(
    connection: Connection,
    mut request: Request<RequestBody>,
    call: &Call<'_>,
) -> Result<(Response<Incoming>, Lease), Failed> {
    let (sent, lease) = match connection {
        Connection::Http1(mut lease) => {
            address_http1(&mut request, call.key);
            let sending = lease.sender.try_send_request(request);
            (within(sending, call).await, Lease::Http1(lease))
        }
        Connection::Http2(mut sender, stream) => {
            address_http2(&mut request, &call.key.origin);
            (within(sender.try_send_request(request), call).await, Lease::Http2(stream))
        }
    };
    match sent {
        Some(Ok(response)) => Ok((response, lease)),
        Some(Err(mut failed)) => {
            let unsent = failed.take_message().map(Box::new);
            let error = failed.into_error();
            let error = call.progress.fault().map_or(SendError::Broken(error), SendError::Upload);
            Err(Failed { error, unsent })
        }
        None => {
            let error = call.progress.stall().map_or(SendError::ResponseTimeout, SendError::Upload);
            Err(Failed { error, unsent: None })
        }
    }
}

/// The response timeout begins with the request's last byte. Until that has passed the idle timeout holds, for an upstream that takes
/// nothing as for an agent that sends nothing.
async fn within<F: Future>(sending: F, call: &Call<'_>) -> Option<F::Output> {
    let mut sending = pin!(sending);
    call.progress.moved();
    loop {
        let Call { progress, timeouts, .. } = call;
        // While the body is on its way its end may come at any time, and brings the deadline nearer.
        let wake = if progress.has_ended() { due(call) } else { due(call).min(Instant::now() + timeouts.response) };
        match tokio::time::timeout_at(wake, sending.as_mut()).await {
            Ok(sent) => return Some(sent),
            Err(_) if Instant::now() < due(call) => {}
            Err(_) => return None,
        }
    }
}

fn due(call: &Call<'_>) -> Instant {
    let Call { progress, timeouts, .. } = call;
    progress.last() + if progress.has_ended() { timeouts.response } else { timeouts.idle }
}

/// Origin form and `Host` (RFC 9112 §3.2.1).
fn address_http1(request: &mut Request<RequestBody>, key: &Key) {
    *request.version_mut() = Version::HTTP_11;
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    let headers = request.headers_mut();
    headers.insert(header::HOST, key.authority.clone());
    // RFC 9110 §10.1.4: whoever sends TE says so in Connection.
    if headers.contains_key(header::TE) && !headers.contains_key(header::CONNECTION) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Pseudo-header fields (RFC 9113 §8.3.1); what concerns one HTTP/1.1 connection goes (§8.2.2).
fn address_http2(request: &mut Request<RequestBody>, origin: &Origin) {
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(header::HOST);
    request.headers_mut().remove(header::CONNECTION);
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let scheme = if origin.scheme == Scheme::Https { "https" } else { "http" };
    if let Ok(uri) = Uri::builder().scheme(scheme).authority(origin.authority()).path_and_query(path).build() {
        *request.uri_mut() = uri;
    }
}

impl Repeat {
    /// A copy of `request`; `None` where its body is streamed.
    pub(crate) fn of(request: &Request<RequestBody>) -> Option<Self> {
        let RequestBody::Kept(body) = request.body() else { return None };
        Some(Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            body: body.clone(),
        })
    }

    /// The request, once more.
    pub(crate) fn request(&self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Kept(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.clone();
        request
    }
}

impl Protocol {
    /// What a request needs: HTTP/1.1 for an upgrade, HTTP/2 for gRPC in the clear, else whatever is agreed on.
    pub(crate) fn of(upgrade: bool, grpc: bool, plain: bool) -> Self {
        match (upgrade, grpc && plain) {
            (true, _) => Self::Http1,
            (false, true) => Self::Http2,
            (false, false) => Self::Negotiated,
        }
    }
}

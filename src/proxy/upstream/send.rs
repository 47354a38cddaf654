//! One request on one connection, and when another connection may be tried.
use super::config::PoolKey;
use super::connect::connect;
use super::credential::Credential;
use super::error::{SendError, is_unprocessed};
use super::pool::{Connection, Lease, Pool};
use super::request_body::RequestBody;
use super::response_body::UpstreamBody;
use crate::policy::{Origin, Scheme, Timeouts};
use crate::proxy::guard::Guard;
use crate::proxy::transfer::{Transfer, UploadFault};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body::Body;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Everything about a request but its head and body.
pub(crate) struct Call<'c> {
    /// The origin that it goes to, and the connections that it may use.
    pub(crate) key: &'c Arc<PoolKey>,
    /// The credential that it is sent with.
    pub(crate) credential: Credential<'c>,
    /// The deadlines of its parts.
    pub(crate) timeouts: &'c Timeouts,
    /// Which addresses are refused.
    pub(crate) guard: &'c Guard,
    /// What moves of it.
    pub(crate) transfer: &'c Transfer,
    /// A copy of the request, if it can be sent again.
    pub(crate) copy: Option<&'c RequestCopy>,
}

/// A copy of a request without a body or with a buffered one, for a retry or a replay. It holds no
/// credential of the proxy.
pub(crate) struct RequestCopy {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Option<Bytes>,
}

/// Sends a request and waits for the head of the response. Another connection is tried only if that
/// is safe: the request was never written, the peer says that it did not process it (RFC 9113
/// §8.7), or it is idempotent, has no body, and was sent on a pooled connection that broke (RFC
/// 9110 §9.2.2).
pub(crate) async fn send(
    pool: &Rc<Pool>,
    call: &Call<'_>,
    mut request: Request<RequestBody>,
) -> Result<Response<UpstreamBody>, SendError> {
    if let Some(connection) = take(pool, call.key).await {
        match attempt(connection, request, call).await {
            Ok(response) => return Ok(response),
            Err(AttemptError { unsent: Some(unsent), .. }) => request = *unsent,
            Err(AttemptError { error: SendError::Broken(broken), .. }) => match call.retry_after_break(&broken) {
                Some(copy) => request = copy.request(),
                None => return Err(SendError::classify_broken(broken)),
            },
            Err(AttemptError { error, .. }) => return Err(error),
        }
    }
    let connection = Box::pin(new_connection(pool, call)).await?;
    attempt(connection, request, call).await.map_err(|failed| match failed.error {
        SendError::Broken(broken) => SendError::classify_broken(broken),
        error => error,
    })
}

/// Takes a pooled connection. It waits one turn of the runtime for a connection that is about to
/// become ready.
async fn take(pool: &Rc<Pool>, key: &Arc<PoolKey>) -> Option<Connection> {
    if let Some(connection) = pool.take(key) {
        return Some(connection);
    }
    if pool.has_pending(key) {
        tokio::task::yield_now().await;
        return pool.take(key);
    }
    None
}

/// Opens a new connection. Retries up to four times, within the connect timeout, if connecting or
/// the HTTP handshake fails or no descriptor is left: nothing was sent, and the upstream may be
/// restarting.
async fn new_connection(pool: &Rc<Pool>, call: &Call<'_>) -> Result<Connection, SendError> {
    let deadline = Instant::now() + call.timeouts.connect;
    let mut pauses = [50, 150, 400, 900].map(Duration::from_millis).into_iter();
    loop {
        let error = match tokio::time::timeout_at(deadline, connect(pool, call.key, call.guard)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error @ (SendError::Connect(_) | SendError::Handshake(_)))) => error,
            Ok(Err(error @ SendError::NoDescriptor)) => {
                pool.evict_idle();
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

/// A failed attempt.
struct AttemptError {
    error: SendError,
    /// The request, if nothing of it was written.
    unsent: Option<Box<Request<RequestBody>>>,
}

async fn attempt(
    connection: Connection,
    mut request: Request<RequestBody>,
    call: &Call<'_>,
) -> Result<Response<UpstreamBody>, AttemptError> {
    let (sent, lease) = match connection {
        Connection::Http1(mut lease) => {
            address_http1(&mut request, call.key);
            RequestBody::expect_continue(&mut request);
            call.authorize(&mut request)?;
            let sending = lease.sender.try_send_request(request);
            (call.await_response(sending).await, Lease::Http1(lease))
        }
        Connection::Http2(mut sender, stream) => {
            address_http2(&mut request, &call.key.origin);
            request.body_mut().release();
            call.authorize(&mut request)?;
            (call.await_response(sender.try_send_request(request)).await, Lease::Http2(stream))
        }
    };
    match sent {
        Some(Ok(response)) => {
            call.transfer.record_departure();
            Ok(response.map(|body| UpstreamBody::new(body, lease)))
        }
        Some(Err(mut failed)) => {
            let unsent = failed.take_message().map(Box::new);
            let error = failed.into_error();
            if unsent.is_none() {
                call.transfer.record_departure();
            }
            let error = call.transfer.fault().map_or(SendError::Broken(error), SendError::Upload);
            Err(AttemptError { error, unsent })
        }
        None => {
            call.transfer.record_departure();
            let error = call.stall().map_or(SendError::ResponseTimeout, SendError::Upload);
            if !call.transfer.upload_has_ended() {
                // Nothing moves the rest of the upload, and so nothing would end it.
                lease.abort();
            }
            Err(AttemptError { error, unsent: None })
        }
    }
}

impl Call<'_> {
    /// Puts the credential on a request whose method and URI are final.
    fn authorize(&self, request: &mut Request<RequestBody>) -> Result<(), AttemptError> {
        let applied = self.credential.apply(request.headers_mut());
        applied.ok_or(AttemptError { error: SendError::Credential, unsent: None })
    }

    /// The copy to send again after a connection broke, if that is safe.
    fn retry_after_break(&self, broken: &hyper::Error) -> Option<&RequestCopy> {
        let is_repeatable =
            |copy: &&RequestCopy| copy.body.is_none() && copy.method.is_idempotent() && !broken.is_parse();
        self.copy.filter(|copy| is_repeatable(copy) || is_unprocessed(broken))
    }

    /// Waits for a response until the deadline; `None` if it passes. The response timeout starts
    /// with the last byte of the request. Until that has been sent the idle timeout applies, to an
    /// upstream that reads nothing and to an agent that sends nothing.
    async fn await_response<F: Future>(&self, sending: F) -> Option<F::Output> {
        let mut sending = pin!(sending);
        self.transfer.touch();
        loop {
            // The upload may end at any time, which brings the deadline nearer.
            let wake = match self.transfer.upload_has_ended() {
                true => self.deadline(),
                false => self.deadline().min(Instant::now() + self.timeouts.response),
            };
            match tokio::time::timeout_at(wake, sending.as_mut()).await {
                Ok(sent) => return Some(sent),
                Err(_) if Instant::now() < self.deadline() => {}
                Err(_) => return None,
            }
        }
    }

    fn deadline(&self) -> Instant {
        let Self { transfer, timeouts, .. } = self;
        let allowed = if transfer.upload_has_ended() { timeouts.response } else { timeouts.idle };
        transfer.not_after_end(transfer.last() + allowed)
    }

    /// The agent's fault, if nothing moved because it sent nothing.
    fn stall(&self) -> Option<UploadFault> {
        let fault = self.transfer.stall()?;
        self.transfer.fail_upload(fault);
        Some(fault)
    }
}

/// Sets the origin form and `Host` (RFC 9112 §3.2.1).
fn address_http1(request: &mut Request<RequestBody>, key: &PoolKey) {
    *request.version_mut() = Version::HTTP_11;
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    let has_length = request.body().size_hint().exact().is_some();
    let headers = request.headers_mut();
    if !has_length {
        // Said here, because hyper takes a GET or HEAD of unknown length for one without a body.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    headers.insert(header::HOST, key.authority.clone());
    // A sender of TE must list it in Connection (RFC 9110 §10.1.4).
    if headers.contains_key(header::TE) && !headers.contains_key(header::CONNECTION) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Sets the pseudo-header fields (RFC 9113 §8.3.1), and removes the fields of an HTTP/1.1
/// connection (RFC 9113 §8.2.2).
fn address_http2(request: &mut Request<RequestBody>, origin: &Origin) {
    *request.version_mut() = Version::HTTP_2;
    // The last three are there if it could not be sent on a connection of HTTP/1.1 before.
    for name in [header::HOST, header::CONNECTION, header::TRANSFER_ENCODING, header::EXPECT] {
        request.headers_mut().remove(name);
    }
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let scheme = if origin.scheme == Scheme::Https { "https" } else { "http" };
    if let Ok(uri) = Uri::builder().scheme(scheme).authority(origin.authority()).path_and_query(path).build() {
        *request.uri_mut() = uri;
    }
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

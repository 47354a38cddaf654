//! One request on one connection, and when another connection may be tried.
use super::acquire::Dialing;
use super::config::PoolKey;
use super::credential::Credential;
use super::error::SendError;
use super::origin::{Connection, Lease};
use super::pool::Pool;
use super::proof::Proof;
use super::request_body::RequestBody;
use super::response_body::UpstreamBody;
use crate::policy::{Scheme, Timeouts};
use crate::proxy::guard::Guard;
use crate::proxy::transfer::{Transfer, UploadFault};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body::Body;
use hyper::client::conn::TrySendError;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
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

/// How often a request may be sent on another connection because the one before had ended by itself.
/// Further pooled connections may have ended, too.
const MAX_STALE: usize = 3;

/// How often a request may be sent again that the upstream did not process.
const MAX_UNPROCESSED: usize = 1;

/// How often a request may be sent again because an attempt took too long.
const MAX_SLOW: usize = 1;

/// Sends a request and waits for the head of the response. [`Call::next_try`] says when it is sent
/// again.
pub(crate) async fn send(
    pool: &Rc<Pool>,
    call: &Call<'_>,
    mut request: Request<RequestBody>,
) -> Result<Response<UpstreamBody>, SendError> {
    let origin = pool.origin(call.key);
    let timeout = call.timeouts.attempt.map_or(call.timeouts.connect, |attempt| attempt.min(call.timeouts.connect));
    let dialing = Dialing { pool, key: call.key, guard: call.guard, timeout };
    let mut pooled = dialing.pooled(&origin).await;
    let mut tries = Tries::default();
    loop {
        let until = call.timeouts.attempt.map(|attempt| Instant::now() + attempt);
        let connection = match pooled.take() {
            Some(connection) => connection,
            None => Box::pin(dialing.fresh(&origin)).await?,
        };
        match attempt(connection, request, call, until).await {
            Ok(response) => return Ok(response),
            Err(failure) => request = call.next_try(failure, &mut tries)?,
        }
    }
}

/// How often a request has been sent again, by reason.
#[derive(Default)]
struct Tries {
    stale: usize,
    unprocessed: usize,
    slow: usize,
}

impl Tries {
    fn stale(&mut self) -> bool {
        self.stale += 1;
        self.stale <= MAX_STALE
    }

    fn unprocessed(&mut self) -> bool {
        self.unprocessed += 1;
        self.unprocessed <= MAX_UNPROCESSED
    }

    fn slow(&mut self) -> bool {
        self.slow += 1;
        self.slow <= MAX_SLOW
    }
}

/// A failed attempt.
struct Failure {
    error: SendError,
    proof: Proof,
    /// Whether the upstream had answered another request on the connection before.
    was_pooled: bool,
}

async fn attempt(
    connection: Connection,
    mut request: Request<RequestBody>,
    call: &Call<'_>,
    until: Option<Instant>,
) -> Result<Response<UpstreamBody>, Failure> {
    let (sent, lease, was_pooled, answered);
    match connection {
        Connection::Http1(mut http1) => {
            address_http1(&mut request, call.key);
            RequestBody::expect_continue(&mut request);
            call.authorize(&mut request)?;
            let before = http1.connection.received.bytes();
            sent = call.await_response(http1.connection.sender.try_send_request(request), until).await;
            (was_pooled, answered) = (before > 0, http1.connection.received.bytes() > before);
            lease = Lease::Http1(http1);
        }
        Connection::Http2(mut sender, stream) => {
            address_http2(&mut request, call.key);
            request.body_mut().release();
            call.authorize(&mut request)?;
            (was_pooled, answered) = (stream.has_answered(), false);
            sent = call.await_response(sender.try_send_request(request), until).await;
            if let Some(sent) = &sent {
                stream.record_end(sent.as_ref().err().map(TrySendError::error));
            }
            lease = Lease::Http2(stream);
        }
    }
    match sent {
        Some(Ok(response)) => {
            call.transfer.record_departure();
            Ok(response.map(|body| UpstreamBody::new(body, lease)))
        }
        Some(Err(mut failed)) => {
            let unsent = failed.take_message();
            let error = failed.into_error();
            if unsent.is_none() {
                call.transfer.record_departure();
            }
            let proof = match unsent {
                Some(request) => Proof::NotSent(Box::new(request)),
                None => Proof::of(&error, answered),
            };
            let failure = |error, proof| Err(Failure { error, proof, was_pooled });
            match call.transfer.fault() {
                Some(fault) => failure(SendError::Upload(fault), Proof::Failed),
                None => match SendError::classify_broken(error) {
                    error @ SendError::Broken(_) => failure(error, proof),
                    // TLS was refused.
                    error => failure(error, Proof::Failed),
                },
            }
        }
        None => {
            call.transfer.record_departure();
            let error = call.stall().map_or(SendError::ResponseTimeout, SendError::Upload);
            if !call.transfer.upload_has_ended() {
                // Nothing moves the rest of the upload, and so nothing would end it.
                lease.abort();
            }
            let proof = match error {
                SendError::ResponseTimeout if until.is_some_and(|until| until <= Instant::now()) => Proof::Slow,
                _ => Proof::Failed,
            };
            Err(Failure { error, proof, was_pooled })
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self { error, proof: Proof::Failed, was_pooled: false }
    }
}

impl Call<'_> {
    /// Puts the credential on a request whose method and URI are final.
    fn authorize(&self, request: &mut Request<RequestBody>) -> Result<(), SendError> {
        self.credential.apply(request.headers_mut()).ok_or(SendError::Credential)
    }

    /// The request to send again after a failure, if that is safe: nothing of it was written, the
    /// peer says that it did not process it, or it is idempotent, has no body, and a pooled
    /// connection ended under it before a byte of the answer came, or the attempt took too long (RFC
    /// 9110 §9.2.2).
    fn next_try(&self, failure: Failure, tries: &mut Tries) -> Result<Request<RequestBody>, SendError> {
        let Failure { error, proof, was_pooled } = failure;
        let next = match proof {
            Proof::NotSent(request) => tries.stale().then_some(*request),
            Proof::NotProcessed => self.copy.filter(|_| tries.unprocessed()).map(RequestCopy::request),
            Proof::ConnectionEnded => {
                let copy = self.copy.filter(|copy| was_pooled && copy.is_repeatable());
                copy.filter(|_| tries.stale()).map(RequestCopy::request)
            }
            Proof::Slow => self.copy.filter(|copy| copy.is_repeatable() && tries.slow()).map(RequestCopy::request),
            Proof::StreamReset | Proof::Failed => None,
        };
        next.ok_or(error)
    }

    /// Waits for a response until the deadline; `None` if it passes. The response timeout starts
    /// with the last byte of the request. Until that has been sent the idle timeout applies, to an
    /// upstream that reads nothing and to an agent that sends nothing. `until` is the end of the
    /// attempt.
    async fn await_response<F: Future>(&self, sending: F, until: Option<Instant>) -> Option<F::Output> {
        let mut sending = pin!(sending);
        self.transfer.touch();
        loop {
            // The upload may end at any time, which brings the deadline nearer.
            let wake = match self.transfer.upload_has_ended() {
                true => self.deadline(until),
                false => self.deadline(until).min(Instant::now() + self.timeouts.response),
            };
            match tokio::time::timeout_at(wake, sending.as_mut()).await {
                Ok(sent) => return Some(sent),
                Err(_) if Instant::now() < self.deadline(until) => {}
                Err(_) => return None,
            }
        }
    }

    fn deadline(&self, until: Option<Instant>) -> Instant {
        let Self { transfer, timeouts, .. } = self;
        let allowed = if transfer.upload_has_ended() { timeouts.response } else { timeouts.idle };
        let deadline = transfer.not_after_end(transfer.last() + allowed);
        until.map_or(deadline, |until| deadline.min(until))
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
fn address_http2(request: &mut Request<RequestBody>, key: &PoolKey) {
    *request.version_mut() = Version::HTTP_2;
    // The last three are there if it could not be sent on a connection of HTTP/1.1 before.
    for name in [header::HOST, header::CONNECTION, header::TRANSFER_ENCODING, header::EXPECT] {
        request.headers_mut().remove(name);
    }
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let scheme = if key.origin.scheme == Scheme::Https { "https" } else { "http" };
    let authority = key.authority.as_bytes();
    if let Ok(uri) = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build() {
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

    /// Whether it may be sent again although it may have been processed.
    fn is_repeatable(&self) -> bool {
        self.method.is_idempotent() && self.body.is_none()
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

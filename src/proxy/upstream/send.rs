//! One request on one connection, and when another connection may be tried.
use super::acquire::Dialing;
use super::config::PoolKey;
use super::credential::Credential;
use super::error::SendError;
use super::origin::{Connection, Lease};
use super::pool::Pool;
use super::proof::Proof;
use super::request_body::RequestBody;
use super::request_copy::RequestCopy;
use super::response_body::UpstreamBody;
use super::retry::{FailedAttempt, Retrying, Tries};
use crate::policy::{Scheme, Timeouts};
use crate::proxy::guard::Guard;
use crate::proxy::transfer::{Transfer, UploadFault};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, Version, header};
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
    /// When it is.
    pub(crate) retrying: Retrying<'c>,
}

/// Sends a request and waits for the head of the response. [`Tries`] say when it is sent again.
pub(crate) async fn send(
    pool: &Rc<Pool>,
    call: &Call<'_>,
    mut request: Request<RequestBody>,
) -> Result<Response<UpstreamBody>, SendError> {
    let origin = pool.origin(call.key);
    let timeout = call.timeouts.attempt.map_or(call.timeouts.connect, |attempt| attempt.min(call.timeouts.connect));
    let dialing =
        Dialing { pool, key: call.key, guard: call.guard, timeout, is_retried: call.retrying.policy.on.connect };
    let mut pooled = dialing.pooled(&origin).await;
    let mut tries = Tries::new(call.retrying, call.copy, origin.budget());
    loop {
        let until = call.timeouts.attempt.map(|attempt| Instant::now() + attempt);
        let connection = match pooled.take() {
            Some(connection) => connection,
            None => {
                let connecting = Box::pin(dialing.fresh(&origin));
                call.transfer.before_end(connecting).await.ok_or(SendError::TotalTimeout)??
            }
        };
        let repeat = match attempt(connection, request, call, until).await {
            Ok(response) => match tries.after_answer(&response) {
                None => return Ok(response),
                Some(repeat) => repeat,
            },
            Err(failure) => tries.after_failure(failure)?,
        };
        // The upstream asked for it by `Retry-After`, or needs a moment to recover.
        if let Some(pause) = repeat.pause {
            let paused = call.transfer.before_end(Box::pin(tokio::time::sleep(pause)));
            paused.await.ok_or(SendError::TotalTimeout)?;
        }
        request = *repeat.request;
    }
}

async fn attempt(
    connection: Connection,
    mut request: Request<RequestBody>,
    call: &Call<'_>,
    until: Option<Instant>,
) -> Result<Response<UpstreamBody>, FailedAttempt> {
    let (sent, lease, was_pooled, answered);
    call.transfer.set_has_left(true);
    match connection {
        Connection::Http1(mut http1) => {
            address_http1(&mut request, call.key);
            RequestBody::expect_continue(&mut request);
            call.authorize(&mut request)?;
            let before = http1.connection.received.bytes();
            let sending = http1.connection.sender.try_send_request(request);
            let unanswered = Unanswered::new(Lease::Http1(http1), call.transfer);
            sent = call.await_response(sending, until).await;
            lease = unanswered.into_lease();
            let received = match &lease {
                Lease::Http1(http1) => http1.connection.received.bytes(),
                Lease::Http2(_) => before,
            };
            (was_pooled, answered) = (before > 0, received > before);
        }
        Connection::Http2(mut sender, stream) => {
            address_http2(&mut request, call.key);
            request.body_mut().release();
            call.authorize(&mut request)?;
            (was_pooled, answered) = (stream.has_answered(), false);
            let unanswered = Unanswered::new(Lease::Http2(stream), call.transfer);
            sent = call.await_response(sender.try_send_request(request), until).await;
            lease = unanswered.into_lease();
            if let (Some(sent), Lease::Http2(stream)) = (&sent, &lease) {
                stream.record_end(sent.as_ref().err().map(TrySendError::error));
            }
        }
    }
    match sent {
        Some(Ok(response)) => Ok(response.map(|body| UpstreamBody::new(body, lease))),
        Some(Err(mut failed)) => {
            let unsent = failed.take_message();
            let error = failed.into_error();
            call.transfer.set_has_left(unsent.is_none());
            let proof = match unsent {
                Some(request) => Proof::NotSent(Box::new(request)),
                None => Proof::of(&error, answered),
            };
            let failure = |error, proof| Err(FailedAttempt { error, proof, was_pooled });
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
            let error = call.stall().map_or(SendError::ResponseTimeout, SendError::Upload);
            if !call.transfer.upload_has_ended() {
                // Nothing moves the rest of the upload, and so nothing would end it.
                lease.abort();
            }
            let error = if call.transfer.is_past_end() { SendError::TotalTimeout } else { error };
            let proof = match error {
                SendError::ResponseTimeout if until.is_some_and(|until| until <= Instant::now()) => Proof::Slow,
                _ => Proof::Failed,
            };
            Err(FailedAttempt { error, proof, was_pooled })
        }
    }
}

/// The connection of a request that waits for its answer. If the agent leaves before it, nothing
/// would end an upload that the upstream does not take.
struct Unanswered<'c> {
    lease: Option<Lease>,
    transfer: &'c Transfer,
}

impl<'c> Unanswered<'c> {
    fn new(lease: Lease, transfer: &'c Transfer) -> Self {
        Self { lease: Some(lease), transfer }
    }

    fn into_lease(mut self) -> Lease {
        self.lease.take().expect("taken only here")
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take().filter(|_| self.transfer.upload_waits_for_upstream()) {
            lease.abort();
        }
    }
}

impl Call<'_> {
    /// Puts the credential on a request whose method and URI are final.
    fn authorize(&self, request: &mut Request<RequestBody>) -> Result<(), FailedAttempt> {
        let applied = self.credential.apply(request.headers_mut());
        let (error, proof) = (SendError::Credential, Proof::Failed);
        applied.ok_or(FailedAttempt { error, proof, was_pooled: false })
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

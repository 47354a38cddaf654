//! Fault injection: what a server does instead of, or before, sending its normal answer.
use super::http::{Body, HangUp, full};
use crate::sync::lock;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// A fault that affects one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The server sends exactly this answer and ignores the request.
    Answer {
        /// The status code.
        status: StatusCode,
        /// Header fields in addition to `content-length`.
        headers: Vec<(HeaderName, HeaderValue)>,
        /// The body.
        body: Bytes,
    },
    /// The server sends the normal answer, a JSON object, with these members replaced; `null`
    /// removes a member.
    Patch(Value),
    /// The server sends the normal answer once the gate is opened.
    Hold(Gate),
    /// The server sends the head of the normal answer at once, and its body once the gate is
    /// opened.
    HoldBody(Gate),
    /// The server closes the connection without an answer.
    HangUp,
    /// The server closes the connection if it has served a request before, as if its keep-alive
    /// timeout had just expired.
    HangUpIfReused,
}

impl Fault {
    /// Answers with a status and a short text.
    pub fn status(status: StatusCode) -> Self {
        Self::Answer { status, headers: Vec::new(), body: Bytes::from(format!("{status}\n")) }
    }

    /// Answers with JSON.
    pub fn json(status: StatusCode, body: &Value) -> Self {
        let body = Bytes::from(body.to_string());
        Self::Answer { status, headers: Vec::new(), body }
            .header(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
    }

    /// Answers with an OAuth error (RFC 6749 §5.2).
    pub fn oauth_error(status: StatusCode, code: &str) -> Self {
        Self::json(status, &json!({ "error": code, "error_description": "scripted" }))
    }

    /// Answers with 401 and the challenge for an invalid token (RFC 6750 §3.1).
    pub fn invalid_token() -> Self {
        let challenge = HeaderValue::from_static(r#"Bearer realm="dev", error="invalid_token""#);
        Self::status(StatusCode::UNAUTHORIZED).header(http::header::WWW_AUTHENTICATE, challenge)
    }

    /// Answers with a redirect to `location`.
    pub fn redirect(status: StatusCode, location: HeaderValue) -> Self {
        Self::status(status).header(http::header::LOCATION, location)
    }

    /// Answers with 200 and `length` bytes that begin like JSON but are not JSON.
    pub fn huge(length: usize) -> Self {
        let mut body = vec![b' '; length];
        body[0] = b'{';
        Self::Answer { status: StatusCode::OK, headers: Vec::new(), body: body.into() }
            .header(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
    }

    /// Adds a header field to an [`Fault::Answer`]; other faults are not changed.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name, value));
        }
        self
    }
}

/// Holds requests until it is opened. Clones refer to the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    waiting: Arc<watch::Sender<u64>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { open: Arc::new(watch::Sender::new(false)), waiting: Arc::new(watch::Sender::new(0)) }
    }
}

impl Gate {
    /// Releases all requests, now and in the future.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until `count` requests have reached the gate.
    pub async fn wait_for_arrivals(&self, count: u64) {
        // This cannot fail, because the gate owns the sender.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting >= count).await;
    }

    async fn pass(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}

/// The faults of one endpoint: a queue with one fault for each request, and optionally a fault for
/// all later requests.
#[derive(Debug, Default)]
pub struct Faults(Mutex<FaultQueue>);

#[derive(Debug, Default)]
struct FaultQueue {
    next: VecDeque<Fault>,
    always: Option<Fault>,
}

impl Faults {
    /// Adds a fault for the next request that has none yet.
    pub fn next(&self, fault: Fault) {
        lock(&self.0).next.push_back(fault);
    }

    /// Adds the same fault for `count` requests.
    pub fn next_many(&self, count: usize, fault: &Fault) {
        lock(&self.0).next.extend(std::iter::repeat_n(fault, count).cloned());
    }

    /// Sets a fault for every request after the queued ones, until [`Self::clear`].
    pub fn always(&self, fault: Fault) {
        lock(&self.0).always = Some(fault);
    }

    /// Removes all faults.
    pub fn clear(&self) {
        *lock(&self.0) = FaultQueue::default();
    }

    /// Applies the next fault, or answers normally if there is none. `reused` says whether the
    /// connection has served a request before.
    pub(super) async fn apply(
        &self,
        reused: bool,
        normal: impl Future<Output = Response<Body>>,
    ) -> Result<Response<Body>, HangUp> {
        match self.take() {
            None => Ok(normal.await),
            Some(Fault::HangUp) => Err(HangUp),
            Some(Fault::HangUpIfReused) => {
                if reused {
                    Err(HangUp)
                } else {
                    Ok(normal.await)
                }
            }
            Some(Fault::Hold(gate)) => {
                gate.pass().await;
                Ok(normal.await)
            }
            Some(Fault::HoldBody(gate)) => Ok(normal.await.map(|body| hold_body(body, gate))),
            Some(Fault::Patch(patch)) => Ok(patch_answer(normal.await, &patch).await),
            Some(Fault::Answer { status, headers, body }) => {
                let mut response = Response::new(full(body));
                *response.status_mut() = status;
                response.headers_mut().extend(headers);
                Ok(response)
            }
        }
    }

    fn take(&self) -> Option<Fault> {
        let mut queue = lock(&self.0);
        queue.next.pop_front().or_else(|| queue.always.clone())
    }
}

/// Sends the body once the gate is open. Its length is not announced, so that the head is sent
/// separately.
fn hold_body(body: Body, gate: Gate) -> Body {
    let frames = stream::once(async move {
        gate.pass().await;
        body.into_data_stream().map(|data| data.map(Frame::data))
    });
    StreamBody::new(frames.flatten()).boxed_unsync()
}

async fn patch_answer(response: Response<Body>, patch: &Value) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let Ok(collected) = body.collect().await;
    let mut json: Value = serde_json::from_slice(&collected.to_bytes()).unwrap_or_default();
    for (name, value) in patch.as_object().into_iter().flatten() {
        if let Some(members) = json.as_object_mut() {
            members.remove(name);
            if !value.is_null() {
                members.insert(name.clone(), value.clone());
            }
        }
    }
    parts.headers.remove(http::header::CONTENT_LENGTH);
    Response::from_parts(parts, full(json.to_string()))
}

//! Misbehaviour to order: what a server answers instead of, or before, its normal answer.
use super::http::{Body, HangUp, full, lock};
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

/// One misbehaviour.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Exactly this answer; the request is not looked at.
    Answer {
        /// The status code.
        status: StatusCode,
        /// Fields beside `content-length`.
        headers: Vec<(HeaderName, HeaderValue)>,
        /// The body.
        body: Bytes,
    },
    /// The normal answer, a JSON object, with these members put over its own; `null` removes one.
    Patch(Value),
    /// The normal answer, once the gate is opened.
    Hold(Gate),
    /// The head of the normal answer at once, its body once the gate is opened.
    HoldBody(Gate),
    /// No answer: the connection is closed.
    HangUp,
    /// The connection is closed if it has served a request before, as a server does whose keep-alive has just run out.
    HangUpIfReused,
}

impl Fault {
    /// A status with a body of its own.
    pub fn status(status: StatusCode) -> Self {
        Self::Answer { status, headers: Vec::new(), body: Bytes::from(format!("{status}\n")) }
    }

    /// A JSON answer.
    pub fn json(status: StatusCode, body: &Value) -> Self {
        let body = Bytes::from(body.to_string());
        Self::Answer { status, headers: Vec::new(), body }
            .header(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
    }

    /// An error of RFC 6749 §5.2.
    pub fn oauth_error(status: StatusCode, code: &str) -> Self {
        Self::json(status, &json!({ "error": code, "error_description": "scripted" }))
    }

    /// 401 with the challenge of RFC 6750 §3.1 for a token that is not good any more.
    pub fn invalid_token() -> Self {
        let challenge = HeaderValue::from_static(r#"Bearer realm="dev", error="invalid_token""#);
        Self::status(StatusCode::UNAUTHORIZED).header(http::header::WWW_AUTHENTICATE, challenge)
    }

    /// 302 to somewhere else.
    pub fn redirect(status: StatusCode, location: HeaderValue) -> Self {
        Self::status(status).header(http::header::LOCATION, location)
    }

    /// 200 with `length` bytes that begin like JSON and never become it.
    pub fn huge(length: usize) -> Self {
        let mut body = vec![b' '; length];
        body[0] = b'{';
        Self::Answer { status: StatusCode::OK, headers: Vec::new(), body: body.into() }
            .header(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
    }

    /// The same answer with one more field; other kinds have none.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name, value));
        }
        self
    }
}

/// Holds requests until it is opened. Clones are the same gate.
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
    /// Lets everyone pass, now and later.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until `count` requests have come to the gate.
    pub async fn reached_by(&self, count: u64) {
        // The sender is this gate's own.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting >= count).await;
    }

    async fn pass(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}

/// What one endpoint is to do wrong: a queue, one entry per request, and after that perhaps the same for ever.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Script>);

#[derive(Debug, Default)]
struct Script {
    next: VecDeque<Fault>,
    always: Option<Fault>,
}

impl Faults {
    /// The next request that has no fault yet gets this one.
    pub fn next(&self, fault: Fault) {
        lock(&self.0).next.push_back(fault);
    }

    /// The same for `count` requests.
    pub fn next_many(&self, count: usize, fault: &Fault) {
        lock(&self.0).next.extend(std::iter::repeat_n(fault, count).cloned());
    }

    /// Every request after the queued ones, until [`Self::clear`].
    pub fn always(&self, fault: Fault) {
        lock(&self.0).always = Some(fault);
    }

    /// Normal answers again.
    pub fn clear(&self) {
        *lock(&self.0) = Script::default();
    }

    /// Answers as scripted, or else normally. `reused` says whether the connection has served a request before.
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
            Some(Fault::HoldBody(gate)) => Ok(normal.await.map(|body| held(body, gate))),
            Some(Fault::Patch(patch)) => Ok(patched(normal.await, &patch).await),
            Some(Fault::Answer { status, headers, body }) => {
                let mut response = Response::new(full(body));
                *response.status_mut() = status;
                response.headers_mut().extend(headers);
                Ok(response)
            }
        }
    }

    fn take(&self) -> Option<Fault> {
        let mut script = lock(&self.0);
        script.next.pop_front().or_else(|| script.always.clone())
    }
}

/// The body, once the gate is open. Its length is not announced, so that the head goes out by itself.
fn held(body: Body, gate: Gate) -> Body {
    let frames = stream::once(async move {
        gate.pass().await;
        body.into_data_stream().map(|data| data.map(Frame::data))
    });
    StreamBody::new(frames.flatten()).boxed_unsync()
}

async fn patched(response: Response<Body>, patch: &Value) -> Response<Body> {
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

//! What reached the upstream, for tests to assert on.
use super::ResourceServer;
use crate::dev::http::{Connection, lock};
use crate::dev::jwt;
use http::{HeaderMap, Request, Uri, Version};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;

const KEPT: usize = 4096;

/// One request as it arrived, and the status of the answer.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The request target: origin-form over HTTP/1.1, absolute over HTTP/2.
    pub target: Uri,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// Every field, credentials included.
    pub headers: HeaderMap,
    /// What followed the body.
    pub trailers: HeaderMap,
    /// The SPIFFE ID of the client certificate.
    pub client: Option<String>,
    /// The number of the connection; counts from 1.
    pub connection: u64,
    /// Which request of its connection it is; counts from 1.
    pub on_connection: u64,
    /// The claims of the access token, once it has been verified.
    pub claims: Option<Value>,
    /// Bytes in the body, and their SHA-256 in hexadecimal; for the echo endpoints.
    pub body: Option<(u64, String)>,
    /// The status of the answer; `None` if the server hung up.
    pub status: Option<u16>,
}

impl Seen {
    pub(super) fn new(request: &Request<Incoming>, connection: &Connection) -> Self {
        Self {
            method: request.method().to_string(),
            target: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            trailers: HeaderMap::new(),
            client: connection.client_chain.first().and_then(|leaf| jwt::spiffe_id(leaf).ok()),
            connection: connection.number,
            on_connection: connection.requests(),
            claims: None,
            body: None,
            status: None,
        }
    }

    /// The host that was addressed: `:authority`, or `Host`.
    pub fn host(&self) -> &str {
        let host = self.headers.get("host").and_then(|value| value.to_str().ok());
        self.target.authority().map(http::uri::Authority::as_str).or(host).unwrap_or("")
    }

    /// For people. The token itself is left out: an echo must not hand it to the agent.
    pub(super) fn to_json(&self) -> Value {
        let (length, digest) = self.body.clone().unwrap_or_default();
        json!({
            "method": self.method,
            "path": self.target.path_and_query().map_or("", |target| target.as_str()),
            "host": self.host(),
            "http": format!("{:?}", self.version),
            "headers": fields(&self.headers),
            "trailers": fields(&self.trailers),
            "client": self.client,
            "connection": self.connection,
            "request_on_connection": self.on_connection,
            "claims": self.claims,
            "body": { "length": length, "sha256": digest },
        })
    }
}

fn fields(headers: &HeaderMap) -> Value {
    let mut fields: Map<String, Value> = Map::new();
    for (name, value) in headers {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let shown = if name == http::header::AUTHORIZATION {
            let scheme = text.split(' ').next().unwrap_or("").to_owned();
            format!("{scheme} ({} characters)", text.len() - scheme.len())
        } else {
            text
        };
        let values = fields.entry(name.as_str()).or_insert_with(|| json!([]));
        if let Some(values) = values.as_array_mut() {
            values.push(json!(shown));
        }
    }
    Value::Object(fields)
}

#[derive(Debug, Default)]
pub(super) struct Record(VecDeque<Seen>);

impl Record {
    pub(super) fn push(&mut self, seen: Seen) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(seen);
    }
}

impl ResourceServer {
    /// The requests whose answer has begun, oldest first; the last few thousand.
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.state.record).0.iter().cloned().collect()
    }

    /// The last request whose answer has begun.
    pub fn last_request(&self) -> Option<Seen> {
        lock(&self.state.record).0.back().cloned()
    }

    /// How many requests have come in.
    pub fn arrivals(&self) -> u64 {
        *self.state.arrivals.borrow()
    }

    /// Waits until `count` requests have come in.
    pub async fn reached_by(&self, count: u64) {
        // The sender lives as long as this server.
        let _ = self.state.arrivals.subscribe().wait_for(|arrivals| *arrivals >= count).await;
    }

    /// Waits until `count` clients listen to `/sse`.
    pub async fn listened_to_by(&self, count: usize) {
        while self.state.events.receiver_count() < count {
            tokio::task::yield_now().await;
        }
    }
}

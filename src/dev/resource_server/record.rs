//! What reached the upstream, for tests to assert on.
use crate::dev::http::Connection;
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

    /// The newest last.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Seen> {
        self.0.iter()
    }
}

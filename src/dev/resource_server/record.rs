//! The requests that reached the server, for tests to check.
use crate::dev::http::Connection;
use crate::dev::jwt;
use http::{HeaderMap, Request, Uri, Version};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

/// A request as it arrived, with the status of the answer.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// The method.
    pub method: String,
    /// The request target: in origin form over HTTP/1.1, absolute over HTTP/2.
    pub target: Uri,
    /// The version of HTTP.
    pub version: Version,
    /// All header fields, including credentials.
    pub headers: HeaderMap,
    /// The trailers after the body.
    pub trailers: HeaderMap,
    /// The SPIFFE ID of the client certificate.
    pub client: Option<String>,
    /// The number of the connection, counted from 1.
    pub connection: u64,
    /// The number of the request on its connection, counted from 1.
    pub on_connection: u64,
    /// The claims of the access token, if it was verified.
    pub claims: Option<Value>,
    /// The length of the body in bytes and its SHA-256 in hexadecimal, on the echo endpoints.
    pub body: Option<(u64, String)>,
    /// The status of the answer; `None` if the server closed the connection.
    pub status: Option<u16>,
}

impl ReceivedRequest {
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

    /// The host of the request: `:authority` or `Host`.
    pub fn host(&self) -> &str {
        let host = self.headers.get("host").and_then(|value| value.to_str().ok());
        self.target.authority().map(http::uri::Authority::as_str).or(host).unwrap_or("")
    }

    /// Describes the request as JSON. The token is left out, because the echo must not pass it to
    /// the agent.
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

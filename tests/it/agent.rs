//! The agent's clients: one that knows a proxy and nothing about tokens, and one that sends bytes
//! which no library would.
use super::world::within;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A complete response as the agent received it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Reply {
    pub(crate) async fn of(response: http::Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let collected = body.collect().await.expect("a whole body");
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Self { status: parts.status, headers: parts.headers, body: collected.to_bytes(), trailers }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON: the test upstream's account of the request, or a problem (RFC 9457).
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// The last part of the problem's `type`, which is stable.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status.as_u16());
        assert!(self.header("proxy-status").contains("error="), "{self:?}");
        json["type"].as_str().expect("a type").rsplit(':').next().expect("a part").to_owned()
    }

    /// Fails unless the proxy itself refused the request with this status and problem type.
    pub(crate) fn assert_refusal(&self, status: u16, kind: &str) {
        assert_eq!((self.status.as_u16(), self.problem().as_str()), (status, kind), "{}", self.text());
    }

    /// Fails unless the proxy itself refused the gRPC call with this code, sent as trailers only.
    pub(crate) fn assert_grpc_refusal(&self, code: &str) {
        self.assert_trailers_only("application/grpc", code);
    }

    /// Fails unless the proxy itself refused the gRPC-Web call with this code, sent with the head.
    pub(crate) fn assert_grpc_web_refusal(&self, code: &str) {
        self.assert_trailers_only("application/grpc-web", code);
    }

    fn assert_trailers_only(&self, content_type: &str, code: &str) {
        assert_eq!((self.status.as_u16(), self.header("grpc-status")), (200, code), "{self:?}");
        assert_eq!(self.header("content-type"), content_type);
        assert_ne!(self.header("grpc-message"), "");
        assert!(self.body.is_empty() && self.trailers.is_empty(), "trailers only");
    }
}

/// Builds a request. `Host` is taken from an absolute URL, unless `fields` contain it.
pub(crate) fn request(method: &Method, url: &str, fields: &[(&str, &str)]) -> http::request::Builder {
    let mut request = Request::builder().method(method).uri(url);
    let uri: http::Uri = url.parse().expect("a URL");
    if let Some(authority) = uri.authority().filter(|_| !fields.iter().any(|(name, _)| *name == "host")) {
        request = request.header("host", authority.as_str());
    }
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request
}

pub(crate) fn full(body: impl Into<Bytes>) -> Full<Bytes> {
    Full::new(body.into())
}

/// Sends a `GET` on a new connection.
pub(crate) async fn get(proxy: SocketAddr, url: &str, fields: &[(&str, &str)]) -> Reply {
    send(proxy, request(&Method::GET, url, fields).body(full("")).expect("request")).await
}

/// Sends a `POST` on a new connection.
pub(crate) async fn post(proxy: SocketAddr, url: &str, fields: &[(&str, &str)], body: &[u8]) -> Reply {
    send(proxy, request(&Method::POST, url, fields).body(full(body.to_vec())).expect("request")).await
}

/// Sends any request on a new connection.
pub(crate) async fn send<B>(proxy: SocketAddr, request: Request<B>) -> Reply
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    Http1::<B>::connect(proxy).await.send(request).await
}

/// An HTTP/1.1 connection to the proxy.
pub(crate) struct Http1<B> {
    pub(crate) sender: http1::SendRequest<B>,
    _task: JoinSet<()>,
}

impl<B> Http1<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    pub(crate) async fn connect(proxy: SocketAddr) -> Self {
        Self::over(TcpStream::connect(proxy).await.expect("connected")).await
    }

    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("handshake");
        let mut task = JoinSet::new();
        task.spawn(async move {
            // A failure is reported to the request that is in flight.
            let _ = connection.with_upgrades().await;
        });
        Self { sender, _task: task }
    }

    /// Sends a request and returns the response once its head has arrived.
    pub(crate) async fn head(&mut self, request: Request<B>) -> http::Response<Incoming> {
        within(self.sender.ready(), "a free connection").await.expect("an open connection");
        within(self.sender.send_request(request), "an answer").await.expect("an answer")
    }

    pub(crate) async fn send(&mut self, request: Request<B>) -> Reply {
        let response = self.head(request).await;
        within(Reply::of(response), "a whole answer").await
    }
}

impl Http1<Full<Bytes>> {
    /// Sends a `GET` on this connection, so that the same worker serves it.
    pub(crate) async fn get(&mut self, url: &str, fields: &[(&str, &str)]) -> Reply {
        self.send(request(&Method::GET, url, fields).body(full("")).expect("request")).await
    }
}

/// An HTTP/2 connection to the proxy, with prior knowledge.
pub(crate) struct Http2<B> {
    pub(crate) sender: http2::SendRequest<B>,
    _task: JoinSet<()>,
}

impl<B> Http2<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    pub(crate) async fn connect(proxy: SocketAddr) -> Self {
        let stream = TcpStream::connect(proxy).await.expect("connected");
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("handshake");
        let mut task = JoinSet::new();
        task.spawn(async move {
            // A failure is reported to the request that is in flight.
            let _ = connection.await;
        });
        Self { sender, _task: task }
    }

    pub(crate) async fn send(&mut self, request: Request<B>) -> Reply {
        let response = within(self.sender.send_request(request), "an answer").await.expect("an answer");
        within(Reply::of(response), "a whole answer").await
    }
}

/// A connection that sends and receives plain bytes.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(proxy: SocketAddr) -> Self {
        Self::over(TcpStream::connect(proxy).await.expect("connected"))
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("written");
    }

    /// Reads until `end` has arrived, and returns everything up to and including it.
    pub(crate) async fn until(&mut self, end: &[u8]) -> String {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                let taken: Vec<u8> = self.read.drain(..at + end.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            let count = within(self.stream.read_buf(&mut self.read), "more bytes").await.expect("read");
            assert!(count > 0, "the connection ended after {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// Reads exactly `count` bytes, or returns `None` if the connection ends before that.
    pub(crate) async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            match within(self.stream.read_buf(&mut self.read), "more bytes").await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
        Some(self.read.drain(..count).collect())
    }

    /// Reads the head of a response.
    pub(crate) async fn head(&mut self) -> String {
        self.until(b"\r\n\r\n").await
    }

    /// Reads until the other side closes or resets the connection.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        let _ = within(self.stream.read_to_end(&mut self.read), "the end of the connection").await;
        self.read
    }
}

/// Sends exactly these bytes on a new connection, and returns what arrives until it is closed.
pub(crate) async fn raw(proxy: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::connect(proxy).await;
    raw.write(bytes).await;
    String::from_utf8_lossy(&raw.rest().await).into_owned()
}

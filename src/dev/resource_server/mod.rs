//! An upstream that checks access tokens and shows what it received. It speaks HTTP/1.1 and HTTP/2,
//! plain or over TLS, optionally with client certificates.
mod access;
mod endpoints;
mod record;
#[cfg(test)]
mod tests;

pub use access::{ScopeRule, TokenRule};
pub use record::ReceivedRequest;

use super::faults::Faults;
use super::http::{Body, Connection, HangUp, Respond, Server, ServerTls};
use super::request_log::RequestLog;
use crate::clock::Clock;
use crate::sync::lock;
use http::{Request, Response};
use hyper::body::Incoming;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast;

/// A running resource server on a port of 127.0.0.1. Dropping it stops it.
///
/// | path | answer |
/// |---|---|
/// | `/sse` | an event stream of what [`ResourceServer::send_event`] sends |
/// | `/ws` | a WebSocket that echoes messages |
/// | `/trailers` | a body with a trailer |
/// | `/bytes/N` | N bytes, streamed |
/// | `/status/N` | an empty answer with that status |
/// | `/reject` | 413 before the body is read |
/// | `/broken` | an answer that ends in the middle of its body |
/// | any other | JSON that describes the request, see [`ReceivedRequest`] |
///
/// A request with `content-type: application/grpc` gets its body back, with `grpc-status` in the
/// trailers. With `x-grpc-fail: N` it gets that status in a Trailers-Only answer.
#[derive(Debug)]
pub struct ResourceServer {
    server: Server,
    state: Arc<ApiState>,
}

struct ApiState {
    clock: Clock,
    tokens: Mutex<Option<TokenRule>>,
    /// The SPIFFE IDs that may call with a client certificate; `None` for anyone.
    clients: Mutex<Option<Vec<String>>>,
    faults: Faults,
    log: RequestLog<ReceivedRequest>,
    /// The events of `/sse`; `None` ends the streams.
    events: broadcast::Sender<Option<String>>,
}

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiState")
    }
}

impl ResourceServer {
    /// Binds a port and serves any client until [`Self::require_tokens`] or
    /// [`Self::require_clients`].
    pub async fn start(tls: Option<&ServerTls>, clock: &Clock) -> anyhow::Result<Self> {
        let (server, listener) = Server::bind(tls, clock).await?;
        let state = Arc::new(ApiState {
            clock: clock.clone(),
            tokens: Mutex::default(),
            clients: Mutex::default(),
            faults: Faults::default(),
            log: RequestLog::default(),
            events: broadcast::Sender::new(256),
        });
        server.serve(listener, Arc::clone(&state) as Arc<dyn Respond>);
        Ok(Self { server, state })
    }

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The base URL: `http://127.0.0.1:PORT`, or the same with `https`.
    pub fn url(&self) -> String {
        format!("{}://{}", self.server.scheme(), self.address())
    }

    /// Requires access tokens from now on.
    pub fn require_tokens(&self, rule: TokenRule) {
        *lock(&self.state.tokens) = Some(rule);
    }

    /// Requires a client certificate with one of these SPIFFE IDs from now on.
    pub fn require_clients(&self, ids: &[&str]) {
        *lock(&self.state.clients) = Some(ids.iter().map(|id| (*id).to_owned()).collect());
    }

    /// The faults to inject.
    pub fn faults(&self) -> &Faults {
        &self.state.faults
    }

    /// Sends an event to every open `/sse` stream. Returns how many there are.
    pub fn send_event(&self, data: &str) -> usize {
        self.state.events.send(Some(data.to_owned())).unwrap_or(0)
    }

    /// Ends every open `/sse` stream.
    pub fn end_events(&self) {
        // An error means that no stream is open.
        let _ = self.state.events.send(None);
    }

    /// How many connections have been accepted, including those whose TLS handshake failed.
    pub fn connections(&self) -> u64 {
        self.server.connections()
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> u64 {
        self.server.open_connections()
    }

    /// The last few thousand requests whose answer has begun, oldest first.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state.log.requests()
    }

    /// The last request whose answer has begun.
    pub fn last_request(&self) -> Option<ReceivedRequest> {
        self.state.log.last()
    }

    /// How many requests have arrived.
    pub fn arrivals(&self) -> u64 {
        self.state.log.arrivals()
    }

    /// Waits until `count` requests have arrived.
    pub async fn wait_for_arrivals(&self, count: u64) {
        self.state.log.wait_for_arrivals(count).await;
    }

    /// Waits until `count` clients have opened `/sse`.
    pub async fn wait_for_listeners(&self, count: usize) {
        while self.state.events.receiver_count() < count {
            tokio::task::yield_now().await;
        }
    }

    /// Uses these TLS settings for new handshakes.
    pub fn set_tls(&self, tls: &ServerTls) -> anyhow::Result<()> {
        self.server.set_tls(tls)
    }

    /// Closes every connection and refuses new ones.
    pub async fn stop(&self) {
        self.server.stop().await;
    }

    /// Listens on the same port again.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.server.restart().await
    }
}

impl Respond for ApiState {
    fn respond(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, HangUp>> + Send>> {
        Box::pin(async move {
            let mut received = ReceivedRequest::new(&request, &connection);
            self.log.count_arrival();
            let answered = {
                let normal = self.serve(request, &connection, &mut received);
                self.faults.apply(connection.requests() > 1, normal).await
            };
            received.status = answered.as_ref().ok().map(|response| response.status().as_u16());
            self.log.record(received);
            answered
        })
    }
}

impl ApiState {
    async fn serve(
        &self,
        request: Request<Incoming>,
        connection: &Arc<Connection>,
        received: &mut ReceivedRequest,
    ) -> Response<Body> {
        match self.admit(received).await {
            Ok(()) => self.endpoint(request, connection, received).await,
            Err(refusal) => refusal,
        }
    }
}

//! An upstream: HTTP/1.1 and HTTP/2, plain or TLS, perhaps with client certificates, that checks access tokens and shows what
//! reached it.
mod access;
mod endpoints;
mod record;
#[cfg(test)]
mod tests;

pub use access::{ScopeRule, TokenRule};
pub use record::Seen;

use super::faults::Faults;
use super::http::{Answer, Body, Connection, HangUp, Server, ServerTls, lock};
use crate::clock::Clock;
use http::{Request, Response};
use hyper::body::Incoming;
use record::Record;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::sync::{broadcast, watch};

/// A running resource server on a port of 127.0.0.1. Dropping it ends it.
///
/// | path | what it does |
/// |---|---|
/// | `/sse` | an event stream of what [`ResourceServer::send_event`] says |
/// | `/ws` | WebSocket, echoes messages |
/// | `/trailers` | a body with a trailer |
/// | `/bytes/N` | N bytes, streamed |
/// | `/status/N` | an empty answer of that status |
/// | `/reject` | 413 before any body was read |
/// | `/broken` | breaks off in the middle of the body |
/// | any, with `content-type: application/grpc` | echoes the body, `grpc-status` in the trailers; `x-grpc-fail: N` for trailers only |
/// | any other | JSON of what it saw: method, path, fields, client, claims, length and SHA-256 of the body |
#[derive(Debug)]
pub struct ResourceServer {
    server: Server,
    state: Arc<State>,
}

struct State {
    clock: Clock,
    tokens: Mutex<Option<TokenRule>>,
    /// SPIFFE IDs that may call, by client certificate; `None` for anyone.
    clients: Mutex<Option<Vec<String>>>,
    faults: Faults,
    record: Mutex<Record>,
    arrivals: watch::Sender<u64>,
    /// `None` ends the streams.
    events: broadcast::Sender<Option<String>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

impl ResourceServer {
    /// Binds a port and serves anyone, until [`Self::require_tokens`] or [`Self::require_clients`].
    pub async fn start(tls: Option<&ServerTls>, clock: &Clock) -> anyhow::Result<Self> {
        let (server, listener) = Server::bind(tls, clock).await?;
        let state = Arc::new(State {
            clock: clock.clone(),
            tokens: Mutex::default(),
            clients: Mutex::default(),
            faults: Faults::default(),
            record: Mutex::default(),
            arrivals: watch::Sender::new(0),
            events: broadcast::Sender::new(256),
        });
        server.serve(listener, Arc::clone(&state) as Arc<dyn Answer>);
        Ok(Self { server, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// `http://127.0.0.1:PORT`, or `https`.
    pub fn url(&self) -> String {
        format!("{}://{}", self.server.scheme(), self.address())
    }

    /// Asks for access tokens from now on.
    pub fn require_tokens(&self, rule: TokenRule) {
        *lock(&self.state.tokens) = Some(rule);
    }

    /// Asks for a client certificate with one of these SPIFFE IDs from now on.
    pub fn require_clients(&self, ids: &[&str]) {
        *lock(&self.state.clients) = Some(ids.iter().map(|id| (*id).to_owned()).collect());
    }

    /// Misbehaviour to order.
    pub fn faults(&self) -> &Faults {
        &self.state.faults
    }

    /// Sends an event to every open `/sse` stream, and says how many there are.
    pub fn send_event(&self, data: &str) -> usize {
        self.state.events.send(Some(data.to_owned())).unwrap_or(0)
    }

    /// Ends every open `/sse` stream.
    pub fn end_events(&self) {
        // An error means that there is none.
        let _ = self.state.events.send(None);
    }

    /// The connections so far, failed TLS handshakes included.
    pub fn connections(&self) -> u64 {
        self.server.connections()
    }

    /// The connections that are open.
    pub fn open_connections(&self) -> u64 {
        self.server.open_connections()
    }

    /// The requests whose answer has begun, oldest first; the last few thousand.
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.state.record).all().cloned().collect()
    }

    /// The last request whose answer has begun.
    pub fn last_request(&self) -> Option<Seen> {
        lock(&self.state.record).all().next_back().cloned()
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

    /// New handshakes use this from now on.
    pub fn set_tls(&self, tls: &ServerTls) -> anyhow::Result<()> {
        self.server.set_tls(tls)
    }

    /// Resets every connection and refuses new ones.
    pub async fn stop(&self) {
        self.server.stop().await;
    }

    /// Listens on the same port again.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.server.restart().await
    }
}

impl Answer for State {
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, HangUp>> + Send>> {
        Box::pin(async move {
            let mut seen = Seen::new(&request, &connection);
            self.arrivals.send_modify(|arrivals| *arrivals += 1);
            let answered = {
                let normal = self.serve(request, &connection, &mut seen);
                self.faults.apply(connection.requests() > 1, normal).await
            };
            seen.status = answered.as_ref().ok().map(|response| response.status().as_u16());
            lock(&self.record).push(seen);
            answered
        })
    }
}

impl State {
    async fn serve(&self, request: Request<Incoming>, connection: &Arc<Connection>, seen: &mut Seen) -> Response<Body> {
        match self.admit(seen).await {
            Ok(()) => self.endpoint(request, connection, seen).await,
            Err(refusal) => refusal,
        }
    }
}

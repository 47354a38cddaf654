//! The HTTP server of the dev servers: HTTP/1.1 and HTTP/2, plain or over TLS, on loopback. It can
//! stop and restart on the same port.
mod tls;

pub use tls::{ClientCertificates, ServerTls};

use crate::clock::Clock;
use crate::sync::lock;
use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Makes a body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// What a service returns to close the connection without an answer.
#[derive(Debug)]
pub struct HangUp;

impl fmt::Display for HangUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server hangs up, as scripted")
    }
}

impl std::error::Error for HangUp {}

/// A connection as the server sees it.
#[derive(Debug)]
pub struct Connection {
    /// The number of the connection, counted from 1 over the life of the server.
    pub number: u64,
    /// The client's certificate chain, verified in the handshake; empty if there is none.
    pub client_chain: Vec<CertificateDer<'static>>,
    requests: AtomicU64,
    upgraded: Mutex<JoinSet<()>>,
}

impl Connection {
    /// How many requests have arrived on this connection, including the current one.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Runs the protocol that follows an upgrade, at most until the server stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        lock(&self.upgraded).spawn(task);
    }
}

/// A service that answers requests.
pub trait Respond: Send + Sync + 'static {
    /// Answers one request, or closes the connection.
    fn respond(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, HangUp>> + Send>>;
}

/// A listening server. Dropping it closes every connection.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    state: Arc<ServerState>,
    accepting: Mutex<JoinSet<()>>,
}

struct ServerState {
    clock: Clock,
    tls: Mutex<Option<Arc<rustls::ServerConfig>>>,
    service: Mutex<Option<Arc<dyn Respond>>>,
    connections: AtomicU64,
    open: AtomicU64,
}

impl fmt::Debug for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerState").field("connections", &self.connections).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds a port of 127.0.0.1. Connections wait for [`Self::serve`], because the service often
    /// has to know the address.
    pub async fn bind(tls: Option<&ServerTls>, clock: &Clock) -> anyhow::Result<(Self, TcpListener)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot bind a port of 127.0.0.1")?;
        let state = ServerState {
            clock: clock.clone(),
            tls: Mutex::new(tls.map(|tls| tls.config(clock)).transpose()?),
            service: Mutex::default(),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
        };
        let address = listener.local_addr()?;
        Ok((Self { address, state: Arc::new(state), accepting: Mutex::default() }, listener))
    }

    /// Starts to answer the connections of this listener.
    pub fn serve(&self, listener: TcpListener, service: Arc<dyn Respond>) {
        *lock(&self.state.service) = Some(Arc::clone(&service));
        lock(&self.accepting).spawn(accept(listener, Arc::clone(&self.state), service));
    }

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The scheme: `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if lock(&self.state.tls).is_some() { "https" } else { "http" }
    }

    /// How many connections have been accepted, including those whose TLS handshake failed.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> u64 {
        self.state.open.load(Ordering::Relaxed)
    }

    /// Uses these TLS settings for new handshakes.
    pub fn set_tls(&self, tls: &ServerTls) -> anyhow::Result<()> {
        *lock(&self.state.tls) = Some(tls.config(&self.state.clock)?);
        Ok(())
    }

    /// Closes every connection and refuses new ones.
    pub async fn stop(&self) {
        let mut accepting = std::mem::take(&mut *lock(&self.accepting));
        accepting.shutdown().await;
    }

    /// Listens on the same port again.
    pub async fn restart(&self) -> anyhow::Result<()> {
        let service = lock(&self.state.service).clone().context("the server was never started")?;
        let listener = TcpListener::bind(self.address).await.context("cannot bind the port again")?;
        lock(&self.accepting).spawn(accept(listener, Arc::clone(&self.state), service));
        Ok(())
    }
}

async fn accept(listener: TcpListener, state: Arc<ServerState>, service: Arc<dyn Respond>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, Arc::clone(&state), Arc::clone(&service)));
                }
                // Either no descriptor is free or the client has already left. The next connection
                // may succeed.
                Err(_) => tokio::task::yield_now().await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts a connection as open until it is dropped.
struct OpenGuard(Arc<ServerState>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve_connection(stream: TcpStream, state: Arc<ServerState>, service: Arc<dyn Respond>) {
    let number = state.connections.fetch_add(1, Ordering::Relaxed) + 1;
    state.open.fetch_add(1, Ordering::Relaxed);
    let _open = OpenGuard(Arc::clone(&state));
    // Otherwise small answers would wait for the client's delayed ACK. This cannot fail on an open
    // socket.
    let _ = stream.set_nodelay(true);
    let tls = lock(&state.tls).clone();
    match tls {
        None => serve(stream, number, Vec::new(), service).await,
        Some(config) => {
            // The client receives an alert; tests check how it reacts.
            let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
            serve(stream, number, chain, service).await;
        }
    }
}

async fn serve<S>(stream: S, number: u64, client_chain: Vec<CertificateDer<'static>>, service: Arc<dyn Respond>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection =
        Arc::new(Connection { number, client_chain, requests: AtomicU64::new(0), upgraded: Mutex::default() });
    let answering = hyper::service::service_fn(|request| {
        connection.requests.fetch_add(1, Ordering::Relaxed);
        Arc::clone(&service).respond(request, Arc::clone(&connection))
    });
    let server = auto::Builder::new(TokioExecutor::new());
    // An error means that the client left, or that a fault closed the connection.
    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), answering).await;
    let mut upgraded = std::mem::take(&mut *lock(&connection.upgraded));
    while upgraded.join_next().await.is_some() {}
}

/// Reads the whole body and its trailers. An error means that the client disconnected.
pub async fn collect(body: Incoming) -> anyhow::Result<(Bytes, http::HeaderMap)> {
    let collected = body.collect().await.context("the request's body ended early")?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Ok((collected.to_bytes(), trailers))
}

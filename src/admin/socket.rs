//! The admin socket, a Unix socket that only its owner can open, and its client.
use super::status::Status;
use crate::http_server::{
    ConnectionBudget, FullResponse, READ_ONLY, Server, method_not_allowed, not_found, response, text,
};
use crate::tasks::Stop;
use crate::telemetry::Logs;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};

/// How long the body of a request may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The server of the status and the log level.
pub struct AdminSocket {
    /// The socket.
    pub listener: std::os::unix::net::UnixListener,
    /// Builds the status for each request.
    pub status: Arc<dyn Fn() -> Status + Send + Sync>,
    /// The log whose level can be changed.
    pub logs: Option<Logs>,
    /// The connections that it may have.
    pub budget: ConnectionBudget,
}

impl AdminSocket {
    /// Serves until `stop` fires.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub async fn run(self, stop: Stop) -> Result<(), String> {
        let Self { listener, status, logs, budget } = self;
        let listener =
            UnixListener::from_std(listener).map_err(|error| format!("the admin listener failed: {error}"))?;
        let handler = move |request| answer(request, Arc::clone(&status), logs.clone());
        Server { handler, budget, stop }.serve(listener).await
    }
}

async fn answer(
    request: Request<Incoming>,
    status: Arc<dyn Fn() -> Status + Send + Sync>,
    logs: Option<Logs>,
) -> FullResponse {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/status") => match serde_json::to_vec_pretty(&status()) {
            Ok(body) => response(StatusCode::OK, "application/json", body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        (&Method::PUT, "/log-level") => {
            let body = Limited::new(request.into_body(), 1024).collect();
            let Ok(Ok(body)) = tokio::time::timeout(BODY_TIMEOUT, body).await else {
                return text(StatusCode::BAD_REQUEST, "the level is too long, or did not arrive in time\n");
            };
            let level = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
            match logs.map(|logs| logs.set_level(&level)) {
                Some(Ok(())) => {
                    tracing::info!(%level, "the log level was changed over the admin socket");
                    text(StatusCode::OK, format!("{level}\n"))
                }
                Some(Err(error)) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
                None => text(StatusCode::NOT_FOUND, "the log level of this process cannot be changed\n"),
            }
        }
        (_, "/status") => method_not_allowed(READ_ONLY),
        (_, "/log-level") => method_not_allowed("PUT"),
        _ => not_found("socket", "GET /status and PUT /log-level"),
    }
}

/// A client of the admin socket of a running proxy.
pub struct Client {
    path: PathBuf,
}

/// Why a request to the admin socket failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No proxy answers at the socket.
    #[error("{path} does not answer: {error}; check that the proxy is running, with `listen.admin` set to this socket")]
    Unreachable {
        /// The path of the socket.
        path: String,
        /// Why the connection failed.
        error: std::io::Error,
    },
    /// The connection to the proxy failed while the request was in flight.
    #[error("the connection to the proxy failed: {0}")]
    Broken(#[from] hyper::Error),
    /// The proxy refused the request.
    #[error("{0}")]
    Refused(String),
    /// The response cannot be read, possibly because the proxy has another version.
    #[error("the proxy's response cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
}

impl Client {
    /// Creates a client of the proxy that serves the socket at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns the status of the proxy.
    ///
    /// # Errors
    /// The proxy could not be reached, or did not answer as expected.
    pub async fn status(&self) -> Result<Status, ClientError> {
        Ok(serde_json::from_slice(&self.ask(Method::GET, "/status", String::new()).await?)?)
    }

    /// Changes the log level of the proxy.
    ///
    /// # Errors
    /// The proxy could not be reached, or did not answer as expected.
    pub async fn set_log_level(&self, level: &str) -> Result<(), ClientError> {
        self.ask(Method::PUT, "/log-level", level.to_owned()).await.map(|_| ())
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> Result<Bytes, ClientError> {
        let unreachable = |error| ClientError::Unreachable { path: self.path.display().to_string(), error };
        let stream = UnixStream::connect(&self.path).await.map_err(unreachable)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap_or_default();
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        let answered = tokio::select! {
            answered = answer => answered,
            ended = connection => Err(ended.err().map_or_else(|| unreachable(std::io::ErrorKind::ConnectionReset.into()), ClientError::from))?,
        };
        let (status, body) = answered?;
        if status.is_success() {
            Ok(body)
        } else {
            Err(ClientError::Refused(String::from_utf8_lossy(&body).trim().to_owned()))
        }
    }
}

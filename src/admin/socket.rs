//! The admin socket: a file that only its owner may open.
use super::http::{self, Answer, text};
use super::status::Status;
use crate::tasks::Stop;
use crate::telemetry::Logs;
use ::http::{Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};

/// Serves the status and the log level.
pub struct AdminSocket {
    /// Where the socket is made.
    pub path: PathBuf,
    /// Makes the page.
    pub status: Arc<dyn Fn() -> Status + Send + Sync>,
    /// Whose level can be changed.
    pub logs: Option<Logs>,
}

impl AdminSocket {
    /// Serves until it is told to stop, and removes the socket.
    pub async fn run(self, stop: Stop) -> Result<(), String> {
        let listener = listen(&self.path).map_err(|error| {
            format!(
                "listen.admin: {} cannot be made: {error}; it must be in a directory that this user may write",
                self.path.display()
            )
        })?;
        let (status, logs) = (Arc::clone(&self.status), self.logs.clone());
        let handler = move |request| answer(request, Arc::clone(&status), logs.clone());
        let ended = http::serve(listener, handler, stop).await;
        // It may be gone already; a leftover would be replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
        ended
    }
}

fn listen(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // A socket left by a process that was killed refuses connections; one in use does not and is left alone.
    if std::os::unix::net::UnixStream::connect(path).is_err() && path.exists() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn answer(
    request: Request<Incoming>,
    status: Arc<dyn Fn() -> Status + Send + Sync>,
    logs: Option<Logs>,
) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => match serde_json::to_vec_pretty(&status()) {
            Ok(body) => http::answer(StatusCode::OK, "application/json", body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        (&Method::PUT, "/log-level") => {
            let Ok(body) = Limited::new(request.into_body(), 1024).collect().await else {
                return text(StatusCode::BAD_REQUEST, "the level is too long\n");
            };
            let level = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
            match logs.map(|logs| logs.set_level(&level)) {
                Some(Ok(())) => {
                    tracing::info!(%level, "the log level was changed over the admin socket");
                    text(StatusCode::OK, format!("{level}\n"))
                }
                Some(Err(error)) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
                None => text(StatusCode::NOT_FOUND, "this process's log is not ours to change\n"),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "here are GET /status and PUT /log-level\n"),
    }
}

/// Asks a running proxy.
pub struct Client {
    path: PathBuf,
}

/// Why a running proxy could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No proxy there.
    #[error("{path} does not answer: {error}; is the proxy running, with `listen.admin` set to this socket?")]
    Unreachable {
        /// The socket.
        path: String,
        /// What was seen.
        error: std::io::Error,
    },
    /// It broke off.
    #[error("the proxy broke off: {0}")]
    Broken(#[from] hyper::Error),
    /// It says no.
    #[error("{0}")]
    Refused(String),
    /// Another version, perhaps.
    #[error("the proxy's answer is not understood: {0}")]
    Unreadable(#[from] serde_json::Error),
}

impl Client {
    /// Of the proxy that serves this socket.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its status.
    pub async fn status(&self) -> Result<Status, ClientError> {
        Ok(serde_json::from_slice(&self.ask(Method::GET, "/status", String::new()).await?)?)
    }

    /// Changes its log level.
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
        request.headers_mut().insert(::http::header::HOST, ::http::HeaderValue::from_static("localhost"));
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

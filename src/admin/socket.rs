//! The admin socket, a Unix socket that only its owner can open, and its client.
use super::status::Status;
use crate::http_server::{self, FullResponse, READ_ONLY, method_not_allowed, not_found, response, text};
use crate::tasks::Stop;
use crate::telemetry::Logs;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};

/// How long the body of a request may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The server of the status and the log level.
pub struct AdminSocket {
    /// The path at which the socket is created.
    pub path: PathBuf,
    /// Builds the status for each request.
    pub status: Arc<dyn Fn() -> Status + Send + Sync>,
    /// The log whose level can be changed.
    pub logs: Option<Logs>,
}

impl AdminSocket {
    /// Serves until `stop` fires, and then removes the socket.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub async fn run(self, stop: Stop) -> Result<(), String> {
        let listener = listen(&self.path).map_err(|error| format!("listen.admin: {}: {error}", self.path.display()))?;
        let (status, logs) = (Arc::clone(&self.status), self.logs.clone());
        let handler = move |request| answer(request, Arc::clone(&status), logs.clone());
        let ended = http_server::serve(listener, handler, stop).await;
        if is_socket(&self.path).is_ok_and(|socket| socket) {
            // Failure is harmless: the socket may be gone already, and a stale one is replaced at
            // the next start.
            let _ = std::fs::remove_file(&self.path);
        }
        ended
    }
}

/// Why the admin socket cannot be created.
#[derive(Debug, thiserror::Error)]
enum ListenError {
    #[error("a file that is not a socket exists there and is left alone; choose a path that is free")]
    NotASocket,
    #[error("another process serves this socket; stop it, or choose another path")]
    InUse,
    #[error("it cannot be created: {0}; it must be in a directory that this user can write to")]
    Io(#[from] std::io::Error),
}

fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory)?;
    // A socket that a killed process left behind refuses connections and is replaced.
    match is_socket(path) {
        Ok(true) if std::os::unix::net::UnixStream::connect(path).is_ok() => return Err(ListenError::InUse),
        Ok(true) => {}
        Ok(false) => return Err(ListenError::NotASocket),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    // The socket gets its name only after its mode was changed, so that others can never open it,
    // not even for a moment.
    let unnamed = directory.join(format!(".{:08x}", fastrand::u32(..)));
    let listener = UnixListener::bind(&unnamed)?;
    let named = std::fs::set_permissions(&unnamed, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&unnamed, path));
    if let Err(error) = named {
        // The error that matters is returned below.
        let _ = std::fs::remove_file(&unnamed);
        return Err(error.into());
    }
    Ok(listener)
}

/// Tells whether a socket exists at `path` itself. A symbolic link is not a socket, wherever it
/// points.
fn is_socket(path: &Path) -> std::io::Result<bool> {
    Ok(std::fs::symlink_metadata(path)?.file_type().is_socket())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn mode(path: &Path) -> Option<u32> {
        std::fs::symlink_metadata(path).ok().map(|metadata| metadata.permissions().mode() & 0o777)
    }

    #[tokio::test]
    async fn file_that_is_not_a_socket_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        std::fs::write(&path, "precious").expect("written");
        let status = || -> Status { panic!("no request") };
        let socket = AdminSocket { path: path.clone(), status: Arc::new(status), logs: None };
        let (stopper, stop) = Stop::pair();
        stopper.stop();
        let error = socket.run(stop).await.expect_err("refused");
        assert!(error.starts_with("listen.admin: ") && error.contains("is not a socket"), "{error}");
        std::os::unix::fs::symlink("admin.sock", directory.path().join("link.sock")).expect("linked");
        assert!(matches!(listen(&directory.path().join("link.sock")), Err(ListenError::NotASocket)));
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "precious");
    }

    #[tokio::test]
    async fn only_a_socket_is_removed_at_the_end() {
        for replaced in [false, true] {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("admin.sock");
            let status = || -> Status { panic!("no request") };
            let socket = AdminSocket { path: path.clone(), status: Arc::new(status), logs: None };
            let (stopper, stop) = Stop::pair();
            let meanwhile = async {
                while !path.exists() {
                    tokio::task::yield_now().await;
                }
                if replaced {
                    std::fs::remove_file(&path).expect("removed");
                    std::fs::write(&path, "precious").expect("written");
                }
                stopper.stop();
            };
            let (ended, ()) = tokio::join!(socket.run(stop), meanwhile);
            assert_eq!((ended, path.exists()), (Ok(()), replaced));
        }
    }

    #[tokio::test]
    async fn stale_socket_is_replaced_and_live_socket_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("made/admin.sock");
        let first = listen(&path).expect("made");
        assert!(matches!(listen(&path), Err(ListenError::InUse)));
        drop(first);
        assert!(is_socket(&path).expect("left behind"));
        let _second = listen(&path).expect("made again");
        let all: Vec<_> = std::fs::read_dir(path.parent().expect("a parent")).expect("read").collect();
        assert_eq!(all.len(), 1, "{all:?}");
    }

    #[tokio::test]
    async fn socket_is_never_open_to_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        let done = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let modes = std::iter::from_fn(|| (!done.load(Ordering::Relaxed)).then(|| mode(&path)));
                modes.flatten().find(|mode| *mode != 0o600)
            });
            for _ in 0..500 {
                drop(listen(&path).expect("made"));
                std::fs::remove_file(&path).expect("removed");
            }
            done.store(true, Ordering::Relaxed);
            watcher.join().expect("no panic")
        });
        assert_eq!(seen, None);
    }
}

//! The injector's calls to the API server. Objects are JSON, so that an object that is written back
//! loses no field.
use ::http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use kube::{Client, Config};
use serde_json::Value;
use std::time::Duration;

/// A client of the API server.
#[derive(Clone)]
pub struct Api {
    client: Client,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    /// The object does not exist.
    #[error("it does not exist")]
    Missing,
    /// Another client has changed the object since it was read.
    #[error("it has changed in the meantime")]
    Conflict,
    /// The call failed in any other way.
    #[error("{0}")]
    Failed(String),
}

/// How long a call about one of the injector's own objects may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest error body that is read, in bytes.
const MAX_ERROR_BODY: usize = 16 * 1024;

impl Api {
    /// Makes a client with the service account of this pod, or with a kubeconfig.
    ///
    /// # Errors
    /// There is neither, or it is unusable.
    pub async fn infer() -> Result<Self, String> {
        let config = Config::infer().await.map_err(|error| {
            format!("the API server is not configured: {error}; run in a pod with a service account, or set KUBECONFIG")
        })?;
        Self::with(config)
    }

    /// Makes a client of the API server at `url` that sends no credentials.
    ///
    /// # Errors
    /// The client cannot be set up.
    pub fn at(url: Uri) -> Result<Self, String> {
        Self::with(Config::new(url))
    }

    fn with(mut config: Config) -> Result<Self, String> {
        config.connect_timeout = Some(Duration::from_secs(3));
        let agent = concat!("idjag-proxy-injector/", env!("CARGO_PKG_VERSION"));
        config.headers.push((header::USER_AGENT, ::http::HeaderValue::from_static(agent)));
        let client = Client::try_from(config)
            .map_err(|error| format!("the client of the API server could not be set up: {error}"))?;
        Ok(Self { client })
    }

    /// Returns the namespace of this pod, or of the kubeconfig's context.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.call(Method::GET, path, None).await
    }

    /// Passes on the text of an object as it arrives, and keeps none of it: other people's objects
    /// may be large. The caller sets the deadline.
    pub(super) async fn stream(&self, path: &str, mut receive: impl FnMut(&[u8])) -> Result<(), ApiError> {
        let failed = |error: &dyn std::fmt::Display| ApiError::Failed(format!("GET {path}: {error}"));
        let request = Request::get(path).body(Body::empty()).map_err(|error| failed(&error))?;
        let answer = self.client.send(request).await.map_err(|error| failed(&chain(&error)))?;
        let (status, mut body) = (answer.status(), answer.into_body());
        if !status.is_success() {
            let why = error_message(body).await;
            let missing = status == StatusCode::NOT_FOUND;
            return Err(if missing { ApiError::Missing } else { failed(&format!("{} {why}", status.as_u16())) });
        }
        // Read to the end in any case: a connection whose answer was not read cannot be reused.
        while let Some(frame) = body.frame().await {
            if let Ok(piece) = frame.map_err(|error| failed(&chain(&error)))?.into_data() {
                receive(&piece);
            }
        }
        Ok(())
    }

    /// Writes an object back. Its `resourceVersion` makes this a [`ApiError::Conflict`] if it has
    /// changed since it was read.
    pub(super) async fn put(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.call(Method::PUT, path, Some(object)).await
    }

    pub(super) async fn post(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.call(Method::POST, path, Some(object)).await
    }

    async fn call(&self, method: Method, path: &str, object: Option<&Value>) -> Result<Value, ApiError> {
        let failed = |error: &dyn std::fmt::Display| ApiError::Failed(format!("{method} {path}: {error}"));
        let body = object.map(serde_json::to_vec).transpose().map_err(|error| failed(&error))?;
        let mut request = Request::new(body.unwrap_or_default());
        *request.method_mut() = method.clone();
        *request.uri_mut() = path.parse().map_err(|error| failed(&error))?;
        request.headers_mut().insert(header::CONTENT_TYPE, ::http::HeaderValue::from_static("application/json"));
        // As text, because `kube` logs an answer that is not JSON, and the answer may be a Secret.
        let answer = match tokio::time::timeout(DEADLINE, self.client.request_text(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(kube::Error::Api(status))) => {
                return Err(match status.code {
                    404 => ApiError::Missing,
                    409 => ApiError::Conflict,
                    code => failed(&format!("{code} {}", status.message)),
                });
            }
            Ok(Err(error)) => return Err(failed(&chain(&error))),
            Err(_) => return Err(failed(&format!("no answer within {} s", DEADLINE.as_secs()))),
        };
        serde_json::from_str(&answer).map_err(|_| failed(&"the answer is not JSON"))
    }
}

/// Returns the message of a `Status`, or nothing if the body is something else.
async fn error_message(body: Body) -> String {
    let read = Limited::new(body, MAX_ERROR_BODY).collect().await.ok();
    let status: Option<Value> = read.and_then(|read| serde_json::from_slice(&read.to_bytes()).ok());
    status.as_ref().and_then(|status| status.get("message")?.as_str()).unwrap_or_default().to_owned()
}

/// Displays an error with its causes: the outermost alone says only `ServiceError`.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

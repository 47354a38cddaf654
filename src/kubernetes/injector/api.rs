//! The few calls that the injector makes. Each has a deadline; objects are JSON, so that what we write back is what was there.
use ::http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use kube::{Client, Config};
use serde_json::Value;
use std::time::Duration;

/// The API server.
#[derive(Clone)]
pub struct Api {
    client: Client,
}

/// What a call came to, if not to an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    /// There is no such object.
    #[error("there is none")]
    Missing,
    /// Somebody else was faster.
    #[error("it has changed meanwhile")]
    Conflict,
    /// Anything else.
    #[error("{0}")]
    Trouble(String),
}

/// For one object of the injector's own.
const DEADLINE: Duration = Duration::from_secs(10);
/// Of what the API server says of a refusal.
const LONGEST_REFUSAL: usize = 16 * 1024;

impl Api {
    /// By the service account of this pod, or by a kubeconfig.
    ///
    /// # Errors
    /// Neither is there, in words.
    pub async fn infer() -> Result<Self, String> {
        let config = Config::infer().await.map_err(|error| {
            format!("no way to the API server: {error}; run it in a pod with a service account, or set KUBECONFIG")
        })?;
        Self::with(config)
    }

    /// An API server at this URL, without credentials.
    ///
    /// # Errors
    /// No client can be made for it.
    pub fn at(url: Uri) -> Result<Self, String> {
        Self::with(Config::new(url))
    }

    fn with(mut config: Config) -> Result<Self, String> {
        config.connect_timeout = Some(Duration::from_secs(3));
        let agent = concat!("idjag-proxy-injector/", env!("CARGO_PKG_VERSION"));
        config.headers.push((header::USER_AGENT, ::http::HeaderValue::from_static(agent)));
        let client = Client::try_from(config).map_err(|error| format!("no client for the API server: {error}"))?;
        Ok(Self { client })
    }

    /// The namespace of this pod, or of the kubeconfig's context.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.call(Method::GET, path, None).await
    }

    /// Hands on an object that is somebody else's as it comes, and keeps nothing of it. The deadline is the caller's.
    pub(super) async fn stream(&self, path: &str, mut take: impl FnMut(&[u8])) -> Result<(), ApiError> {
        let trouble = |error: &dyn std::fmt::Display| ApiError::Trouble(format!("GET {path}: {error}"));
        let request = Request::get(path).body(Body::empty()).map_err(|error| trouble(&error))?;
        let answer = self.client.send(request).await.map_err(|error| trouble(&chain(&error)))?;
        let (status, mut body) = (answer.status(), answer.into_body());
        if !status.is_success() {
            let why = refusal(body).await;
            let missing = status == StatusCode::NOT_FOUND;
            return Err(if missing { ApiError::Missing } else { trouble(&format!("{} {why}", status.as_u16())) });
        }
        // To its end, whatever is found before: a connection whose answer was not read cannot be used again.
        while let Some(frame) = body.frame().await {
            if let Ok(piece) = frame.map_err(|error| trouble(&chain(&error)))?.into_data() {
                take(&piece);
            }
        }
        Ok(())
    }

    /// Writes an object back. Its `resourceVersion` makes it a [`ApiError::Conflict`] if somebody else wrote since it was read.
    pub(super) async fn put(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.call(Method::PUT, path, Some(object)).await
    }

    pub(super) async fn post(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.call(Method::POST, path, Some(object)).await
    }

    async fn call(&self, method: Method, path: &str, object: Option<&Value>) -> Result<Value, ApiError> {
        let trouble = |error: &dyn std::fmt::Display| ApiError::Trouble(format!("{method} {path}: {error}"));
        let body = object.map(serde_json::to_vec).transpose().map_err(|error| trouble(&error))?;
        let mut request = Request::new(body.unwrap_or_default());
        *request.method_mut() = method.clone();
        *request.uri_mut() = path.parse().map_err(|error| trouble(&error))?;
        request.headers_mut().insert(header::CONTENT_TYPE, ::http::HeaderValue::from_static("application/json"));
        // As text, because `kube` would log an answer that is no JSON, and an answer may be a Secret.
        let answer = match tokio::time::timeout(DEADLINE, self.client.request_text(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(kube::Error::Api(status))) => {
                return Err(match status.code {
                    404 => ApiError::Missing,
                    409 => ApiError::Conflict,
                    code => trouble(&format!("{code} {}", status.message)),
                });
            }
            Ok(Err(error)) => return Err(trouble(&chain(&error))),
            Err(_) => return Err(trouble(&format!("no answer within {} s", DEADLINE.as_secs()))),
        };
        serde_json::from_str(&answer).map_err(|_| trouble(&"the answer is no JSON"))
    }
}

/// The message of a `Status`, if it is one.
async fn refusal(body: Body) -> String {
    let read = Limited::new(body, LONGEST_REFUSAL).collect().await.ok();
    let status: Option<Value> = read.and_then(|read| serde_json::from_slice(&read.to_bytes()).ok());
    status.as_ref().and_then(|status| status.get("message")?.as_str()).unwrap_or_default().to_owned()
}

/// An error with its causes: the outermost alone says `ServiceError`.
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

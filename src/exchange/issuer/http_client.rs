//! One HTTP client per authorization server: no redirects, no proxies, bounded answers, deadlines (OC-1).
use super::connector::{ConnectError, Connector, causes, tls_error};
use super::settings::{AuthorizationServer, ClientAuth};
use crate::clock::Clock;
use crate::exchange::error::Failure;
use crate::identity::Identity;
use crate::tls::{ClientTls, Present, client_config, reason};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// An answer above this is not read to its end.
const MAX_BODY: usize = 256 * 1024;
/// Header fields of an answer, all together.
const MAX_HEAD: usize = 64 * 1024;
/// Below the idle time of common servers, so that a request rarely meets a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(15);
/// A token, a second one, metadata and keys: more never wait at once for long.
const MAX_IDLE: usize = 4;

type HttpClient = Client<Connector, Full<Bytes>>;

/// What a server answered.
pub(in crate::exchange) struct Answer {
    pub(in crate::exchange) status: StatusCode,
    pub(in crate::exchange) headers: HeaderMap,
    pub(in crate::exchange) body: Bytes,
}

/// The client of one server; another one after every change of the identity, if that takes part in TLS, since a pooled connection
/// would go on speaking for the old one.
#[derive(Default)]
pub(in crate::exchange) struct ServerClient(Mutex<Option<(u64, HttpClient)>>);

impl ServerClient {
    /// Sends one request and reads the whole answer. A connection that could not be made is tried once more: nothing was sent (OC-5).
    pub(in crate::exchange) async fn send(
        &self,
        server: &AuthorizationServer,
        around: (Option<&Identity>, &Clock),
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, Failure> {
        let client = self.client(server, around)?;
        let exchange = async {
            match once(&client, request.clone()).await {
                Err(Trouble::NotConnected(_)) => once(&client, request).await,
                result => result,
            }
        };
        match tokio::time::timeout(server.deadlines.total, exchange).await {
            Ok(result) => result.map_err(Failure::from),
            Err(_) => Err(Failure::Timeout("its answer")),
        }
    }

    fn client(&self, server: &AuthorizationServer, around: (Option<&Identity>, &Clock)) -> Result<HttpClient, Failure> {
        let (identity, clock) = around;
        let present =
            if matches!(server.client_auth, ClientAuth::SpiffeX509) { Present::Svid } else { Present::Nothing };
        let tls = ClientTls { trust: server.trust.clone(), present, alpn: vec![b"http/1.1".to_vec()] };
        let revision = match identity {
            Some(identity) if tls.needs_identity() => {
                identity.current().map_err(|missing| Failure::Identity(missing.to_string()))?.revision
            }
            _ => 0,
        };
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = held.as_ref().filter(|(of, _)| *of == revision) {
            return Ok(client.clone());
        }
        let config = client_config(&tls, identity, clock).map_err(|error| Failure::Configuration(error.to_string()))?;
        let connector = Connector {
            tls: config.into(),
            plain_http: Arc::new(server.plain_http.clone()),
            deadline: server.deadlines.connect,
        };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(MAX_HEAD)
            .build(connector);
        *held = Some((revision, client.clone()));
        Ok(client)
    }
}

enum Trouble {
    /// Worth another connection.
    NotConnected(String),
    Failed(Failure),
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NotConnected(why) => Self::Unreachable(why),
            Trouble::Failed(failure) => failure,
        }
    }
}

async fn once(client: &HttpClient, request: Request<Full<Bytes>>) -> Result<Answer, Trouble> {
    let url = request.uri().to_string();
    let response = client.request(request).await.map_err(|error| trouble(&error, &url))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| {
        Trouble::Failed(if error.is::<http_body_util::LengthLimitError>() {
            Failure::Response(format!("it is longer than {} KiB", MAX_BODY / 1024))
        } else {
            Failure::Unreachable(format!("the answer broke off: {}", reason(error.as_ref())))
        })
    })?;
    Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
}

fn trouble(error: &hyper_util::client::legacy::Error, url: &str) -> Trouble {
    let source = std::error::Error::source(error);
    match source.and_then(|source| source.downcast_ref::<ConnectError>()) {
        Some(ConnectError::Tcp(why)) => Trouble::NotConnected(why.clone()),
        Some(ConnectError::Tls(why)) => Trouble::Failed(Failure::Tls(why.clone())),
        Some(ConnectError::Timeout(_)) => Trouble::Failed(Failure::Timeout("connecting")),
        Some(ConnectError::PlainHttp) => Trouble::Failed(Failure::PlainHttp(url.to_owned())),
        None => {
            // TLS 1.3 refuses a client certificate only after the handshake, when the answer is read.
            if causes(error).any(|cause| tls_error(cause).is_some()) {
                Trouble::Failed(Failure::Tls(reason(error)))
            } else {
                Trouble::Failed(Failure::Unreachable(reason(error)))
            }
        }
    }
}

//! The webhook's server: HTTPS, `POST /mutate`, everything bounded. Any bytes get an answer.
use super::api::{Api, ApiError};
use super::events::{Event, Events};
use super::metrics::Metrics;
use super::review::{Answer, Lookup, Outcome, Policy, Review};
use crate::admin::http::next;
use crate::kubernetes::names::CONFIG_KEY;
use crate::tasks::Stop;
use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

/// What answers reviews.
pub(super) struct Webhook {
    pub(super) policy: Policy,
    pub(super) api: Api,
    pub(super) metrics: Metrics,
    pub(super) events: Events,
    /// Kibibytes of bodies that may be held at once.
    pub(super) room: Semaphore,
}

/// Held bodies, all together: 32 MiB.
pub(super) const ROOM: usize = 32 * 1024;
/// The API server takes objects of 3 MiB at most, and an update has two.
const LONGEST: usize = 8 * 1024 * 1024;
const CONNECTIONS: usize = 1024;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For the head of a request, and between two on a connection.
const HEAD: Duration = Duration::from_secs(30);
/// For the body; the API server itself waits for 5 s.
const BODY: Duration = Duration::from_secs(5);
/// For the `ConfigMap`; without an answer the pod is let in.
const LOOKUP: Duration = Duration::from_secs(2);
/// From not being ready to not accepting: as long as a Service may still send calls here.
const LINGER: Duration = Duration::from_secs(8);
/// For the calls in flight then.
const FINISH: Duration = Duration::from_secs(8);

type Reply = Response<Full<Bytes>>;

/// Serves until it is told to stop, then for a while longer, and finishes what it has begun.
pub(super) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    webhook: Arc<Webhook>,
    mut stop: Stop,
) -> Result<(), String> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let leaving = stop.clone();
    let (closer, closing) = Stop::pair();
    let mut connections = JoinSet::new();
    let end = async {
        stop.stopped().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::pin!(end);
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, permit) = tokio::select! {
            () = &mut end => break,
            next = next(&listener, &permits) => next,
        };
        let (tls, webhook, stops) = (tls.clone(), Arc::clone(&webhook), (leaving.clone(), closing.clone()));
        connections.spawn(async move {
            let _permit = permit;
            connection(stream, tls, webhook, stops).await;
        });
    }
    drop(listener);
    closer.stop();
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(FINISH, all).await.is_err() {
        tracing::warn!("some reviews were not finished");
    }
    Ok(())
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, webhook: Arc<Webhook>, (leaving, mut closing): (Stop, Stop)) {
    // It cannot fail on an open socket.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
        Err(_) => return,
    };
    let service = service_fn(move |request| {
        let (webhook, leaving) = (Arc::clone(&webhook), leaving.clone());
        async move {
            let mut reply = webhook.reply(request).await;
            // The API server keeps its connections: without this it would stay with a replica that is leaving until the very end,
            // and a connection that closes as a review arrives refuses a pod.
            if leaving.is_stopped() {
                reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(reply)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 * 1024);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    // A connection that breaks is the caller's business.
    tokio::select! {
        _ = &mut serving => return,
        () = closing.stopped() => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}

/// A body that was not read.
enum Unread {
    TooLong,
    TooSlow,
    NoRoom,
    Broken,
}

impl Webhook {
    async fn reply(&self, request: Request<Incoming>) -> Reply {
        if request.uri().path() != "/mutate" {
            return text(StatusCode::NOT_FOUND, "here is POST /mutate");
        }
        if request.method() != Method::POST {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "only POST");
            reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return reply;
        }
        let started = Instant::now();
        let body = self.body(request.into_body()).await;
        let review = match body {
            Ok((body, _room)) => Review::parse(&body),
            Err(unread) => {
                self.metrics.malformed();
                return unread.reply();
            }
        };
        match review {
            Ok(review) => {
                let answer = self.answer(&review).await;
                self.metrics.reviewed(review.resource(), answer.outcome, started.elapsed());
                json(&answer.body)
            }
            Err(malformed) => {
                tracing::info!(%malformed, "a malformed review was turned away");
                self.metrics.malformed();
                text(StatusCode::BAD_REQUEST, &malformed.to_string())
            }
        }
    }

    /// The whole body, and the room that it takes until it is parsed.
    async fn body(&self, body: Incoming) -> Result<(Bytes, SemaphorePermit<'_>), Unread> {
        let announced = body.size_hint().upper().unwrap_or(LONGEST as u64);
        let length = usize::try_from(announced).ok().filter(|length| *length <= LONGEST).ok_or(Unread::TooLong)?;
        let kibibytes = u32::try_from(length / 1024 + 1).map_err(|_| Unread::TooLong)?;
        let permit = timeout(BODY, self.room.acquire_many(kibibytes)).await;
        let Ok(Ok(permit)) = permit else { return Err(Unread::NoRoom) };
        match timeout(BODY, Limited::new(body, LONGEST).collect()).await {
            Ok(Ok(collected)) => Ok((collected.to_bytes(), permit)),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Unread::TooLong),
            Ok(Err(_)) => Err(Unread::Broken),
            Err(_) => Err(Unread::TooSlow),
        }
    }

    async fn answer(&self, review: &Review) -> Answer {
        let verdict = review.verdict(&self.policy);
        let lookup = match verdict.config() {
            Some(config) => self.look_up(&review.namespace, config).await,
            None => Lookup::Found,
        };
        let answer = verdict.answer(review, &lookup);
        let (reason, level) = match answer.outcome {
            Outcome::Refused => ("SidecarRefused", true),
            Outcome::Warned => ("SidecarWarning", true),
            _ => ("", false),
        };
        if level {
            let complaint = answer.complaints.join("; ");
            tracing::info!(namespace = %review.namespace, dry_run = review.dry_run, %complaint, reason);
            if let Some(involved) = review.involved().filter(|_| !review.dry_run) {
                let namespace = review.namespace.clone();
                self.events.send(Event { namespace, involved, severity: "Warning", reason, message: complaint });
            }
        }
        answer
    }

    async fn look_up(&self, namespace: &str, config: &str) -> Lookup {
        if namespace.is_empty() {
            return Lookup::Unknown("the review names no namespace".to_owned());
        }
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{config}");
        match self.api.get_within(&path, LOOKUP).await {
            Ok(object) => {
                let has = |key: &str| object.get(key).and_then(|data| data.get(CONFIG_KEY)).is_some();
                if has("data") || has("binaryData") { Lookup::Found } else { Lookup::NoFile }
            }
            Err(ApiError::Missing) => Lookup::Missing,
            Err(error) => Lookup::Unknown(error.to_string()),
        }
    }
}

impl Unread {
    fn reply(&self) -> Reply {
        match self {
            Self::TooLong => text(StatusCode::PAYLOAD_TOO_LARGE, "a review has 8 MiB at most"),
            Self::TooSlow => text(StatusCode::REQUEST_TIMEOUT, "the body did not come within 5 s"),
            Self::NoRoom => text(StatusCode::SERVICE_UNAVAILABLE, "too many reviews at once"),
            Self::Broken => text(StatusCode::BAD_REQUEST, "the body broke off"),
        }
    }
}

fn json(value: &Value) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(value.to_string())));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

fn text(status: StatusCode, message: &str) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(format!("{message}\n"))));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

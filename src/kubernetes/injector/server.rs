//! The webhook's server: HTTPS, `POST /mutate`, everything bounded. Any bytes get an answer.
use super::api::{Api, ApiError};
use super::entry::Search;
use super::events::{Cause, Event, Events};
use super::metrics::Metrics;
use super::review::{Answer, Lookup, Malformed, Outcome, Policy, Review, Verdict};
use super::room::{Amount, Held, Room, Seat};
use crate::tasks::Stop;
use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

/// What answers reviews.
pub(super) struct Webhook {
    pub(super) policy: Policy,
    pub(super) api: Api,
    pub(super) metrics: Metrics,
    pub(super) events: Events,
    pub(super) room: Arc<Room>,
    /// Permits to parse a review and judge it, which is where it takes most memory.
    pub(super) checks: Arc<Semaphore>,
    /// Permits to look for a `ConfigMap`, which whoever makes pods may have made as large as they please.
    pub(super) lookups: Semaphore,
}

/// With the most that two checks take (16 MiB each), what look-ups and idle connections take, and the process itself, it stays below the 128 MiB that
/// the chart allows: `tests/it/kubernetes/webhook_load.rs` measures it.
pub(super) const ALL: Amount = Amount { connections: 1024, bytes: 24 * 1024 * 1024 };
/// For one address. The API server has 200 changes in flight by default, each of one review of some 10 KiB.
pub(super) const EACH: Amount = Amount { connections: 256, bytes: 8 * 1024 * 1024 };
/// At once. One takes some 50 ms at worst.
pub(super) const CHECKS: usize = 2;
/// At once. One takes a few milliseconds, and what its connection buffers: 400 KiB at most.
pub(super) const LOOKUPS: usize = 4;
/// Of one review. etcd keeps objects of 1.5 MiB at most, and a review has one as it is to be and one as it was.
const LONGEST: usize = 3 * 1024 * 1024;
/// What is set aside for a body when its first bytes are there; twice as much each time that it fills up, because what is only announced
/// takes no room.
const PIECE: usize = 16 * 1024;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For the head of the first request.
const HEAD: Duration = Duration::from_secs(5);
/// Between two requests on a connection.
const IDLE: Duration = Duration::from_secs(120);
// The API server's HTTP client keeps connections for 90 s. One that we close first may be one that it is just about to use.
const _: () = assert!(IDLE.as_secs() > 90);
/// For the body; the API server itself waits for 5 s.
const BODY: Duration = Duration::from_secs(3);
/// For a permit to check. Better no answer soon than one that nobody waits for any more.
const QUEUE: Duration = Duration::from_secs(2);
/// For a permit to look for the `ConfigMap` and for the answer; without one the pod is let in.
const LOOKUP: Duration = Duration::from_secs(2);
/// From not being ready to not accepting: as long as a Service may still send calls here.
const LINGER: Duration = Duration::from_secs(8);
/// For the calls in flight then.
const FINISH: Duration = Duration::from_secs(8);

type Reply = Response<Full<Bytes>>;
type Checked = Result<(Review, Verdict, Held), Malformed>;

/// Serves until it is told to stop, then for a while longer, and finishes what it has begun.
pub(super) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    webhook: Arc<Webhook>,
    mut stop: Stop,
) -> Result<(), String> {
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
        let accepted = tokio::select! {
            () = &mut end => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of file descriptors, most likely: without a pause this loop would take a core until some are free.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(seat) = webhook.room.seat(peer.ip()) else {
            tracing::debug!(%peer, "a connection too many was closed");
            continue;
        };
        let (tls, webhook, stops) = (tls.clone(), Arc::clone(&webhook), (leaving.clone(), closing.clone()));
        connections.spawn(connection(stream, tls, (webhook, seat), stops));
    }
    drop(listener);
    closer.stop();
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(FINISH, all).await.is_err() {
        tracing::warn!("some reviews were not finished");
    }
    Ok(())
}

async fn connection(
    stream: TcpStream,
    tls: TlsAcceptor,
    (webhook, seat): (Arc<Webhook>, Arc<Seat>),
    (leaving, mut closing): (Stop, Stop),
) {
    // It cannot fail on an open socket.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
        Err(_) => return,
    };
    let asked = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&asked);
    let service = service_fn(move |request| {
        told.store(true, Ordering::Relaxed);
        let (webhook, seat, leaving) = (Arc::clone(&webhook), Arc::clone(&seat), leaving.clone());
        async move {
            let mut reply = webhook.reply(request, &seat).await;
            // The API server keeps its connections: without this it would stay with a replica that is leaving until the very end,
            // and a connection that closes as a review arrives refuses a pod.
            if leaving.is_stopped() {
                reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(reply)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(16 * 1024);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    // hyper knows one time for the first head and for those after it.
    let silent = async {
        tokio::time::sleep(HEAD).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    // A connection that breaks is the caller's business.
    tokio::select! {
        _ = &mut serving => return,
        () = silent => return,
        () = closing.stopped() => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}

/// A review that nobody looked at.
enum Unread {
    NoLength,
    TooLong,
    TooSlow,
    NoRoom,
    Broken,
    Crashed,
}

impl Webhook {
    async fn reply(self: Arc<Self>, request: Request<Incoming>, seat: &Arc<Seat>) -> Reply {
        if request.uri().path() != "/mutate" {
            return text(StatusCode::NOT_FOUND, "here is POST /mutate");
        }
        if request.method() != Method::POST {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "only POST");
            reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return reply;
        }
        let started = Instant::now();
        match self.review(request.into_body(), seat.hold()).await {
            Ok(Ok((review, verdict, _held))) => {
                let answer = self.answer(&review, verdict).await;
                self.metrics.reviewed(review.resource(), answer.outcome, started.elapsed());
                json(&answer.body)
            }
            Ok(Err(malformed)) => {
                tracing::info!(%malformed, "a malformed review was turned away");
                self.metrics.malformed();
                text(malformed.status(), &malformed.to_string())
            }
            Err(unread) => {
                self.metrics.malformed();
                unread.reply()
            }
        }
    }

    /// Reads a review and judges it. What it takes is held from its first byte until the answer is made.
    async fn review(self: &Arc<Self>, body: Incoming, mut held: Held) -> Result<Checked, Unread> {
        let length = body.size_hint().exact().ok_or(Unread::NoLength)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST).ok_or(Unread::TooLong)?;
        let body = timeout(BODY, read(body, length, &mut held)).await.unwrap_or(Err(Unread::TooSlow))?;
        let permit = timeout(QUEUE, Arc::clone(&self.checks).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(Unread::NoRoom) };
        let webhook = Arc::clone(self);
        // A caller that hangs up does not end it: what it holds stays with it.
        let checking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let review = Review::parse(&body)?;
            let verdict = review.verdict(&webhook.policy);
            Ok((review.without_object(), verdict, held))
        });
        let mut checked = checking.await.map_err(|_| Unread::Crashed)?;
        if let Ok((_, verdict, held)) = &mut checked {
            // It is held twice while the answer is written.
            if !held.resize(2 * verdict.length()) {
                return Err(Unread::NoRoom);
            }
        }
        Ok(checked)
    }

    async fn answer(&self, review: &Review, verdict: Verdict) -> Answer {
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
            if let Some(involved) = review.involved.clone().filter(|_| !review.dry_run) {
                let namespace = review.namespace.clone();
                let cause = Cause::Review;
                self.events.send(Event { cause, namespace, involved, severity: "Warning", reason, message: complaint });
            }
        }
        answer
    }

    async fn look_up(&self, namespace: &str, config: &str) -> Lookup {
        if namespace.is_empty() {
            return Lookup::Unknown("the review names no namespace".to_owned());
        }
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{config}");
        let mut search = Search::default();
        let asking = async {
            // It is never closed.
            let _permit = self.lookups.acquire().await;
            self.api.stream(&path, |piece| search.read(piece)).await
        };
        match timeout(LOOKUP, asking).await {
            Ok(Ok(())) => match search.outcome() {
                Some(true) => Lookup::Found,
                Some(false) => Lookup::NoFile,
                None => Lookup::Unknown(format!("GET {path}: the answer is no object")),
            },
            Ok(Err(ApiError::Missing)) => Lookup::Missing,
            Ok(Err(error)) => Lookup::Unknown(error.to_string()),
            Err(_) => Lookup::Unknown(format!("GET {path}: no answer within {} s", LOOKUP.as_secs())),
        }
    }
}

async fn read(mut body: Incoming, length: usize, held: &mut Held) -> Result<Vec<u8>, Unread> {
    let mut bytes: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        let needed = bytes.len() + piece.len();
        if needed > bytes.capacity() {
            let capacity = needed.max((2 * bytes.capacity()).max(PIECE).min(length));
            if !held.resize(capacity) {
                return Err(Unread::NoRoom);
            }
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

impl Malformed {
    fn status(&self) -> StatusCode {
        if matches!(self, Self::TooHeavy) { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST }
    }
}

impl Unread {
    fn reply(&self) -> Reply {
        match self {
            Self::NoLength => text(StatusCode::LENGTH_REQUIRED, "a review says how long it is: Content-Length"),
            Self::TooLong => text(StatusCode::PAYLOAD_TOO_LARGE, "a review has 3 MiB at most"),
            Self::TooSlow => text(StatusCode::REQUEST_TIMEOUT, "the body did not come within 3 s"),
            Self::NoRoom => text(StatusCode::SERVICE_UNAVAILABLE, "too many reviews at once"),
            Self::Broken => text(StatusCode::BAD_REQUEST, "the body broke off"),
            Self::Crashed => text(StatusCode::INTERNAL_SERVER_ERROR, "the review could not be judged"),
        }
    }
}

fn json(value: &Value) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(value.to_string())));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// Instead of a review's answer. Only who sends reviews keeps a connection.
fn text(status: StatusCode, message: &str) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(format!("{message}\n"))));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

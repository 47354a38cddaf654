//! The webhook's server: `POST /mutate` over HTTPS. Everything is bounded, and any bytes get an
//! answer.
use super::api::{Api, ApiError};
use super::events::{Event, EventSource, Events};
use super::key_search::KeySearch;
use super::metrics::Metrics;
use super::quota::{Permit, Quota, Reservation, Usage};
use super::review::{Lookup, Malformed, Review, ReviewAnswer, ReviewOutcome, ReviewPolicy, Verdict};
use crate::http_server::{Activity, Connections, FullResponse};
use crate::tasks::{Stop, Stopper};
use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

/// The webhook: it reads, judges and answers reviews.
pub(super) struct Webhook {
    pub(super) policy: ReviewPolicy,
    api: Api,
    metrics: Metrics,
    events: Events,
    quota: Arc<Quota>,
    /// Limits the reviews that are parsed and judged at one time, which takes the most memory.
    checks: Arc<Semaphore>,
    /// Limits the lookups of a `ConfigMap` at one time. Anyone who creates pods may have made
    /// theirs as large as they please.
    lookups: Semaphore,
}

/// The quota of all callers. Together with two checks (16 MiB each at most), lookups, idle
/// connections and the process itself this stays below the 128 MiB that the chart allows;
/// `tests/it/kubernetes/webhook_load.rs` measures it.
const TOTAL_QUOTA: Usage = Usage { connections: 1024, bytes: 24 * 1024 * 1024 };
/// The quota of one address. By default the API server has 200 changes in flight, each with one
/// review of some 10 KiB.
const ADDRESS_QUOTA: Usage = Usage { connections: 256, bytes: 8 * 1024 * 1024 };
/// The number of checks at one time. One takes some 50 ms at worst.
const CHECKS: usize = 2;
/// The number of lookups at one time. One takes a few milliseconds, and at most 400 KiB of buffers
/// in its connection.
const LOOKUPS: usize = 4;
/// The longest review, in bytes. etcd stores objects of at most 1.5 MiB, and a review contains the
/// new and the old one.
const MAX_REVIEW: usize = 3 * 1024 * 1024;
/// The first reservation for a body, in bytes, made when its first bytes arrive. It is doubled
/// whenever the body fills it, so a body that is only announced takes no memory.
const FIRST_RESERVATION: usize = 16 * 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the head of a connection's first request may take.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may be idle between two requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
// The API server's HTTP client keeps idle connections for 90 s. One that we close first may be
// about to be used.
const _: () = assert!(IDLE_TIMEOUT.as_secs() > 90);
/// How long the body may take. The API server itself waits for 5 s.
const BODY_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a review may wait for a permit. Failing fast beats an answer that the caller no longer
/// waits for.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the lookup of a `ConfigMap` may take, with the wait for its permit. After that the pod
/// is admitted.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long connections are accepted after the injector became unready: Services keep routing calls
/// here for a few seconds.
const LINGER: Duration = Duration::from_secs(8);
/// How long calls in flight may take to finish after that.
const FINISH_TIMEOUT: Duration = Duration::from_secs(8);

/// A review and the verdict on it, with the memory that they take.
struct Checked {
    review: Review,
    verdict: Verdict,
    reservation: Reservation,
}

/// The two signals of a server that stops.
#[derive(Clone)]
struct Shutdown {
    /// Fires when the injector becomes unready. Answers then close their connections.
    leaving: Stop,
    /// Fires when the server no longer accepts connections. Idle connections are then closed.
    closing: Stop,
}

impl Shutdown {
    /// Returns the signals, and what fires the second one.
    fn after(leaving: Stop) -> (Self, Stopper) {
        let (closer, closing) = Stop::pair();
        (Self { leaving, closing }, closer)
    }
}

/// Serves until `stop` fires and for [`LINGER`] after it, then finishes the calls in flight.
pub(super) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    webhook: Arc<Webhook>,
    mut stop: Stop,
) -> Result<(), String> {
    let (shutdown, closer) = Shutdown::after(stop.clone());
    let mut connections = Connections::default();
    let end = async {
        stop.stopped().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::pin!(end);
    loop {
        let accepted = tokio::select! {
            () = &mut end => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            // Most likely the process is out of file descriptors. Without a pause this loop would
            // spin until some are free.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(permit) = admit(&webhook.quota, &mut connections, peer.ip()) else {
            tracing::debug!(%peer, "a connection was closed because the quota is exhausted");
            continue;
        };
        let holder = Arc::downgrade(&permit);
        let caller = Caller { webhook: Arc::clone(&webhook), permit, shutdown: shutdown.clone() };
        connections.spawn(holder, |activity| caller.serve(stream, tls.clone(), activity));
    }
    drop(listener);
    closer.stop();
    if timeout(FINISH_TIMEOUT, connections.all_ended()).await.is_err() {
        tracing::warn!("some reviews were not finished");
    }
    Ok(())
}

/// Admits a connection. If the quota is exhausted, a connection that uses the exhausted part of it
/// gives way, unless all of them have a review in progress.
fn admit(quota: &Arc<Quota>, connections: &mut Connections<Weak<Permit>>, address: IpAddr) -> Option<Arc<Permit>> {
    let exhausted = match quota.admit(address) {
        Ok(permit) => return Some(permit),
        Err(exhausted) => exhausted,
    };
    let closed = connections.give_way(|permit| permit.upgrade().is_some_and(|permit| exhausted.includes(&permit)))?;
    if let Some(permit) = closed.upgrade() {
        permit.release();
    }
    quota.admit(address).ok()
}

/// The other end of one connection.
#[derive(Clone)]
struct Caller {
    webhook: Arc<Webhook>,
    permit: Arc<Permit>,
    shutdown: Shutdown,
}

impl Caller {
    async fn serve(self, stream: TcpStream, tls: TlsAcceptor, activity: Activity) {
        // This cannot fail on an open socket.
        let _ = stream.set_nodelay(true);
        let stream = match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
            Err(_) => return,
        };
        let mut closing = self.shutdown.closing.clone();
        let requests = activity.clone();
        let service = service_fn(move |request| {
            let (caller, answering) = (self.clone(), requests.begin_request());
            async move {
                let _answering = answering;
                Ok::<_, Infallible>(caller.respond(request).await)
            }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).max_buf_size(16 * 1024);
        let serving = builder.serve_connection(TokioIo::new(activity.watch(stream)), service);
        tokio::pin!(serving);
        // hyper has one timeout for the first head and the later ones.
        let silent = async {
            tokio::time::sleep(FIRST_HEAD_TIMEOUT).await;
            if activity.has_asked() {
                std::future::pending::<()>().await;
            }
        };
        // An error concerns the caller alone.
        tokio::select! {
            _ = &mut serving => return,
            () = silent => return,
            () = closing.stopped() => {}
        }
        serving.as_mut().graceful_shutdown();
        let _ = serving.await;
    }

    async fn respond(self, request: Request<Incoming>) -> FullResponse {
        let mut response = self.webhook.respond(request, &self.permit).await;
        // The API server reuses connections: without this header it would stay with a replica that
        // is leaving until the end, and a connection that closes while a review arrives causes a
        // refused pod.
        if self.shutdown.leaving.is_stopped() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Why a review was not looked at.
enum NotReviewed {
    NoLength,
    TooLong,
    TooSlow,
    Overloaded,
    CutShort,
    Panicked,
}

impl Webhook {
    pub(super) fn new(policy: ReviewPolicy, api: Api, metrics: Metrics, events: Events) -> Self {
        Self {
            policy,
            api,
            metrics,
            events,
            quota: Quota::new(TOTAL_QUOTA, ADDRESS_QUOTA),
            checks: Arc::new(Semaphore::new(CHECKS)),
            lookups: Semaphore::new(LOOKUPS),
        }
    }

    async fn respond(self: &Arc<Self>, request: Request<Incoming>, permit: &Arc<Permit>) -> FullResponse {
        if request.uri().path() != "/mutate" {
            return text(StatusCode::NOT_FOUND, "not found; this port serves POST /mutate");
        }
        if request.method() != Method::POST {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed: use POST");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        let started = Instant::now();
        match self.check(request.into_body(), permit.reserve()).await {
            Ok(Ok(Checked { review, verdict, reservation: _reservation })) => {
                let answer = self.answer(&review, verdict).await;
                self.metrics.count_review(review.resource(), answer.outcome, started.elapsed());
                json(&answer.body)
            }
            Ok(Err(malformed)) => {
                tracing::info!(%malformed, "a malformed review was rejected");
                self.metrics.count_malformed();
                text(malformed.status(), &malformed.to_string())
            }
            Err(not_reviewed) => {
                self.metrics.count_malformed();
                not_reviewed.response()
            }
        }
    }

    /// Reads a review and judges it. Its memory is reserved from its first byte until the answer is
    /// made.
    async fn check(
        self: &Arc<Self>,
        body: Incoming,
        mut reservation: Reservation,
    ) -> Result<Result<Checked, Malformed>, NotReviewed> {
        let length = body.size_hint().exact().ok_or(NotReviewed::NoLength)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_REVIEW);
        let length = length.ok_or(NotReviewed::TooLong)?;
        let reading = read(body, length, &mut reservation);
        let body = timeout(BODY_TIMEOUT, reading).await.unwrap_or(Err(NotReviewed::TooSlow))?;
        let permit = timeout(CHECK_TIMEOUT, Arc::clone(&self.checks).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(NotReviewed::Overloaded) };
        let webhook = Arc::clone(self);
        // The check continues if the caller hangs up, so it owns the permit and the reservation.
        let checking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let review = Review::parse(&body)?;
            let verdict = review.verdict(&webhook.policy);
            Ok(Checked { review: review.without_object(), verdict, reservation })
        });
        let mut checked = checking.await.map_err(|_| NotReviewed::Panicked)?;
        if let Ok(Checked { verdict, reservation, .. }) = &mut checked {
            // The patch exists twice while the answer is written.
            if !reservation.resize(2 * verdict.size()) {
                return Err(NotReviewed::Overloaded);
            }
        }
        Ok(checked)
    }

    async fn answer(&self, review: &Review, verdict: Verdict) -> ReviewAnswer {
        let lookup = match verdict.config() {
            Some(config) => self.look_up(&review.namespace, config).await,
            None => Lookup::Found,
        };
        let answer = verdict.answer(review, &lookup);
        match answer.outcome {
            ReviewOutcome::Refused => self.report("SidecarRefused", review, &answer),
            ReviewOutcome::Warned => self.report("SidecarWarning", review, &answer),
            ReviewOutcome::Injected | ReviewOutcome::Unchanged => {}
        }
        answer
    }

    /// Reports a refusal or a warning in the log and, unless the review is a dry run, by an event.
    fn report(&self, reason: &'static str, review: &Review, answer: &ReviewAnswer) {
        let complaint = answer.problems.join("; ");
        tracing::info!(namespace = %review.namespace, dry_run = review.dry_run, %complaint, reason);
        if let Some(involved) = review.involved.clone().filter(|_| !review.dry_run) {
            let namespace = review.namespace.clone();
            let (source, severity, message) = (EventSource::Review, "Warning", complaint);
            self.events.send(Event { source, namespace, involved, severity, reason, message });
        }
    }

    async fn look_up(&self, namespace: &str, config: &str) -> Lookup {
        if namespace.is_empty() {
            return Lookup::Unknown("the review names no namespace".to_owned());
        }
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{config}");
        let mut search = KeySearch::default();
        let asking = async {
            // The semaphore is never closed.
            let _permit = self.lookups.acquire().await;
            self.api.stream(&path, |piece| search.read(piece)).await
        };
        match timeout(LOOKUP_TIMEOUT, asking).await {
            Ok(Ok(())) => match search.result() {
                Some(true) => Lookup::Found,
                Some(false) => Lookup::NoFile,
                None => Lookup::Unknown(format!("GET {path}: the answer is not an object")),
            },
            Ok(Err(ApiError::Missing)) => Lookup::Missing,
            Ok(Err(error)) => Lookup::Unknown(error.to_string()),
            Err(_) => Lookup::Unknown(format!("GET {path}: no answer within {} s", LOOKUP_TIMEOUT.as_secs())),
        }
    }
}

/// Reads a body of `length` bytes, and reserves its memory as it grows.
async fn read(mut body: Incoming, length: usize, reservation: &mut Reservation) -> Result<Vec<u8>, NotReviewed> {
    let mut bytes: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|_| NotReviewed::CutShort)?.into_data() else { continue };
        let needed = bytes.len() + piece.len();
        if needed > bytes.capacity() {
            let capacity = needed.max((2 * bytes.capacity()).max(FIRST_RESERVATION).min(length));
            if !reservation.resize(capacity) {
                return Err(NotReviewed::Overloaded);
            }
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

impl Malformed {
    fn status(&self) -> StatusCode {
        if matches!(self, Self::TooLarge) { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST }
    }
}

impl NotReviewed {
    fn response(&self) -> FullResponse {
        match self {
            Self::NoLength => text(StatusCode::LENGTH_REQUIRED, "a review needs a Content-Length"),
            Self::TooLong => text(StatusCode::PAYLOAD_TOO_LARGE, "a review may have at most 3 MiB"),
            Self::TooSlow => text(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 3 s"),
            Self::Overloaded => text(StatusCode::SERVICE_UNAVAILABLE, "too many reviews at once"),
            Self::CutShort => text(StatusCode::BAD_REQUEST, "the body is incomplete"),
            Self::Panicked => text(StatusCode::INTERNAL_SERVER_ERROR, "the review could not be judged"),
        }
    }
}

fn json(value: &Value) -> FullResponse {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Makes a response that is not the answer to a review. It closes the connection: only callers that
/// send reviews keep one.
fn text(status: StatusCode, message: &str) -> FullResponse {
    let mut response = Response::new(Full::new(Bytes::from(format!("{message}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

//! One request, from its head to the last byte of its answer, relay or tunnel. A session holds the
//! request's place in the limits, and counts and logs exactly once how it ended.
use super::downstream::{Downstream, WriteTimeout};
use super::ended::EndedBy;
use super::error::{Reason, Refusal};
use super::limiter::RoutePlace;
use super::metrics::RouteMetrics;
use super::request_id::{self, RequestId};
use super::traffic::InFlight;
use super::transfer::{Transfer, UploadFault};
use super::upstream::Lease;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A request and its answer. If it is dropped before it is finished, the agent has left or does not
/// read its answer, or the proxy stops.
pub(super) struct Session {
    arrival: SessionArrival,
    transfer: Rc<Transfer>,
    started: Instant,
    /// The time from the head of the request to that of the answer.
    answered_after: Option<Duration>,
    /// What only the log line shows; gathered only if such lines are written.
    logged: Option<Box<Logged>>,
    /// Its place among the requests of its route, if the route limits them.
    _place: Option<RoutePlace>,
    is_finished: bool,
}

/// What a request brings with it, and holds until it ends.
pub(super) struct SessionArrival {
    /// Its place among the requests in flight.
    pub(super) in_flight: InFlight,
    /// The connection that it arrived on. It holds its place among the connections for as long,
    /// whatever it has been upgraded to.
    pub(super) downstream: Rc<Downstream>,
    /// How long the answer may go unread.
    pub(super) write_timeout: WriteTimeout,
    /// The series of the request's route; at first those of no route.
    pub(super) route: Arc<RouteMetrics>,
}

struct Logged {
    method: Method,
    host: String,
    path: String,
    request_id: HeaderValue,
    /// The identifier that the upstream answered with, if it is another one.
    upstream_request_id: Option<HeaderValue>,
    traceparent: Option<String>,
    status: u16,
    upstream: Option<(SocketAddr, Version)>,
}

impl Session {
    /// Begins the session of a request that has just arrived.
    pub(super) fn begin(arrival: SessionArrival, method: &Method, headers: &HeaderMap, id: &RequestId) -> Self {
        let logged = tracing::enabled!(target: "idjag_proxy::request", tracing::Level::INFO).then(|| {
            Box::new(Logged {
                method: method.clone(),
                host: String::new(),
                path: String::new(),
                request_id: id.value().clone(),
                upstream_request_id: None,
                traceparent: headers.get("traceparent").and_then(|value| value.to_str().ok()).map(str::to_owned),
                status: 0,
                upstream: None,
            })
        });
        let transfer = Transfer::new();
        Self {
            arrival,
            started: transfer.last(),
            transfer,
            answered_after: None,
            logged,
            _place: None,
            is_finished: false,
        }
    }

    /// What moves of the request and its answer.
    pub(super) fn transfer(&self) -> &Rc<Transfer> {
        &self.transfer
    }

    /// The connection that the request arrived on.
    pub(super) fn downstream(&self) -> &Rc<Downstream> {
        &self.arrival.downstream
    }

    /// Whether there was a place for the request.
    pub(super) fn is_within_limit(&self) -> bool {
        self.arrival.in_flight.is_within_limit()
    }

    /// Records where the request goes. `path` has no query, because agents put secrets there.
    pub(super) fn set_destination(&mut self, host: &str, path: &str) {
        if let Some(logged) = &mut self.logged {
            host.clone_into(&mut logged.host);
            path.clone_into(&mut logged.path);
        }
    }

    /// Records which route the request takes, and how long its answer may go unread.
    pub(super) fn set_route(&mut self, route: &Arc<RouteMetrics>, idle: Duration) {
        self.arrival.route = Arc::clone(route);
        self.arrival.write_timeout.set(idle);
    }

    /// Limits how long the request may take as a whole, from its head on.
    pub(super) fn set_total(&self, total: Option<Duration>) {
        self.transfer.set_end(total.map(|total| self.started + total));
    }

    /// Holds a place among the requests of the route until the session ends.
    pub(super) fn hold(&mut self, place: RoutePlace) {
        self._place = Some(place);
    }

    /// The name of the route that the request takes.
    pub(super) fn route(&self) -> &str {
        &self.arrival.route.name
    }

    /// Counts a refusal of what the agent sends inside its tunnel.
    pub(super) fn count_reason(&self, reason: Reason) {
        self.arrival.route.count_reason(reason);
    }

    /// Records the head of an answer. The session goes on until the answer has been sent.
    pub(super) fn record_answer(&mut self, status: StatusCode, lease: Option<&Lease>) {
        self.arrival.route.count_answer(status);
        self.record_head(status);
        if let Some(logged) = &mut self.logged {
            logged.upstream = lease.map(|lease| (lease.peer(), lease.protocol()));
        }
    }

    /// Records the identifier that the upstream answered with.
    pub(super) fn set_upstream_request_id(&mut self, headers: &HeaderMap) {
        if let Some(logged) = &mut self.logged {
            let id = headers.get(request_id::FIELD);
            logged.upstream_request_id = id.filter(|id| logged.request_id != id).cloned();
        }
    }

    /// Finishes the session of a request that the proxy answers with a refusal.
    pub(super) fn refuse(mut self, refusal: &Refusal) {
        self.record_head(refusal.status());
        if refusal.reason.is_upstream_failure() {
            self.arrival.route.count_answer(refusal.status());
        } else {
            self.arrival.route.count_refused();
        }
        self.arrival.route.count_reason(refusal.reason);
        let by = self.transfer.fault().map_or(refusal.reason.ended_by(), ended_by_fault);
        self.end(by, Some(refusal));
    }

    /// Finishes the session.
    pub(super) fn finish(mut self, by: EndedBy) {
        self.end(by, None);
    }

    /// Finishes the session of an answer that did not reach its end. A timeout is no failure of the
    /// upstream then: event streams that are quiet, or longer than the route allows, end like that.
    pub(super) fn fail(mut self, by: EndedBy) {
        let by = self.transfer.fault().map_or(by, ended_by_fault);
        let reason = match by {
            EndedBy::Upstream => Some(Reason::UpstreamBroken),
            EndedBy::Trust => Some(Reason::UpstreamTls),
            EndedBy::Whole | EndedBy::Agent | EndedBy::Timeout | EndedBy::Limit | EndedBy::Drain => None,
        };
        if let Some(reason) = reason {
            self.arrival.route.count_reason(reason);
        }
        self.end(by, None);
    }

    fn record_head(&mut self, status: StatusCode) {
        let elapsed = self.started.elapsed();
        self.answered_after = Some(elapsed);
        self.arrival.route.duration.observe(elapsed.as_secs_f64());
        if let Some(logged) = &mut self.logged {
            logged.status = status.as_u16();
        }
    }

    /// Who ended a session that was not finished.
    fn cut_off_by(&self) -> EndedBy {
        if self.arrival.in_flight.is_cut_off() {
            EndedBy::Drain
        } else if self.arrival.write_timeout.has_passed() {
            EndedBy::Timeout
        } else {
            EndedBy::Agent
        }
    }

    fn end(&mut self, by: EndedBy, refusal: Option<&Refusal>) {
        self.is_finished = true;
        self.arrival.route.count_end(by);
        let Some(logged) = &self.logged else { return };
        tracing::info!(
            target: "idjag_proxy::request",
            method = %logged.method,
            host = %logged.host,
            path = %logged.path,
            route = &*self.arrival.route.name,
            status = logged.status,
            refused = refusal.map_or("", |refusal| refusal.reason.as_str()),
            detail = refusal.map_or("", Refusal::detail),
            ended = by.as_str(),
            request_bytes = self.transfer.request_bytes(),
            response_bytes = self.transfer.response_bytes(),
            upstream = logged.upstream.map(|(address, _)| address.to_string()).unwrap_or_default(),
            protocol = logged.upstream.map_or("", |(_, version)| protocol(version)),
            request_id = text(Some(&logged.request_id)),
            upstream_request_id = text(logged.upstream_request_id.as_ref()),
            traceparent = logged.traceparent.as_deref().unwrap_or_default(),
            first_byte_ms = self.answered_after.map_or(0, millis),
            duration_ms = millis(self.started.elapsed()),
            "request"
        );
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.is_finished {
            self.end(self.cut_off_by(), None);
        }
    }
}

fn ended_by_fault(fault: UploadFault) -> EndedBy {
    match fault {
        UploadFault::TooLarge => EndedBy::Limit,
        UploadFault::Broken => EndedBy::Agent,
        UploadFault::Idle | UploadFault::Total => EndedBy::Timeout,
    }
}

fn text(value: Option<&HeaderValue>) -> &str {
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The name of a protocol in the registry of ALPN (RFC 7301 §6).
fn protocol(version: Version) -> &'static str {
    if version == Version::HTTP_2 { "h2" } else { "http/1.1" }
}

/// Not the 128 bits of `as_millis`, which the JSON format writes as text.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

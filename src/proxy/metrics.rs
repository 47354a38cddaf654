//! The metrics of the data plane. A route's series are looked up once, when the table of routes is
//! built.
use super::ended::EndedBy;
use super::error::Reason;
use super::traffic::Traffic;
use crate::telemetry::Registrar;
use http::StatusCode;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use std::sync::Arc;

/// The metrics of all workers together.
#[derive(Clone)]
pub struct Metrics {
    families: Families,
    /// Answers that were abandoned because the agent did not read them.
    pub(super) unread: IntCounter,
    /// Counts the connections to Unix sockets of processes that may not use them.
    pub(super) refused_peers: IntCounter,
    pub(super) upstream: UpstreamGauges,
    upstream_active: IntGauge,
    downstream: [IntGauge; 2],
    unrouted: Arc<RouteMetrics>,
}

/// The gauges of connections to upstreams.
#[derive(Clone)]
pub(super) struct UpstreamGauges {
    /// Open connections, idle ones included.
    pub(super) open: IntGauge,
    pub(super) idle: IntGauge,
}

/// The metrics with series for each route.
#[derive(Clone)]
struct Families {
    requests: IntCounterVec,
    ended: IntCounterVec,
    refused: IntCounterVec,
    upstream_failures: IntCounterVec,
    durations: HistogramVec,
    injected: IntCounterVec,
    replays: IntCounterVec,
    retries: IntCounterVec,
    dropped_cookies: IntCounterVec,
    expiry: IntGaugeVec,
}

/// The series of one route.
pub(super) struct RouteMetrics {
    /// The name of the route: the label `route`.
    pub(super) name: Arc<str>,
    classes: [IntCounter; CLASSES.len()],
    ended: [IntCounter; EndedBy::ALL.len()],
    /// Refusals and failures of the upstream, indexed by [`Reason`].
    reasons: Box<[IntCounter]>,
    pub(super) duration: Histogram,
    pub(super) bearer: IntCounter,
    pub(super) legacy_secret: IntCounter,
    pub(super) replayed: IntCounter,
    pub(super) not_replayed: IntCounter,
    pub(super) retried: IntCounter,
    pub(super) over_budget: IntCounter,
    pub(super) dropped_cookies: IntCounter,
    pub(super) expiry: Option<IntGauge>,
}

/// The upper bounds of the duration buckets, in seconds.
const DURATIONS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// The label `class`: the upstream's status, or that the proxy refused the request.
const CLASSES: [&str; 6] = ["101", "2xx", "3xx", "4xx", "5xx", "refused"];
/// The index of `refused` in [`CLASSES`].
const REFUSED: usize = 5;

impl Metrics {
    /// Registers the metrics of the data plane.
    pub fn new(registrar: &Registrar) -> prometheus::Result<Self> {
        let families = Families {
            requests: registrar.counters(
                "requests_total",
                "Requests that were answered, by route and class of the answer.",
                &["route", "class"],
            )?,
            ended: registrar.counters(
                "ended_total",
                "Requests by route and by who ended them, counted when the last byte of the answer was sent.",
                &["route", "by"],
            )?,
            refused: registrar.counters(
                "refused_total",
                "Requests that this proxy refused, by route and reason.",
                &["route", "reason"],
            )?,
            upstream_failures: registrar.counters(
                "upstream_failures_total",
                "Requests whose upstream gave no answer, or broke it off, by route and reason.",
                &["route", "reason"],
            )?,
            durations: registrar.histograms(
                "request_duration_seconds",
                "From a request's head to its response's head.",
                &["route"],
                &DURATIONS,
            )?,
            injected: registrar.counters(
                "injected_total",
                "Requests that left with a credential.",
                &["route", "kind"],
            )?,
            replays: registrar.counters(
                "token_replays_total",
                "Upstream 401s by what followed.",
                &["route", "outcome"],
            )?,
            retries: registrar.counters(
                "retries_total",
                "Requests that were sent again after a failure, and those that were not because of the budget.",
                &["route", "outcome"],
            )?,
            dropped_cookies: registrar.counters(
                "dropped_cookies_total",
                "Cookies of upstreams that could not be rewritten for a base URL, and were left out.",
                &["route"],
            )?,
            expiry: registrar.gauges(
                "token_expiry_timestamp_seconds",
                "When the latest token of a route's own grant expires or has expired; 0 if there is none.",
                &["route", "server"],
            )?,
        };
        let unread = registrar.counter(
            "unread_answers_total",
            "Answers that were abandoned: the agent did not read for the route's idle timeout.",
        )?;
        let refused_peers = registrar.counter(
            "refused_peers_total",
            "Connections to a Unix socket of listen.outbound from processes whose uid it does not list.",
        )?;
        let upstream = registrar.gauges("upstream_connections", "Connections to upstreams.", &["state"])?;
        let downstream = registrar.gauges("downstream_connections", "Connections that agents hold.", &["state"])?;
        Ok(Self {
            unrouted: Arc::new(families.route("none", None)),
            families,
            unread,
            refused_peers,
            upstream: UpstreamGauges {
                open: IntGauge::new("upstream_open", "Not registered: active and idle ones together.")?,
                idle: upstream.with_label_values(&["idle"]),
            },
            upstream_active: upstream.with_label_values(&["active"]),
            downstream: ["active", "idle"].map(|state| downstream.with_label_values(&[state])),
        })
    }

    /// Creates the series of one route, which are present until [`Registrar::remove_series`]
    /// removes them. `issuer` is the server whose token the route's requests carry, if that token
    /// is the workload's own.
    pub(super) fn route(&self, name: &str, issuer: Option<&str>) -> RouteMetrics {
        self.families.route(name, issuer)
    }

    /// The series of requests that took no route.
    pub(super) fn unrouted(&self) -> Arc<RouteMetrics> {
        Arc::clone(&self.unrouted)
    }

    /// Updates the gauges of connections. There are as many active connections of the agent as
    /// requests in flight.
    pub fn observe(&self, traffic: &Traffic) {
        // An idle connection that has ended counts as idle until the next sweep.
        self.upstream_active.set((self.upstream.open.get() - self.upstream.idle.get()).max(0));
        let active = traffic.requests().clamp(0, traffic.connections());
        self.downstream[0].set(active);
        self.downstream[1].set(traffic.connections() - active);
    }
}

#[cfg(test)]
impl UpstreamGauges {
    /// Gauges that are in no registry.
    pub(super) fn unregistered() -> prometheus::Result<Self> {
        Ok(Self { open: IntGauge::new("open", "Open.")?, idle: IntGauge::new("idle", "Idle.")? })
    }
}

impl Families {
    fn route(&self, name: &str, issuer: Option<&str>) -> RouteMetrics {
        let reason = |reason: &Reason| {
            let family = if reason.is_upstream_failure() { &self.upstream_failures } else { &self.refused };
            family.with_label_values(&[name, reason.as_str()])
        };
        RouteMetrics {
            name: name.into(),
            classes: CLASSES.map(|class| self.requests.with_label_values(&[name, class])),
            ended: EndedBy::ALL.map(|by| self.ended.with_label_values(&[name, by.as_str()])),
            reasons: Reason::ALL.iter().map(reason).collect(),
            duration: self.durations.with_label_values(&[name]),
            bearer: self.injected.with_label_values(&[name, "bearer"]),
            legacy_secret: self.injected.with_label_values(&[name, "legacy_secret"]),
            replayed: self.replays.with_label_values(&[name, "replayed"]),
            not_replayed: self.replays.with_label_values(&[name, "not_replayed"]),
            retried: self.retries.with_label_values(&[name, "retried"]),
            over_budget: self.retries.with_label_values(&[name, "over_budget"]),
            dropped_cookies: self.dropped_cookies.with_label_values(&[name]),
            expiry: issuer.map(|server| self.expiry.with_label_values(&[name, server])),
        }
    }
}

impl RouteMetrics {
    /// Counts an answer of the upstream, or of the proxy in its place, by its status.
    pub(super) fn count_answer(&self, status: StatusCode) {
        let class = match status.as_u16() {
            101 => 0,
            status => usize::from(status / 100).clamp(2, 5) - 1,
        };
        self.classes[class].inc();
    }

    /// Counts a refusal, or a failure of the upstream.
    pub(super) fn count_reason(&self, reason: Reason) {
        self.reasons[reason as usize].inc();
    }

    /// Counts the answer to a request that this proxy refused.
    pub(super) fn count_refused(&self) {
        self.classes[REFUSED].inc();
    }

    /// Counts a request that has ended.
    pub(super) fn count_end(&self, by: EndedBy) {
        self.ended[by as usize].inc();
    }
}

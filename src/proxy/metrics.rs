//! What the data plane counts. A route's series are looked up once, when its table is built.
use super::error::Reason;
use super::traffic::Traffic;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use std::sync::Arc;

/// The families.
#[derive(Clone)]
pub struct Metrics {
    families: Families,
    refused: Arc<[IntCounter]>,
    /// Answers that the agent did not take.
    pub(super) unread: IntCounter,
    /// Open connections to upstreams, idle ones included.
    pub(super) upstream_open: IntGauge,
    pub(super) upstream_idle: IntGauge,
    upstream_active: IntGauge,
    downstream: [IntGauge; 2],
    unrouted: Arc<RouteMetrics>,
}

/// The families with a series for each route.
#[derive(Clone)]
struct Families {
    requests: IntCounterVec,
    durations: HistogramVec,
    injected: IntCounterVec,
    replays: IntCounterVec,
    expiry: IntGaugeVec,
}

/// How a request ended, as `class` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A status of the upstream's, by its hundreds.
    Status(u16),
    /// An answer of ours.
    Refused,
    /// The agent left before there was one.
    Aborted,
}

/// The series of one route.
pub(super) struct RouteMetrics {
    classes: [IntCounter; 6],
    pub(super) duration: Histogram,
    pub(super) bearer: IntCounter,
    pub(super) legacy_secret: IntCounter,
    pub(super) replayed: IntCounter,
    pub(super) not_replayed: IntCounter,
    pub(super) expiry: Option<IntGauge>,
}

const CLASSES: [&str; 6] = ["2xx", "3xx", "4xx", "5xx", "refused", "aborted"];

impl Metrics {
    /// Registers the data plane's families.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counter = IntCounterVec::new(Opts::new(format!("idjag_proxy_{name}"), help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntGaugeVec> {
            let gauge = IntGaugeVec::new(Opts::new(format!("idjag_proxy_{name}"), help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let durations = HistogramVec::new(
            HistogramOpts::new("idjag_proxy_request_duration_seconds", "From a request's head to its response's head.")
                .buckets(vec![
                    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
                ]),
            &["route"],
        )?;
        registry.register(Box::new(durations.clone()))?;
        let requests = counter("requests_total", "Requests by route and how they ended.", &["route", "class"])?;
        let refused = counter("refused_total", "Requests that this proxy answered itself, by reason.", &["reason"])?;
        let unread = IntCounter::new(
            "idjag_proxy_unread_answers_total",
            "Answers that were given up: the agent took nothing of them for the route's idle timeout.",
        )?;
        registry.register(Box::new(unread.clone()))?;
        let injected = counter("injected_total", "Requests that left with a credential.", &["route", "kind"])?;
        let replays = counter("token_replays_total", "Upstream 401s by what followed.", &["route", "outcome"])?;
        let expiry = gauge(
            "token_expiry_timestamp_seconds",
            "When the latest token of a route's own grant ends, or has ended; 0 where there is none.",
            &["route", "server"],
        )?;
        let upstream = gauge("upstream_connections", "Connections to upstreams.", &["state"])?;
        let downstream = gauge("downstream_connections", "Connections that agents hold.", &["state"])?;
        let refused = Reason::ALL.iter().map(|reason| refused.with_label_values(&[reason.as_str()])).collect();
        let families = Families { requests, durations, injected, replays, expiry };
        Ok(Self {
            unrouted: Arc::new(families.route("none", None)),
            families,
            refused,
            unread,
            upstream_open: IntGauge::new("upstream_open", "Not registered: active and idle ones together.")?,
            upstream_active: upstream.with_label_values(&["active"]),
            upstream_idle: upstream.with_label_values(&["idle"]),
            downstream: ["active", "idle"].map(|state| downstream.with_label_values(&[state])),
        })
    }

    /// The series of one route, all present from now on; `issuer` is the server whose token of the workload's own it holds, if so.
    pub(super) fn route(&self, name: &str, issuer: Option<&str>) -> RouteMetrics {
        self.families.route(name, issuer)
    }

    /// The series of requests that took no route.
    pub(super) fn unrouted(&self) -> Arc<RouteMetrics> {
        Arc::clone(&self.unrouted)
    }

    /// Brings the gauges of connections up to date. An agent's connection counts as active where a request is in flight for it.
    pub fn observe(&self, traffic: &Traffic) {
        // One that has ended counts as idle until the next sweep.
        self.upstream_active.set((self.upstream_open.get() - self.upstream_idle.get()).max(0));
        let active = traffic.requests().clamp(0, traffic.connections());
        self.downstream[0].set(active);
        self.downstream[1].set(traffic.connections() - active);
    }

    pub(super) fn refused(&self, reason: Reason) {
        if let Some(at) = Reason::ALL.iter().position(|other| *other == reason) {
            self.refused[at].inc();
        }
    }
}

impl Metrics {
    /// Takes the series of a route away, which a reload has removed.
    pub fn forget(&self, route: &str) {
        let Families { requests, durations, injected, replays, expiry: _ } = &self.families;
        // An error means that there is none.
        for class in CLASSES {
            let _ = requests.remove_label_values(&[route, class]);
        }
        for kind in ["bearer", "legacy_secret"] {
            let _ = injected.remove_label_values(&[route, kind]);
        }
        for outcome in ["replayed", "not_replayed"] {
            let _ = replays.remove_label_values(&[route, outcome]);
        }
        let _ = durations.remove_label_values(&[route]);
    }

    /// Takes the expiry of a route's own token away, which a reload has removed or moved to another server.
    pub fn forget_expiry(&self, route: &str, issuer: &str) {
        let _ = self.families.expiry.remove_label_values(&[route, issuer]);
    }
}

impl Families {
    fn route(&self, name: &str, issuer: Option<&str>) -> RouteMetrics {
        RouteMetrics {
            classes: CLASSES.map(|class| self.requests.with_label_values(&[name, class])),
            duration: self.durations.with_label_values(&[name]),
            bearer: self.injected.with_label_values(&[name, "bearer"]),
            legacy_secret: self.injected.with_label_values(&[name, "legacy_secret"]),
            replayed: self.replays.with_label_values(&[name, "replayed"]),
            not_replayed: self.replays.with_label_values(&[name, "not_replayed"]),
            expiry: issuer.map(|server| self.expiry.with_label_values(&[name, server])),
        }
    }
}

impl RouteMetrics {
    pub(super) fn count(&self, class: Class) {
        let at = match class {
            Class::Status(status) => usize::from(status / 100).clamp(2, 5) - 2,
            Class::Refused => 4,
            Class::Aborted => 5,
        };
        self.classes[at].inc();
    }
}

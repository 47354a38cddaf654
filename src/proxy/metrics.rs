//! The metrics of the data plane. A route's series are looked up once, when the table of routes is built.
use super::error::Reason;
use super::traffic::Traffic;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use std::sync::Arc;

/// The metrics of all workers together.
#[derive(Clone)]
pub struct Metrics {
    families: Families,
    /// Indexed by [`Reason`].
    refused: Arc<[IntCounter]>,
    /// Answers that were abandoned because the agent did not read them.
    pub(super) unread: IntCounter,
    pub(super) upstream: UpstreamGauges,
    upstream_active: IntGauge,
    downstream: [IntGauge; 2],
    unrouted: Arc<RouteMetrics>,
}

/// Connections to upstreams.
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
    durations: HistogramVec,
    injected: IntCounterVec,
    replays: IntCounterVec,
    expiry: IntGaugeVec,
}

/// How a request ended: the label `class`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The upstream answered with this status, of which the label keeps the first digit.
    Status(u16),
    /// The proxy answered itself.
    Refused,
    /// The agent left before there was an answer.
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
    /// Registers the metrics of the data plane.
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
            upstream: UpstreamGauges {
                open: IntGauge::new("upstream_open", "Not registered: active and idle ones together.")?,
                idle: upstream.with_label_values(&["idle"]),
            },
            upstream_active: upstream.with_label_values(&["active"]),
            downstream: ["active", "idle"].map(|state| downstream.with_label_values(&[state])),
        })
    }

    /// The series of one route, which are all present from now on. `issuer` is the server whose token the route's requests carry, if
    /// that token is the workload's own.
    pub(super) fn route(&self, name: &str, issuer: Option<&str>) -> RouteMetrics {
        self.families.route(name, issuer)
    }

    /// The series of requests that took no route.
    pub(super) fn unrouted(&self) -> Arc<RouteMetrics> {
        Arc::clone(&self.unrouted)
    }

    /// Updates the gauges of connections. There are as many active connections of the agent as requests in flight.
    pub fn observe(&self, traffic: &Traffic) {
        // An idle connection that has ended counts as idle until the next sweep.
        self.upstream_active.set((self.upstream.open.get() - self.upstream.idle.get()).max(0));
        let active = traffic.requests().clamp(0, traffic.connections());
        self.downstream[0].set(active);
        self.downstream[1].set(traffic.connections() - active);
    }

    pub(super) fn refused(&self, reason: Reason) {
        self.refused[reason as usize].inc();
    }
}

impl Metrics {
    /// Removes the series of a route that a reload has removed.
    pub fn forget(&self, route: &str) {
        let Families { requests, durations, injected, replays, expiry: _ } = &self.families;
        // An error means that there is no such series.
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

    /// Removes the expiry of a route's token after a reload has removed the token or moved it to another server.
    pub fn forget_expiry(&self, route: &str, issuer: &str) {
        let _ = self.families.expiry.remove_label_values(&[route, issuer]);
    }
}

#[cfg(test)]
impl UpstreamGauges {
    /// Gauges that no registry has.
    pub(super) fn unregistered() -> prometheus::Result<Self> {
        Ok(Self { open: IntGauge::new("open", "Open.")?, idle: IntGauge::new("idle", "Idle.")? })
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

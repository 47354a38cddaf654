//! How one request ended: created before the first stage, consumed by the last; dropping it records `aborted`.
use super::error::Refusal;
use super::metrics::{Class, Metrics, RouteMetrics};
use super::outbound::Destination;
use http::{HeaderMap, Method, StatusCode};
use std::sync::Arc;
use std::time::Instant;

/// One metric update and one log line.
pub(super) struct Outcome<'m> {
    metrics: &'m Metrics,
    started: Instant,
    method: Method,
    route: Option<(Arc<str>, Arc<RouteMetrics>)>,
    /// What the log line shows of the request; only gathered where such lines are written.
    shown: Option<Shown>,
    finished: bool,
}

#[derive(Default)]
struct Shown {
    host: String,
    path: String,
    traceparent: Option<String>,
}

impl<'m> Outcome<'m> {
    /// Of a request that has just arrived.
    pub(super) fn new(metrics: &'m Metrics, method: &Method, headers: &HeaderMap) -> Self {
        let shown = tracing::enabled!(target: "idjag_proxy::request", tracing::Level::INFO).then(|| Shown {
            traceparent: headers.get("traceparent").and_then(|value| value.to_str().ok()).map(str::to_owned),
            ..Shown::default()
        });
        Self { metrics, started: Instant::now(), method: method.clone(), route: None, shown, finished: false }
    }

    /// Where it goes. The query is left out: agents put secrets there.
    pub(super) fn to(&mut self, destination: &Destination) {
        if let Some(shown) = &mut self.shown {
            shown.host.clone_from(&destination.host);
            destination.path.path().clone_into(&mut shown.path);
        }
    }

    /// Which route it took.
    pub(super) fn by(&mut self, name: &Arc<str>, metrics: &Arc<RouteMetrics>) {
        self.route = Some((Arc::clone(name), Arc::clone(metrics)));
    }

    /// The upstream answered.
    pub(super) fn answered(mut self, status: StatusCode) {
        self.finish(Class::Status(status.as_u16()), Some(status), None);
    }

    /// We answered ourselves.
    pub(super) fn refused(mut self, refusal: &Refusal) {
        self.metrics.refused(refusal.reason);
        self.finish(Class::Refused, Some(refusal.status()), Some(refusal));
    }

    fn finish(&mut self, class: Class, status: Option<StatusCode>, refusal: Option<&Refusal>) {
        self.finished = true;
        let elapsed = self.started.elapsed();
        let unrouted;
        let route = if let Some((_, route)) = &self.route {
            route
        } else {
            unrouted = self.metrics.unrouted();
            &unrouted
        };
        route.count(class);
        route.duration.observe(elapsed.as_secs_f64());
        let Some(shown) = &self.shown else { return };
        tracing::info!(
            target: "idjag_proxy::request",
            method = %self.method,
            host = %shown.host,
            path = %shown.path,
            route = self.route.as_ref().map_or("none", |(name, _)| &**name),
            status = status.map_or(0, |status| status.as_u16()),
            refused = refusal.map_or("", |refusal| refusal.reason.as_str()),
            detail = refusal.map_or("", Refusal::detail),
            traceparent = shown.traceparent.as_deref().unwrap_or_default(),
            // Not of 128 bits, which JSON shows as text.
            duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            "{}", if class == Class::Aborted { "aborted" } else { "request" }
        );
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.finish(Class::Aborted, None, None);
        }
    }
}

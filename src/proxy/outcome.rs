//! How one request ended. An outcome is created before the first stage and consumed by the last;
//! dropping it records `aborted`.
use super::error::Refusal;
use super::metrics::{Class, Metrics, RouteMetrics};
use http::{HeaderMap, Method, StatusCode};
use std::sync::Arc;
use std::time::Instant;

/// Counts and logs one request.
pub(super) struct Outcome<'m> {
    metrics: &'m Metrics,
    started: Instant,
    method: Method,
    route: Option<(Arc<str>, Arc<RouteMetrics>)>,
    /// What the log line shows of the request; gathered only if such lines are written.
    logged: Option<Logged>,
    finished: bool,
}

#[derive(Default)]
struct Logged {
    host: String,
    path: String,
    traceparent: Option<String>,
}

impl<'m> Outcome<'m> {
    /// The outcome of a request that has just arrived.
    pub(super) fn new(metrics: &'m Metrics, method: &Method, headers: &HeaderMap) -> Self {
        let logged = tracing::enabled!(target: "idjag_proxy::request", tracing::Level::INFO).then(|| Logged {
            traceparent: headers.get("traceparent").and_then(|value| value.to_str().ok()).map(str::to_owned),
            ..Logged::default()
        });
        Self { metrics, started: Instant::now(), method: method.clone(), route: None, logged, finished: false }
    }

    /// Records where the request goes. `path` has no query, because agents put secrets there.
    pub(super) fn set_destination(&mut self, host: &str, path: &str) {
        if let Some(logged) = &mut self.logged {
            host.clone_into(&mut logged.host);
            path.clone_into(&mut logged.path);
        }
    }

    /// Records which route the request takes.
    pub(super) fn set_route(&mut self, name: &Arc<str>, metrics: &Arc<RouteMetrics>) {
        self.route = Some((Arc::clone(name), Arc::clone(metrics)));
    }

    /// Finishes the outcome of a request that the upstream answered.
    pub(super) fn record_answer(mut self, status: StatusCode) {
        self.finish(Class::Status(status.as_u16()), Some(status), None);
    }

    /// Finishes the outcome of a request that the proxy answered itself.
    pub(super) fn record_refusal(mut self, refusal: &Refusal) {
        self.metrics.count_refusal(refusal.reason);
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
        let Some(logged) = &self.logged else { return };
        tracing::info!(
            target: "idjag_proxy::request",
            method = %self.method,
            host = %logged.host,
            path = %logged.path,
            route = self.route.as_ref().map_or("none", |(name, _)| &**name),
            status = status.map_or(0, |status| status.as_u16()),
            refused = refusal.map_or("", |refusal| refusal.reason.as_str()),
            detail = refusal.map_or("", Refusal::detail),
            traceparent = logged.traceparent.as_deref().unwrap_or_default(),
            // Not the 128 bits of `as_millis`, which the JSON format writes as text.
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

//! `/metrics` and the probes, on the port that the kubelet and Prometheus reach.
use super::response::{FullResponse, READ_ONLY, method_not_allowed, not_found, response, text};
use super::server::{ConnectionBudget, Server};
use crate::tasks::Stop;
use crate::telemetry::Registrar;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;

/// The result of a probe: what the process is waiting for. The probe succeeds if that is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// One line for each thing that is waited for.
    pub waiting_for: Vec<String>,
}

impl Probe {
    /// Whether the probe succeeds.
    pub fn is_ok(&self) -> bool {
        self.waiting_for.is_empty()
    }
}

/// A path of a probe, and the check that answers it.
#[derive(Clone)]
struct ProbePath {
    path: &'static str,
    check: Arc<dyn Fn() -> Probe + Send + Sync>,
}

/// The metrics and the probes that one port serves.
#[derive(Clone)]
pub struct MetricsEndpoint {
    registrar: Registrar,
    refresh: Arc<dyn Fn() + Send + Sync>,
    probes: Vec<ProbePath>,
}

impl MetricsEndpoint {
    /// Serves the metrics of `registrar`. Before each scrape `refresh` updates the gauges that
    /// nothing else updates.
    pub fn new(registrar: &Registrar, refresh: impl Fn() + Send + Sync + 'static) -> Self {
        Self { registrar: registrar.clone(), refresh: Arc::new(refresh), probes: Vec::new() }
    }

    /// Adds a probe.
    #[must_use]
    pub fn with_probe(mut self, path: &'static str, check: impl Fn() -> Probe + Send + Sync + 'static) -> Self {
        self.probes.push(ProbePath { path, check: Arc::new(check) });
        self
    }

    /// Serves until `stop` fires, with connections of `budget`. Must be called in a runtime.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub async fn serve(
        self,
        listener: std::net::TcpListener,
        budget: ConnectionBudget,
        stop: Stop,
    ) -> Result<(), String> {
        let listener = tokio::net::TcpListener::from_std(listener)
            .map_err(|error| format!("the metrics listener failed: {error}"))?;
        let handler = move |request: Request<Incoming>| {
            let answered = self.respond(request.method(), request.uri().path());
            async move { answered }
        };
        Server { handler, budget, stop }.serve(listener).await
    }

    fn respond(&self, method: &Method, path: &str) -> FullResponse {
        let probe = self.probes.iter().find(|probe| probe.path == path);
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        match probe {
            None if path != "/metrics" => not_found("port", &self.paths()),
            _ if !is_read => method_not_allowed(READ_ONLY),
            Some(probe) => probe_response(&(probe.check)()),
            None => self.metrics(),
        }
    }

    /// Lists all paths in words.
    fn paths(&self) -> String {
        let Some((last, others)) = self.probes.split_last() else { return "/metrics".to_owned() };
        let others: String = others.iter().map(|probe| format!(", {}", probe.path)).collect();
        format!("/metrics{others} and {}", last.path)
    }

    fn metrics(&self) -> FullResponse {
        (self.refresh)();
        match self.registrar.encode() {
            Ok(body) => response(StatusCode::OK, Registrar::CONTENT_TYPE, body),
            Err(error) => {
                text(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics could not be written: {error}\n"))
            }
        }
    }
}

fn probe_response(probe: &Probe) -> FullResponse {
    if probe.is_ok() {
        return text(StatusCode::OK, "ok\n");
    }
    let lines: String = probe.waiting_for.iter().map(|what| format!("waiting for {what}\n")).collect();
    text(StatusCode::SERVICE_UNAVAILABLE, lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::sync::atomic::{AtomicUsize, Ordering};

    async fn body(response: FullResponse) -> String {
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    fn endpoint() -> MetricsEndpoint {
        let waiting = || Probe { waiting_for: vec!["an identity".to_owned(), "a token".to_owned()] };
        MetricsEndpoint::new(&Registrar::default(), || {})
            .with_probe("/livez", Probe::default)
            .with_probe("/readyz", waiting)
    }

    #[tokio::test]
    async fn probe_answers_503_with_each_thing_it_waits_for() {
        let live = endpoint().respond(&Method::GET, "/livez");
        assert_eq!((live.status(), body(live).await.as_str()), (StatusCode::OK, "ok\n"));
        let ready = endpoint().respond(&Method::HEAD, "/readyz");
        assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body(ready).await, "waiting for an identity\nwaiting for a token\n");
    }

    #[tokio::test]
    async fn unknown_path_is_answered_with_the_known_ones() {
        let unknown = endpoint().respond(&Method::GET, "/startupz");
        assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
        assert_eq!(body(unknown).await, "not found; this port serves /metrics, /livez and /readyz\n");
        let bare = MetricsEndpoint::new(&Registrar::default(), || {}).respond(&Method::GET, "/");
        assert_eq!(body(bare).await, "not found; this port serves /metrics\n");
    }

    #[tokio::test]
    async fn only_get_and_head_are_allowed() {
        let refused = endpoint().respond(&Method::POST, "/metrics");
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(refused.headers()["allow"], "GET, HEAD");
        assert_eq!(body(refused).await, "method not allowed: use GET, HEAD\n");
    }

    #[test]
    fn gauges_are_refreshed_before_each_scrape() {
        let scrapes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&scrapes);
        let endpoint = MetricsEndpoint::new(&Registrar::default(), move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        for _ in 0..2 {
            assert_eq!(endpoint.respond(&Method::GET, "/metrics").status(), StatusCode::OK);
        }
        assert_eq!(scrapes.load(Ordering::Relaxed), 2);
    }
}

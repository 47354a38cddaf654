//! `/metrics` and the probes, on a port that the kubelet and Prometheus reach. Nothing else is there.
use super::health::{Health, Probe};
use crate::http_server::{self, Answer, text};
use crate::tasks::Stop;
use crate::telemetry::Registrar;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use prometheus::IntGauge;
use std::sync::Arc;

/// Everything that a scrape reads.
#[derive(Clone)]
pub struct Scrape {
    registrar: Registrar,
    health: Health,
    refresh: Arc<dyn Fn() + Send + Sync>,
    ready: IntGauge,
}

/// Serves until it is told to stop.
pub async fn serve_metrics(listener: std::net::TcpListener, scrape: Scrape, stop: Stop) -> Result<(), String> {
    let listener =
        tokio::net::TcpListener::from_std(listener).map_err(|error| format!("the metrics listener failed: {error}"))?;
    let handler = move |request: Request<Incoming>| {
        let answer = scrape.answer(&request);
        async move { answer }
    };
    http_server::serve(listener, handler, stop).await
}

impl Scrape {
    /// Serves the metrics of `registrar` and the probes of `health`. `refresh` brings those metrics up to date before each scrape
    /// that nothing else does.
    ///
    /// # Errors
    /// The name `ready` is already registered.
    pub fn new(
        registrar: &Registrar,
        health: Health,
        refresh: impl Fn() + Send + Sync + 'static,
    ) -> prometheus::Result<Self> {
        let ready = registrar.gauge("ready", "Whether the next request could succeed.")?;
        Ok(Self { registrar: registrar.clone(), health, refresh: Arc::new(refresh), ready })
    }

    fn answer(&self, request: &Request<Incoming>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/metrics" => self.metrics(),
            "/livez" => probe(&self.health.live()),
            "/startupz" => probe(&self.health.started()),
            "/readyz" => probe(&self.health.ready()),
            _ => text(StatusCode::NOT_FOUND, "here are /metrics, /livez, /readyz and /startupz\n"),
        }
    }

    fn metrics(&self) -> Answer {
        (self.refresh)();
        self.ready.set(i64::from(self.health.ready().is_ok()));
        match self.registrar.encode() {
            Ok(body) => http_server::answer(StatusCode::OK, Registrar::CONTENT_TYPE, body),
            Err(error) => {
                text(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics could not be written: {error}\n"))
            }
        }
    }
}

fn probe(probe: &Probe) -> Answer {
    if probe.is_ok() {
        return text(StatusCode::OK, "ok\n");
    }
    let lines: Vec<String> = probe.waiting_for.iter().map(|what| format!("waiting for {what}\n")).collect();
    text(StatusCode::SERVICE_UNAVAILABLE, lines.concat())
}

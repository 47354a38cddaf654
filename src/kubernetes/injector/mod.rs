//! `idjag-proxy injector`: a mutating webhook that adds the sidecar to pods as they are created,
//! and warns about workloads whose pods it would refuse. It makes its own certificate and writes
//! the CA into its own webhook configuration.
//!
//! | where | who connects | what is there |
//! |---|---|---|
//! | `[::]:8443` | the API server | `POST /mutate`, HTTPS |
//! | `[::]:17090` | kubelet, Prometheus | `/metrics`, `/livez`, `/readyz` |
//!
//! These are all the calls that it makes to the API server: `get` any `ConfigMap`, `create` events,
//! and `get` and `update` its own Secret, Lease and `MutatingWebhookConfiguration`. It creates none
//! of the three.
mod api;
mod certificate;
mod events;
mod health;
mod key_search;
mod lease;
mod memory_bound;
mod metrics;
mod quota;
mod review;
mod rollout;
mod rotation;
mod server;
mod timestamps;

pub use api::Api;

use super::inject::{Defaults, is_object_name};
use crate::clock::Clock;
use crate::http_server::{ConnectionBudget, MetricsEndpoint};
use crate::listen::{self, Port};
use crate::tasks::{Stop, Tasks};
use crate::telemetry::{Logs, ProcessMetrics, Registrar};
use certificate::ServedCertificate;
use events::{EventWriter, Events};
use health::Health;
use metrics::Metrics;
use prometheus::IntGauge;
use review::ReviewPolicy;
use rollout::Delays;
use rotation::{ObjectNames, Rotator, RotatorState, Timing};
use server::Webhook;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

/// The settings of an injector, as the command line gives them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The settings of a pod without annotations.
    pub defaults: Defaults,
    /// The namespace that the injector runs in.
    pub namespace: String,
    /// The Service under whose name the API server calls.
    pub service: String,
    /// The name of the `MutatingWebhookConfiguration`.
    pub webhook_configuration: String,
    /// The Secret that stores the certificate.
    pub secret: String,
    /// The Lease that names the replica which renews the certificate.
    pub lease: String,
    /// The webhook's address.
    pub listen: SocketAddr,
    /// The address of metrics and probes.
    pub metrics: SocketAddr,
    /// This replica's name, which no other has.
    pub identity: String,
    /// How long a certificate is valid. It is replaced after two thirds of this time.
    pub certificate_lifetime: Duration,
    /// How long a new CA is trusted before its certificate is served, so that every API server has
    /// seen it. Only tests set less than a second.
    pub settle: Duration,
}

/// An injector whose ports are bound.
pub struct Bound {
    webhook_address: SocketAddr,
    metrics_address: SocketAddr,
    webhook: TcpListener,
    metrics: TcpListener,
    server: Arc<Webhook>,
    tls: TlsAcceptor,
    rotator: Rotator,
    event_writer: EventWriter,
    endpoint: MetricsEndpoint,
    health: Health,
}

/// How long the webhook and the rotation may take to finish.
const GRACE_PERIOD: Duration = Duration::from_secs(20);
/// How long a CA stays trusted after its last use.
const RETIRE: Duration = Duration::from_secs(3600);

impl Settings {
    /// # Errors
    /// A name is not valid for an object, or the lifetime is too short.
    fn check(&self) -> Result<(), String> {
        for (flag, name) in [
            ("--namespace", &self.namespace),
            ("--service", &self.service),
            ("--webhook-configuration", &self.webhook_configuration),
            ("--secret", &self.secret),
            ("--lease", &self.lease),
        ] {
            if !is_object_name(name) {
                return Err(format!("{flag}: `{name}` is not a valid object name"));
            }
        }
        if self.certificate_lifetime < Duration::from_secs(60) {
            return Err("--certificate-lifetime: it must be at least a minute".to_owned());
        }
        Ok(())
    }

    fn timing(&self) -> Timing {
        Timing {
            lifetime: self.certificate_lifetime,
            delays: Delays { settle: self.settle, retire: RETIRE },
            poll: Duration::from_secs(5),
            retry: Duration::from_millis(500),
        }
    }
}

/// Builds the parts and binds the ports. Must be called in a runtime.
///
/// # Errors
/// A setting is invalid or its port cannot be bound, and the error names the flag; or the metrics
/// or TLS cannot be set up.
pub fn bind(settings: Settings, api: Api, clock: &Clock, logs: Option<&Logs>) -> Result<Bound, String> {
    settings.check()?;
    let bound = |flag: &str, address: SocketAddr| {
        listen::bind(address, Port::Exclusive).map_err(|error| format!("{flag}: {address} cannot be bound: {error}"))
    };
    let webhook = bound("--listen", settings.listen)?;
    let metrics_listener = bound("--metrics", settings.metrics)?;
    let registrar = Registrar::default();
    let health = Health::new();
    let metrics = Metrics::new(&registrar).map_err(|error| error.to_string())?;
    let endpoint =
        endpoint(&registrar, metrics.ready.clone(), &health, clock, logs).map_err(|error| error.to_string())?;
    let (events, event_writer) = Events::new(api.clone(), clock.clone(), settings.identity.clone());
    let served = Arc::new(ServedCertificate::default());
    let tls = certificate::server_config(Arc::clone(&served)).map_err(|error| error.to_string())?;
    let timing = settings.timing();
    let names = ObjectNames {
        namespace: settings.namespace.clone(),
        service: settings.service,
        webhook_configuration: settings.webhook_configuration,
        secret: settings.secret,
        lease: settings.lease,
        identity: settings.identity,
    };
    let rotator = Rotator {
        api: api.clone(),
        names,
        timing,
        clock: clock.clone(),
        served,
        health: health.clone(),
        metrics: metrics.clone(),
        events: events.clone(),
        state: RotatorState::new(),
    };
    let policy = ReviewPolicy { defaults: settings.defaults, namespace: settings.namespace };
    Ok(Bound {
        webhook_address: webhook.address,
        metrics_address: metrics_listener.address,
        webhook: webhook.socket,
        metrics: metrics_listener.socket,
        server: Arc::new(Webhook::new(policy, api, metrics, events)),
        tls: TlsAcceptor::from(Arc::new(tls)),
        rotator,
        event_writer,
        endpoint,
        health,
    })
}

impl Bound {
    /// The webhook's address.
    pub fn webhook(&self) -> SocketAddr {
        self.webhook_address
    }

    /// The address of metrics and probes.
    pub fn metrics(&self) -> SocketAddr {
        self.metrics_address
    }

    /// Runs until `stop` fires and the work in progress is finished, or until a part fails.
    ///
    /// # Errors
    /// The error names the part that failed, and says why.
    pub async fn run(self, mut stop: Stop) -> Result<(), String> {
        let Self {
            webhook_address,
            metrics_address,
            webhook,
            metrics,
            server,
            tls,
            rotator,
            event_writer,
            endpoint,
            health,
        } = self;
        tracing::info!(
            webhook = %webhook_address,
            metrics = %metrics_address,
            identity = %rotator.names.identity,
            name = %rotator.names.dns(),
            image = %server.policy.defaults.image,
            version = env!("CARGO_PKG_VERSION"),
            "listening"
        );
        let webhook = tokio::net::TcpListener::from_std(webhook)
            .map_err(|error| format!("the webhook's listener failed: {error}"))?;
        // Probes are answered, and events written, until the webhook and the rotation have ended.
        let (stopper, last) = Stop::pair();
        let mut tasks = Tasks::default();
        tasks.spawn("metrics", endpoint.serve(metrics, ConnectionBudget::default(), last.clone()));
        tasks.spawn("events", event_writer.run(last));
        let mut serving = Tasks::default();
        serving.spawn("webhook", server::serve(webhook, tls, server, stop.clone()));
        serving.spawn("certificate", rotator.run(stop.clone()));
        // The order matters: the same signal ends the parts, and they may have ended by the time
        // that this is polled.
        let ended = tokio::select! {
            biased;
            () = stop.stopped() => Ok(()),
            ended = tasks.next_end() => Err(ended),
            ended = serving.next_end() => Err(ended),
        };
        health.drain();
        serving.shutdown(GRACE_PERIOD).await;
        stopper.stop();
        tasks.shutdown(Duration::from_secs(1)).await;
        ended.map_err(|ended| {
            let why = ended.result.err().unwrap_or_else(|| "it ended".to_owned());
            format!("the task `{}` stopped unexpectedly: {why}", ended.name)
        })
    }
}

fn endpoint(
    registrar: &Registrar,
    ready: IntGauge,
    health: &Health,
    clock: &Clock,
    logs: Option<&Logs>,
) -> prometheus::Result<MetricsEndpoint> {
    let process = ProcessMetrics::new(registrar, clock.now().unix_seconds(), logs)?;
    let probed = health.clone();
    let refresh = move || {
        process.observe();
        ready.set(i64::from(probed.readiness().is_ok()));
    };
    let (live, ready) = (health.clone(), health.clone());
    Ok(MetricsEndpoint::new(registrar, refresh)
        .with_probe("/livez", move || live.liveness())
        .with_probe("/readyz", move || ready.readiness()))
}

//! `idjag-proxy injector`: a mutating webhook that puts the sidecar into pods as they are created, and warns of workloads whose pods it
//! would refuse. It makes its own certificate and puts it into its own webhook configuration.
//!
//! | where | who connects | what is there |
//! |---|---|---|
//! | `[::]:8443` | the API server | `POST /mutate`, HTTPS |
//! | `[::]:17090` | kubelet, Prometheus | `/metrics`, `/livez`, `/readyz` |
//!
//! What it asks of the API server, and nothing more: `get` any `ConfigMap`, `create` events; of its own objects, `get` and `update`
//! one Secret, one Lease and one `MutatingWebhookConfiguration`, none of which it creates.
mod api;
mod certificate;
mod entry;
mod events;
mod health;
mod keeper;
mod lease;
mod metrics;
mod publish;
mod review;
mod room;
mod server;
mod weight;

pub use api::Api;

use super::inject::{Defaults, is_object_name};
use crate::clock::Clock;
use crate::http_server::MetricsEndpoint;
use crate::listen::{self, Port};
use crate::tasks::{Stop, Tasks};
use crate::telemetry::{Logs, ProcessMetrics, Registrar};
use certificate::Served;
use events::{Events, Writer};
use health::Health;
use keeper::{Held, Keeper, Names, Pace};
use metrics::Metrics;
use publish::Timing;
use review::Policy;
use room::Room;
use server::Webhook;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What a pod gets that says nothing.
    pub defaults: Defaults,
    /// Where the injector runs.
    pub namespace: String,
    /// The Service under whose name the API server calls.
    pub service: String,
    /// The `MutatingWebhookConfiguration`.
    pub webhook_configuration: String,
    /// The Secret of the certificate.
    pub secret: String,
    /// The Lease of the replica that renews it.
    pub lease: String,
    /// The webhook.
    pub listen: SocketAddr,
    /// Metrics and probes.
    pub metrics: SocketAddr,
    /// This replica's name; no two have the same.
    pub identity: String,
    /// How long a certificate is valid; another follows after two thirds of it.
    pub certificate_lifetime: Duration,
    /// From a CA's being trusted to its being served; below a second only in tests.
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
    keeper: Keeper,
    writer: Writer,
    endpoint: MetricsEndpoint,
    health: Health,
}

/// What background work gets to end in good order.
const GRACE: Duration = Duration::from_secs(20);
/// A CA stays trusted for this long after its last use.
const RETIRE: Duration = Duration::from_secs(3600);

impl Settings {
    /// # Errors
    /// A name that no object can have.
    fn check(&self) -> Result<(), String> {
        for (flag, name) in [
            ("--namespace", &self.namespace),
            ("--service", &self.service),
            ("--webhook-configuration", &self.webhook_configuration),
            ("--secret", &self.secret),
            ("--lease", &self.lease),
        ] {
            if !is_object_name(name) {
                return Err(format!("{flag}: `{name}` is no name of an object"));
            }
        }
        if self.certificate_lifetime < Duration::from_secs(60) {
            return Err("--certificate-lifetime: a minute is the least".to_owned());
        }
        Ok(())
    }

    fn pace(&self) -> Pace {
        let timing = Timing { settle: self.settle, retire: RETIRE };
        Pace {
            lifetime: self.certificate_lifetime,
            timing,
            poll: Duration::from_secs(5),
            hurry: Duration::from_millis(500),
        }
    }
}

/// Builds the parts and binds the ports. Must be called in a runtime.
///
/// # Errors
/// What cannot work, with the flag that says it.
pub fn bind(settings: Settings, api: Api, clock: &Clock, logs: Option<&Logs>) -> Result<Bound, String> {
    settings.check()?;
    let bound = |flag: &str, address: SocketAddr| {
        listen::bind(address, Port::Exclusive).map_err(|error| format!("{flag}: {address} cannot be bound: {error}"))
    };
    let webhook = bound("--listen", settings.listen)?;
    let metrics_listener = bound("--metrics", settings.metrics)?;
    let registrar = Registrar::default();
    let health = Health::new();
    let (metrics, endpoint) = endpoint(&registrar, &health, clock, logs).map_err(|error| error.to_string())?;
    let (events, writer) = Events::new(api.clone(), clock.clone(), settings.identity.clone());
    let served = Arc::new(Served::default());
    let tls = certificate::server_config(Arc::clone(&served)).map_err(|error| error.to_string())?;
    let pace = settings.pace();
    let names = Names {
        namespace: settings.namespace.clone(),
        service: settings.service,
        webhook_configuration: settings.webhook_configuration,
        secret: settings.secret,
        lease: settings.lease,
        identity: settings.identity,
    };
    let keeper = Keeper {
        api: api.clone(),
        names,
        pace,
        clock: clock.clone(),
        served,
        health: health.clone(),
        metrics: metrics.clone(),
        events: events.clone(),
        state: Held::new(),
    };
    let policy = Policy { defaults: settings.defaults, namespace: settings.namespace };
    let room = Room::new(server::ALL, server::EACH);
    let (checks, lookups) = (Arc::new(Semaphore::new(server::CHECKS)), Semaphore::new(server::LOOKUPS));
    let server = Webhook { policy, api, metrics, events, room, checks, lookups };
    Ok(Bound {
        webhook_address: webhook.address,
        metrics_address: metrics_listener.address,
        webhook: webhook.socket,
        metrics: metrics_listener.socket,
        server: Arc::new(server),
        tls: TlsAcceptor::from(Arc::new(tls)),
        keeper,
        writer,
        endpoint,
        health,
    })
}

impl Bound {
    /// Where the webhook is.
    pub fn webhook(&self) -> SocketAddr {
        self.webhook_address
    }

    /// Where metrics and probes are.
    pub fn metrics(&self) -> SocketAddr {
        self.metrics_address
    }

    /// Runs until `stop` fires and what was begun is finished, or until a part fails.
    ///
    /// # Errors
    /// The part that failed, and why.
    pub async fn run(self, mut stop: Stop) -> Result<(), String> {
        let Self { webhook_address, metrics_address, webhook, metrics, server, tls, keeper, writer, endpoint, health } =
            self;
        tracing::info!(
            webhook = %webhook_address,
            metrics = %metrics_address,
            identity = %keeper.names.identity,
            name = %keeper.names.dns(),
            image = %server.policy.defaults.image,
            version = env!("CARGO_PKG_VERSION"),
            "listening"
        );
        let webhook = tokio::net::TcpListener::from_std(webhook)
            .map_err(|error| format!("the webhook's listener failed: {error}"))?;
        // Probes go on being answered until the rest has ended.
        let (stopper, last) = Stop::pair();
        let mut tasks = Tasks::default();
        tasks.spawn("metrics", endpoint.serve(metrics, last.clone()));
        tasks.spawn("events", writer.run(last));
        let mut serving = Tasks::default();
        serving.spawn("webhook", server::serve(webhook, tls, server, stop.clone()));
        serving.spawn("certificate", keeper.run(stop.clone()));
        // In this order: the same signal ends parts, which may have come to their end by the time that this is looked at.
        let ended = tokio::select! {
            biased;
            () = stop.stopped() => Ok(()),
            ended = tasks.next_end() => Err(ended),
            ended = serving.next_end() => Err(ended),
        };
        health.drain();
        serving.shutdown(GRACE).await;
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
    health: &Health,
    clock: &Clock,
    logs: Option<&Logs>,
) -> prometheus::Result<(Metrics, MetricsEndpoint)> {
    let process = ProcessMetrics::new(registrar, clock.now().unix_seconds(), logs)?;
    let metrics = Metrics::new(registrar)?;
    let (ready, probed) = (metrics.ready.clone(), health.clone());
    let refresh = move || {
        process.observe();
        ready.set(i64::from(probed.ready().is_ok()));
    };
    let (live, ready) = (health.clone(), health.clone());
    let endpoint = MetricsEndpoint::new(registrar, refresh)
        .with_probe("/livez", move || live.live())
        .with_probe("/readyz", move || ready.ready());
    Ok((metrics, endpoint))
}

//! The loop that rotates the certificate. Every replica observes the cluster and serves the current
//! certificate; the replica that holds the lease also makes the next step.
use super::api::{Api, ApiError};
use super::certificate::{Ca, Generation, ServedCertificate, Validity, bundle, bundle_pem};
use super::events::{Event, EventSource, Events};
use super::health::Health;
use super::lease::{self, LeaseAction, LeaseView};
use super::metrics::Metrics;
use super::rollout::{ClusterState, Delays, GenerationState, History, Step, next_step, should_serve_current};
use crate::clock::Clock;
use crate::tasks::Stop;
use crate::telemetry::gauge_value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// The names of the injector's own objects.
#[derive(Clone, Debug)]
pub(super) struct ObjectNames {
    pub(super) namespace: String,
    /// The Service under whose name the API server calls.
    pub(super) service: String,
    pub(super) webhook_configuration: String,
    pub(super) secret: String,
    pub(super) lease: String,
    /// The name of this replica.
    pub(super) identity: String,
}

impl ObjectNames {
    /// Returns the DNS name that the certificate is for.
    pub(super) fn dns(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    fn secret_path(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets/{}", self.namespace, self.secret)
    }

    fn lease_path(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/{}", self.namespace, self.lease)
    }

    fn webhook_path(&self) -> String {
        format!("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{}", self.webhook_configuration)
    }
}

/// The durations of a rotation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// The lifetime of a certificate.
    pub(super) lifetime: Duration,
    pub(super) delays: Delays,
    /// The time between two rounds while the injector is ready.
    pub(super) poll: Duration,
    /// The time between two rounds until then; doubled with each round that fails.
    pub(super) retry: Duration,
}

pub(super) struct Rotator {
    pub(super) api: Api,
    pub(super) names: ObjectNames,
    pub(super) timing: Timing,
    pub(super) clock: Clock,
    pub(super) served: Arc<ServedCertificate>,
    pub(super) health: Health,
    pub(super) metrics: Metrics,
    pub(super) events: Events,
    pub(super) state: RotatorState,
}

/// The certificate that this replica serves, and what it remembers.
pub(super) struct RotatorState {
    serving: Option<Generation>,
    history: History,
    lease: LeaseView,
    lease_problem: LastProblem,
    step_problem: LastProblem,
    /// The number of rounds in a row that failed.
    failures: u32,
    started: Instant,
}

/// The problem that was reported last, so that it is not reported again.
#[derive(Default)]
struct LastProblem(Option<String>);

impl LastProblem {
    fn is_new(&mut self, text: &str) -> bool {
        self.0.replace(text.to_owned()).as_deref() != Some(text)
    }

    fn clear(&mut self) {
        self.0 = None;
    }
}

impl RotatorState {
    pub(super) fn new() -> Self {
        Self {
            serving: None,
            history: History::default(),
            lease: LeaseView::default(),
            lease_problem: LastProblem::default(),
            step_problem: LastProblem::default(),
            failures: 0,
            started: Instant::now(),
        }
    }
}

/// The injector's objects as they were read in one round.
struct Observation {
    webhooks: Value,
    secret: Value,
    current: Option<Generation>,
    next: Option<Generation>,
    cluster: ClusterState,
}

/// Whether the injector is ready at the end of a round.
#[derive(Clone, Copy, PartialEq)]
enum Readiness {
    Ready,
    NotReady,
}

/// A round could not be finished. The reason has been reported.
struct RoundFailed;

/// The largest number of steps in one round: more than any state needs to come to rest.
const MAX_STEPS: usize = 8;

impl Rotator {
    /// Runs until `stop` fires, then releases the lease.
    pub(super) async fn run(mut self, mut stop: Stop) -> Result<(), String> {
        loop {
            let Timing { poll, retry, .. } = self.timing;
            let pause = match self.round().await {
                Ok(Readiness::Ready) => poll,
                Ok(Readiness::NotReady) => retry,
                Err(RoundFailed) => (retry * 2_u32.pow(self.state.failures.min(8))).min(poll),
            };
            // Replicas that start together should not call the API server together forever.
            let pause = pause.mul_f64(0.9 + 0.2 * fastrand::f64());
            tokio::select! {
                () = stop.stopped() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.release_lease().await;
        Ok(())
    }

    async fn round(&mut self) -> Result<Readiness, RoundFailed> {
        let leads = self.acquire_lease().await;
        self.metrics.leader.set(i64::from(leads));
        let ended = if leads { self.lead().await } else { self.follow().await };
        self.state.failures = if ended.is_ok() { 0 } else { self.state.failures.saturating_add(1) };
        ended
    }

    async fn follow(&mut self) -> Result<Readiness, RoundFailed> {
        let observation = self.observe().await?;
        Ok(self.update_served(&observation))
    }

    /// Observes the cluster and makes steps until there is none left to make now.
    async fn lead(&mut self) -> Result<Readiness, RoundFailed> {
        for _ in 0..MAX_STEPS {
            let observation = self.observe().await?;
            let readiness = self.update_served(&observation);
            let step = next_step(&observation.cluster, &self.state.history, self.now(), self.timing.delays);
            if step == Step::Wait {
                return Ok(readiness);
            }
            match self.perform(&step, observation).await {
                Ok(()) => self.state.step_problem.clear(),
                // Another client wrote the object in the meantime: observe it again.
                Err(ApiError::Conflict) => {}
                Err(error) => {
                    self.report_failed_step(&step, &error);
                    return Err(RoundFailed);
                }
            }
        }
        Ok(Readiness::NotReady)
    }

    /// Returns the time since this replica started, by a monotonic clock.
    fn now(&self) -> Duration {
        self.state.started.elapsed()
    }

    /// Acquires or renews the lease, and returns whether this replica holds it.
    async fn acquire_lease(&mut self) -> bool {
        let now = self.now();
        if self.state.lease.is_fresh(now) {
            return true;
        }
        let path = self.names.lease_path();
        let read = self.api.get(&path).await;
        let written = match read {
            Ok(lease) => match self.state.lease.claim(&lease, &self.names.identity, now) {
                LeaseAction::Hold => return true,
                LeaseAction::Wait => {
                    self.state.lease.record_loss();
                    return false;
                }
                LeaseAction::Write => {
                    let acquired = lease::acquired(&lease, &self.names.identity, self.clock.now());
                    self.api.put(&path, &acquired).await.map(|_| ())
                }
            },
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => {
                if !self.state.lease.holds(now) {
                    tracing::info!(lease = %self.names.lease, "this replica now renews the certificate");
                }
                self.state.lease.renewed_at(now);
                self.state.lease_problem.clear();
                true
            }
            Err(ApiError::Conflict) => false,
            Err(error) => {
                let error = error.to_string();
                if self.state.lease_problem.is_new(&error) {
                    tracing::warn!(lease = %self.names.lease, %error, "the lease could not be acquired");
                }
                self.state.lease.holds(self.now())
            }
        }
    }

    async fn release_lease(&mut self) {
        if !self.state.lease.holds(self.now()) {
            return;
        }
        let path = self.names.lease_path();
        let Ok(lease) = self.api.get(&path).await else { return };
        let is_ours = lease.pointer("/spec/holderIdentity").and_then(Value::as_str) == Some(&self.names.identity);
        if is_ours && let Err(error) = self.api.put(&path, &lease::released(&lease)).await {
            tracing::debug!(%error, "the lease was not released and will expire");
        }
    }

    /// Reads the injector's objects. A failure is reported to `health`.
    async fn observe(&mut self) -> Result<Observation, RoundFailed> {
        let observation = self.read_objects().await.map_err(|why| {
            self.health.record_failure(&why);
            RoundFailed
        })?;
        let now = self.now();
        self.state.history.observe(&observation.cluster, now);
        Ok(observation)
    }

    /// Reads the bundles before the Secret; see [`super::rollout`] for why.
    async fn read_objects(&self) -> Result<Observation, String> {
        let about = |kind: &str, name: &str, error: &ApiError| format!("{kind} {name}: {error}");
        let names = &self.names;
        let webhooks = self.api.get(&names.webhook_path()).await;
        let webhooks =
            webhooks.map_err(|error| about("MutatingWebhookConfiguration", &names.webhook_configuration, &error))?;
        let secret = self.api.get(&names.secret_path()).await;
        let secret = secret.map_err(|error| about("Secret", &names.secret, &error))?;
        let (current, next) = (self.generation(&secret, ""), self.generation(&secret, NEXT));
        let state = |generation: &Generation| GenerationState {
            ca: generation.ca.clone(),
            validity: self.validity(generation),
        };
        let cluster = ClusterState {
            bundles: bundles(&webhooks),
            current: current.as_ref().map(state),
            next: next.as_ref().map(state),
        };
        Ok(Observation { webhooks, secret, current, next, cluster })
    }

    fn validity(&self, generation: &Generation) -> Validity {
        generation.validity(&self.names.dns(), self.clock.now())
    }

    /// Reads a generation from the Secret. One that is absent or unusable is `None`, and is
    /// replaced.
    fn generation(&self, secret: &Value, prefix: &str) -> Option<Generation> {
        let text = |name: &str| -> Option<Zeroizing<String>> {
            let text = secret.get("data")?.get(format!("{prefix}{name}"))?.as_str()?;
            String::from_utf8(STANDARD.decode(text).ok()?).ok().map(Zeroizing::new)
        };
        let (ca, certificate, key) = (text(CA)?, text(CERTIFICATE)?, text(KEY)?);
        match Generation::read(&ca, &certificate, key) {
            Ok(generation) => Some(generation),
            Err(error) => {
                tracing::warn!(secret = %self.names.secret, %error, "the certificate in the Secret is unusable");
                None
            }
        }
    }

    /// Serves the certificate that should be served, and reports to `health` whether the API server
    /// trusts it.
    fn update_served(&mut self, observation: &Observation) -> Readiness {
        let serving = self.state.serving.as_ref().map(|generation| &generation.ca);
        let should_serve = should_serve_current(serving, &observation.cluster);
        if let Some(current) = observation.current.as_ref().filter(|_| should_serve) {
            self.served.set(current);
            let ends = gauge_value(current.ends.unix_seconds());
            self.metrics.expiry.set(ends);
            tracing::info!(expires_at = ends, "serving a certificate");
            self.state.serving = Some(current.clone());
        }
        let missing = self.missing(&observation.cluster);
        let readiness = if missing.is_none() { Readiness::Ready } else { Readiness::NotReady };
        self.health.record_observation(missing);
        readiness
    }

    /// Says what is missing before the API server can call this replica.
    fn missing(&self, cluster: &ClusterState) -> Option<String> {
        let ObjectNames { webhook_configuration, secret, .. } = &self.names;
        let Some(serving) = &self.state.serving else {
            return Some(format!("a certificate in Secret {secret}"));
        };
        if self.validity(serving) == Validity::Invalid {
            return Some("a certificate that has not expired".to_owned());
        }
        let trusted = cluster.trusts(&serving.ca);
        (!trusted).then(|| format!("MutatingWebhookConfiguration {webhook_configuration} to trust the certificate"))
    }

    async fn perform(&mut self, step: &Step, observation: Observation) -> Result<(), ApiError> {
        match step {
            Step::Make => {
                let made = Generation::make(&self.names.dns(), self.clock.now(), self.timing.lifetime);
                let made = made.map_err(ApiError::Failed)?;
                let mut secret = observation.secret;
                store(&mut secret, NEXT, Some(&made));
                self.api.put(&self.names.secret_path(), &secret).await?;
                tracing::info!("made a certificate, which is served once the API server trusts it");
            }
            Step::Publish(cas) => {
                let mut webhooks = observation.webhooks;
                set_bundles(&mut webhooks, cas);
                self.api.put(&self.names.webhook_path(), &webhooks).await?;
                tracing::info!(cas = cas.len(), "wrote the bundle of the webhook configuration");
            }
            Step::Promote => {
                let mut secret = observation.secret;
                store(&mut secret, "", observation.next.as_ref());
                store(&mut secret, NEXT, None);
                self.api.put(&self.names.secret_path(), &secret).await?;
                self.metrics.rotations.with_label_values(&["rotated"]).inc();
                self.send_event("Normal", "CertificateRotated", "the injector uses a new certificate".to_owned());
            }
            Step::Wait => {}
        }
        Ok(())
    }

    fn report_failed_step(&mut self, step: &Step, error: &ApiError) {
        let what = match step {
            Step::Make => "could not make a certificate",
            Step::Publish(_) => "could not write the bundle into the webhook configuration",
            Step::Promote => "could not bring the new certificate into use",
            Step::Wait => return,
        };
        self.metrics.rotations.with_label_values(&["failed"]).inc();
        let message = format!("{what}: {error}");
        if self.state.step_problem.is_new(&message) {
            tracing::error!("{message}");
            self.send_event("Warning", "CertificateRotationFailed", message);
        }
    }

    fn send_event(&self, severity: &'static str, reason: &'static str, message: String) {
        let ObjectNames { namespace, secret, .. } = &self.names;
        let involved = json!({"apiVersion": "v1", "kind": "Secret", "namespace": namespace, "name": secret});
        let namespace = namespace.clone();
        self.events.send(Event { source: EventSource::Injector, namespace, involved, severity, reason, message });
    }
}

/// The prefix of the keys of the next generation in the Secret.
const NEXT: &str = "next-";
const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Stores a generation in the Secret under the keys with this prefix, or removes one. Other keys
/// stay.
fn store(secret: &mut Value, prefix: &str, generation: Option<&Generation>) {
    let Some(object) = secret.as_object_mut() else { return };
    let data = object.entry("data").or_insert_with(|| json!({}));
    if !data.is_object() {
        *data = Value::Object(Map::new());
    }
    let Some(data) = data.as_object_mut() else { return };
    match generation {
        Some(generation) => {
            for (name, text) in
                [(CA, &generation.ca_pem), (CERTIFICATE, &generation.certificate_pem), (KEY, &*generation.key_pem)]
            {
                data.insert(format!("{prefix}{name}"), STANDARD.encode(text).into());
            }
        }
        None => [CA, CERTIFICATE, KEY].iter().for_each(|name| {
            data.remove(&format!("{prefix}{name}"));
        }),
    }
}

/// Returns the CAs that each entry of the webhook configuration trusts.
fn bundles(webhooks: &Value) -> Vec<Vec<Ca>> {
    let entries = webhooks.get("webhooks").and_then(Value::as_array).into_iter().flatten();
    let bundle_of = |entry: &Value| {
        let text = entry.pointer("/clientConfig/caBundle").and_then(Value::as_str).unwrap_or_default();
        bundle(&STANDARD.decode(text).unwrap_or_default())
    };
    entries.map(bundle_of).collect()
}

/// Writes a bundle of `cas` into each entry of the webhook configuration.
fn set_bundles(webhooks: &mut Value, cas: &[Ca]) {
    let text = STANDARD.encode(bundle_pem(cas));
    let entries = webhooks.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten();
    for client in entries.filter_map(|entry| entry.get_mut("clientConfig")?.as_object_mut()) {
        client.insert("caBundle".to_owned(), text.clone().into());
    }
}

//! The loop that keeps the certificate: looks at the cluster, takes up what is to be served, and, in the replica that holds the lease,
//! does the next step.
use super::api::{Api, ApiError};
use super::certificate::{Ca, Fitness, Generation, Served, bundle, bundle_pem};
use super::events::{Cause, Event, Events};
use super::health::Health;
use super::lease::{self, Claim};
use super::metrics::Metrics;
use super::publish::{Memory, Observed, Seen, Step, Timing, step, takes_up};
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

/// The injector's own objects.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) namespace: String,
    /// Under whose name the API server calls.
    pub(super) service: String,
    pub(super) webhook_configuration: String,
    pub(super) secret: String,
    pub(super) lease: String,
    /// This replica.
    pub(super) identity: String,
}

impl Names {
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

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Of a certificate.
    pub(super) lifetime: Duration,
    pub(super) timing: Timing,
    /// Between two looks at the cluster, once all is well.
    pub(super) poll: Duration,
    /// And until then.
    pub(super) hurry: Duration,
}

pub(super) struct Keeper {
    pub(super) api: Api,
    pub(super) names: Names,
    pub(super) pace: Pace,
    pub(super) clock: Clock,
    pub(super) served: Arc<Served>,
    pub(super) health: Health,
    pub(super) metrics: Metrics,
    pub(super) events: Events,
    pub(super) state: Held,
}

/// What this replica has and remembers.
pub(super) struct Held {
    serving: Option<Generation>,
    memory: Memory,
    lease: lease::Watch,
    /// Of the lease, and of the last step.
    trouble: (Trouble, Trouble),
    /// Turns in a row that came to nothing.
    failures: u32,
    started: Instant,
}

/// What was said last, so that it is not said again and again.
#[derive(Default)]
struct Trouble(Option<String>);

impl Trouble {
    fn is_news(&mut self, text: &str) -> bool {
        self.0.replace(text.to_owned()).as_deref() != Some(text)
    }

    fn is_over(&mut self) {
        self.0 = None;
    }
}

impl Held {
    pub(super) fn new() -> Self {
        Self {
            serving: None,
            memory: Memory::default(),
            lease: lease::Watch::default(),
            trouble: Default::default(),
            failures: 0,
            started: Instant::now(),
        }
    }
}

/// One look at the cluster.
struct Look {
    webhooks: Value,
    secret: Value,
    current: Option<Generation>,
    next: Option<Generation>,
    observed: Observed,
}

/// More than any way from one resting state to the next.
const STEPS: usize = 8;

impl Keeper {
    /// Runs until it is told to stop, and lets go of the lease.
    pub(super) async fn run(mut self, mut stop: Stop) -> Result<(), String> {
        loop {
            let pause = match self.turn().await {
                Ok(true) => self.pace.poll,
                Ok(false) => self.pace.hurry,
                Err(()) => (self.pace.hurry * 2_u32.pow(self.state.failures.min(8))).min(self.pace.poll),
            };
            // Replicas that start together should not ask together for ever.
            let pause = pause.mul_f64(0.9 + 0.2 * fastrand::f64());
            tokio::select! {
                () = stop.stopped() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.release().await;
        Ok(())
    }

    /// One look, and what follows from it. Returned is whether all is well, or that something could not be done.
    async fn turn(&mut self) -> Result<bool, ()> {
        let leads = self.lead().await;
        self.metrics.leader.set(i64::from(leads));
        let turned = self.steps(leads).await;
        self.state.failures = if turned.is_ok() { 0 } else { self.state.failures.saturating_add(1) };
        turned
    }

    async fn steps(&mut self, leads: bool) -> Result<bool, ()> {
        for _ in 0..STEPS {
            let look = match self.look().await {
                Ok(look) => look,
                Err(why) => {
                    self.health.missed(&why);
                    return Err(());
                }
            };
            let ready = self.take_up(&look);
            if !leads {
                return Ok(ready);
            }
            let next = step(&look.observed, &self.state.memory, self.now(), self.pace.timing);
            if next == Step::Rest {
                return Ok(ready);
            }
            match self.perform(&next, look).await {
                Ok(()) => self.state.trouble.1.is_over(),
                // Somebody else wrote: look again.
                Err(ApiError::Conflict) => {}
                Err(error) => {
                    self.failed(&next, &error);
                    return Err(());
                }
            }
        }
        Ok(false)
    }

    /// Monotonic, from this replica's start.
    fn now(&self) -> Duration {
        self.state.started.elapsed()
    }

    async fn lead(&mut self) -> bool {
        let now = self.now();
        if self.state.lease.is_fresh(now) {
            return true;
        }
        let path = self.names.lease_path();
        let read = self.api.get(&path).await;
        let written = match read {
            Ok(lease) => match self.state.lease.claim(&lease, &self.names.identity, now) {
                Claim::Hold => return true,
                Claim::Wait => {
                    self.state.lease.lost();
                    return false;
                }
                Claim::Write => {
                    let taken = lease::taken(&lease, &self.names.identity, self.clock.now());
                    self.api.put(&path, &taken).await.map(|_| ())
                }
            },
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => {
                if !self.state.lease.holds(now) {
                    tracing::info!(lease = %self.names.lease, "this replica renews the certificate from now on");
                }
                self.state.lease.wrote(now);
                self.state.trouble.0.is_over();
                true
            }
            Err(ApiError::Conflict) => false,
            Err(error) => {
                let error = error.to_string();
                if self.state.trouble.0.is_news(&error) {
                    tracing::warn!(lease = %self.names.lease, %error, "the lease cannot be had");
                }
                self.state.lease.holds(self.now())
            }
        }
    }

    async fn release(&mut self) {
        if !self.state.lease.holds(self.now()) {
            return;
        }
        let path = self.names.lease_path();
        let Ok(lease) = self.api.get(&path).await else { return };
        let is_ours = lease.pointer("/spec/holderIdentity").and_then(Value::as_str) == Some(&self.names.identity);
        if is_ours && let Err(error) = self.api.put(&path, &lease::released(&lease)).await {
            tracing::debug!(%error, "the lease was not let go; it ends by itself");
        }
    }

    /// Bundles before the Secret: see [`super::publish`].
    async fn look(&mut self) -> Result<Look, String> {
        let about = |kind: &str, name: &str, error: &ApiError| format!("{kind} {name}: {error}");
        let names = &self.names;
        let webhooks = self.api.get(&names.webhook_path()).await;
        let webhooks =
            webhooks.map_err(|error| about("MutatingWebhookConfiguration", &names.webhook_configuration, &error))?;
        let secret = self.api.get(&names.secret_path()).await;
        let secret = secret.map_err(|error| about("Secret", &names.secret, &error))?;
        let (current, next) = (self.generation(&secret, ""), self.generation(&secret, NEXT));
        let seen = |generation: &Generation| Seen { ca: generation.ca.clone(), fitness: self.fitness(generation) };
        let observed = Observed {
            bundles: bundles(&webhooks),
            current: current.as_ref().map(seen),
            next: next.as_ref().map(seen),
        };
        let now = self.now();
        self.state.memory.observe(&observed, now);
        Ok(Look { webhooks, secret, current, next, observed })
    }

    fn fitness(&self, generation: &Generation) -> Fitness {
        generation.fitness(&self.names.dns(), self.clock.now())
    }

    /// `None` for one that is absent or cannot be used; another will be made.
    fn generation(&self, secret: &Value, prefix: &str) -> Option<Generation> {
        let text = |name: &str| -> Option<Zeroizing<String>> {
            let text = secret.get("data")?.get(format!("{prefix}{name}"))?.as_str()?;
            String::from_utf8(STANDARD.decode(text).ok()?).ok().map(Zeroizing::new)
        };
        let (ca, certificate, key) = (text(CA)?, text(CERTIFICATE)?, text(KEY)?);
        match Generation::read(&ca, &certificate, key) {
            Ok(generation) => Some(generation),
            Err(error) => {
                tracing::warn!(secret = %self.names.secret, %error, "the certificate in the Secret cannot be used");
                None
            }
        }
    }

    /// Serves what is to be served, and reports whether the API server trusts it.
    fn take_up(&mut self, look: &Look) -> bool {
        let serving = self.state.serving.as_ref().map(|generation| &generation.ca);
        if let Some(current) = look.current.as_ref().filter(|_| takes_up(serving, &look.observed)) {
            self.served.set(current);
            let ends = gauge_value(current.ends.unix_seconds());
            self.metrics.expiry.set(ends);
            tracing::info!(expires_at = ends, "a certificate is served");
            self.state.serving = Some(current.clone());
        }
        let missing = self.missing(&look.observed);
        let ready = missing.is_none();
        self.health.saw(missing);
        ready
    }

    fn missing(&self, observed: &Observed) -> Option<String> {
        let Names { webhook_configuration, secret, .. } = &self.names;
        let Some(serving) = &self.state.serving else {
            return Some(format!("a certificate in Secret {secret}"));
        };
        if self.fitness(serving) == Fitness::Unfit {
            return Some("a certificate that has not expired".to_owned());
        }
        let trusted = observed.trusts(&serving.ca);
        (!trusted).then(|| format!("MutatingWebhookConfiguration {webhook_configuration} to trust the certificate"))
    }

    async fn perform(&mut self, step: &Step, look: Look) -> Result<(), ApiError> {
        match step {
            Step::Make => {
                let made = Generation::make(&self.names.dns(), self.clock.now(), self.pace.lifetime);
                let made = made.map_err(ApiError::Trouble)?;
                let mut secret = look.secret;
                write(&mut secret, NEXT, Some(&made));
                self.api.put(&self.names.secret_path(), &secret).await?;
                tracing::info!("a certificate was made; it is served once the API server trusts it");
            }
            Step::Publish(cas) => {
                let mut webhooks = look.webhooks;
                publish(&mut webhooks, cas);
                self.api.put(&self.names.webhook_path(), &webhooks).await?;
                tracing::info!(cas = cas.len(), "the webhook configuration's bundle was written");
            }
            Step::Promote => {
                let mut secret = look.secret;
                write(&mut secret, "", look.next.as_ref());
                write(&mut secret, NEXT, None);
                self.api.put(&self.names.secret_path(), &secret).await?;
                self.metrics.rotations.with_label_values(&["rotated"]).inc();
                self.event("Normal", "CertificateRotated", "a new certificate of the injector is in use".to_owned());
            }
            Step::Rest => {}
        }
        Ok(())
    }

    fn failed(&mut self, step: &Step, error: &ApiError) {
        let what = match step {
            Step::Make => "a certificate could not be made",
            Step::Publish(_) => "the bundle could not be written into the webhook configuration",
            Step::Promote => "the new certificate could not be put into use",
            Step::Rest => return,
        };
        self.metrics.rotations.with_label_values(&["failed"]).inc();
        let message = format!("{what}: {error}");
        if self.state.trouble.1.is_news(&message) {
            tracing::error!("{message}");
            self.event("Warning", "CertificateRotationFailed", message);
        }
    }

    fn event(&self, severity: &'static str, reason: &'static str, message: String) {
        let Names { namespace, secret, .. } = &self.names;
        let involved = json!({"apiVersion": "v1", "kind": "Secret", "namespace": namespace, "name": secret});
        let namespace = namespace.clone();
        self.events.send(Event { cause: Cause::Own, namespace, involved, severity, reason, message });
    }
}

const NEXT: &str = "next-";
const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Puts a generation into the Secret under this prefix, or takes one out. Whatever else is there stays.
fn write(secret: &mut Value, prefix: &str, generation: Option<&Generation>) {
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

/// What each entry trusts.
fn bundles(webhooks: &Value) -> Vec<Vec<Ca>> {
    let entries = webhooks.get("webhooks").and_then(Value::as_array).into_iter().flatten();
    let of = |entry: &Value| {
        let text = entry.pointer("/clientConfig/caBundle").and_then(Value::as_str).unwrap_or_default();
        bundle(&STANDARD.decode(text).unwrap_or_default())
    };
    entries.map(of).collect()
}

/// Writes the bundle into each entry.
fn publish(webhooks: &mut Value, cas: &[Ca]) {
    let text = STANDARD.encode(bundle_pem(cas));
    let entries = webhooks.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten();
    for client in entries.filter_map(|entry| entry.get_mut("clientConfig")?.as_object_mut()) {
        client.insert("caBundle".to_owned(), text.clone().into());
    }
}

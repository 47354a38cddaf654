//! Kubernetes events, off the path of reviews: written by one task, the same one not again for a while, dropped where they pile up.
use super::api::Api;
use super::lease::instant;
use crate::clock::Clock;
use crate::tasks::Stop;
use lru::LruCache;
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What happened to an object.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) namespace: String,
    pub(super) involved: Value,
    /// `Normal` or `Warning`.
    pub(super) severity: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Where events are handed in.
#[derive(Clone)]
pub(super) struct Events(mpsc::Sender<Event>);

/// The task that writes them.
pub(super) struct Writer {
    receiver: mpsc::Receiver<Event>,
    api: Api,
    clock: Clock,
    identity: String,
}

const WAITING: usize = 256;
/// A controller tries a refused pod again and again.
const QUIET: Duration = Duration::from_secs(600);
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// The API server takes no longer message.
const LONGEST: usize = 1000;

impl Events {
    pub(super) fn new(api: Api, clock: Clock, identity: String) -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), Writer { receiver, api, clock, identity })
    }

    /// Hands one in, or drops it.
    pub(super) fn send(&self, event: Event) {
        if let Err(error) = self.0.try_send(event) {
            tracing::debug!(%error, "an event was dropped");
        }
    }
}

impl Writer {
    /// Runs until it is told to stop.
    pub(super) async fn run(mut self, mut stop: Stop) -> Result<(), String> {
        let mut written: LruCache<String, Instant> = LruCache::new(REMEMBERED);
        loop {
            let event = tokio::select! {
                () = stop.stopped() => return Ok(()),
                event = self.receiver.recv() => event,
            };
            let Some(event) = event else { return Ok(()) };
            let key = format!("{} {} {}", event.involved, event.reason, event.message);
            if written.get(&key).is_some_and(|at| at.elapsed() < QUIET) {
                continue;
            }
            written.put(key, Instant::now());
            self.write(event).await;
        }
    }

    async fn write(&self, event: Event) {
        let now = self.clock.now();
        // Whole seconds: a `Time`, not a `MicroTime`.
        let seconds = instant(crate::clock::Timestamp::from_unix_seconds(now.unix_seconds())).replace(".000000", "");
        let object = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "idjag-proxy-injector-", "namespace": event.namespace},
            "involvedObject": event.involved,
            "type": event.severity,
            "reason": event.reason,
            "message": event.message.chars().take(LONGEST).collect::<String>(),
            "source": {"component": "idjag-proxy-injector"},
            "reportingComponent": "idjag-proxy.io/injector",
            "reportingInstance": self.identity,
            "firstTimestamp": seconds,
            "lastTimestamp": seconds,
            "count": 1,
        });
        let path = format!("/api/v1/namespaces/{}/events", event.namespace);
        if let Err(error) = self.api.post(&path, &object).await {
            tracing::warn!(reason = event.reason, %error, "an event could not be written");
        }
    }
}

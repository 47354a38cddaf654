//! Kubernetes events, off the path of reviews: written by one task, the same one not again for a while. Those of reviews are dropped
//! where they pile up; our own wait apart from them, and go first.
use super::api::Api;
use super::lease::instant;
use crate::clock::Clock;
use crate::tasks::Stop;
use lru::LruCache;
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Whose doing an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Ours, and each said once: none is dropped for what reviews bring.
    Own,
    /// Whoever sent a review, and nobody has asked who that is: written as often as a person could read.
    Review,
}

/// What happened to an object.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) cause: Cause,
    pub(super) namespace: String,
    pub(super) involved: Value,
    /// `Normal` or `Warning`.
    pub(super) severity: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Where events are handed in.
#[derive(Clone)]
pub(super) struct Events {
    own: mpsc::Sender<Event>,
    reviews: mpsc::Sender<Event>,
}

/// The task that writes them.
pub(super) struct Writer {
    own: mpsc::Receiver<Event>,
    reviews: mpsc::Receiver<Event>,
    api: Api,
    clock: Clock,
    identity: String,
}

/// Of reviews.
const WAITING: usize = 256;
/// Of our own, of which hours without an API server bring a few: what is the same is not said again.
const OWN_WAITING: usize = 64;
/// A controller tries a refused pod again and again.
const QUIET: Duration = Duration::from_secs(600);
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// The API server takes no longer message.
const LONGEST: usize = 1000;

/// Of reviews, all together: this many at once, and one each second.
const ALL: Rate = Rate { burst: 60.0, pause: 1.0 };
/// In one namespace.
const EACH: Rate = Rate { burst: 10.0, pause: 30.0 };

/// How many at once, and after how many seconds one more.
#[derive(Clone, Copy)]
struct Rate {
    burst: f64,
    pause: f64,
}

struct Bucket {
    rate: Rate,
    left: f64,
    at: Instant,
}

/// How many more events may be written.
struct Limits {
    all: Bucket,
    each: LruCache<String, Bucket>,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, left: rate.burst, at: Instant::now() }
    }

    fn has_one(&mut self) -> bool {
        let now = Instant::now();
        self.left = (self.left + (now - self.at).as_secs_f64() / self.rate.pause).min(self.rate.burst);
        self.at = now;
        self.left >= 1.0
    }
}

impl Limits {
    fn new() -> Self {
        Self { all: Bucket::new(ALL), each: LruCache::new(REMEMBERED) }
    }

    fn take(&mut self, namespace: &str) -> bool {
        let each = self.each.get_or_insert_mut(namespace.to_owned(), || Bucket::new(EACH));
        let may = each.has_one() && self.all.has_one();
        if may {
            each.left -= 1.0;
            self.all.left -= 1.0;
        }
        may
    }
}

impl Events {
    pub(super) fn new(api: Api, clock: Clock, identity: String) -> (Self, Writer) {
        let (own, own_receiver) = mpsc::channel(OWN_WAITING);
        let (reviews, reviews_receiver) = mpsc::channel(WAITING);
        (Self { own, reviews }, Writer { own: own_receiver, reviews: reviews_receiver, api, clock, identity })
    }

    /// Hands one in, or drops it.
    pub(super) fn send(&self, event: Event) {
        let reason = event.reason;
        match event.cause {
            Cause::Own => {
                if let Err(error) = self.own.try_send(event) {
                    tracing::warn!(reason, %error, "an event was dropped");
                }
            }
            Cause::Review => {
                if let Err(error) = self.reviews.try_send(event) {
                    tracing::debug!(reason, %error, "an event was dropped");
                }
            }
        }
    }
}

impl Writer {
    /// Runs until it is told to stop.
    pub(super) async fn run(mut self, mut stop: Stop) -> Result<(), String> {
        let mut written: LruCache<u64, Instant> = LruCache::new(REMEMBERED);
        let (hasher, mut limits) = (RandomState::new(), Limits::new());
        loop {
            let event = tokio::select! {
                () = stop.stopped() => return Ok(()),
                event = self.next() => event,
            };
            let Some(event) = event else { return Ok(()) };
            let key = hasher.hash_one((event.involved.to_string(), event.reason, &event.message));
            if written.get(&key).is_some_and(|at| at.elapsed() < QUIET) {
                continue;
            }
            if event.cause == Cause::Review && !limits.take(&event.namespace) {
                tracing::debug!(namespace = %event.namespace, "an event too many was dropped");
                continue;
            }
            written.put(key, Instant::now());
            self.write(event).await;
        }
    }

    async fn next(&mut self) -> Option<Event> {
        tokio::select! {
            biased;
            Some(event) = self.own.recv() => Some(event),
            Some(event) = self.reviews.recv() => Some(event),
            else => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reviews_leave_room_for_our_own_and_do_not_keep_them_waiting() {
        let api = Api::at("http://127.0.0.1:9".parse().expect("a URL")).expect("a client");
        let (events, mut writer) = Events::new(api, Clock::system(), "a".to_owned());
        let event = |cause, reason| Event {
            cause,
            namespace: "agents".to_owned(),
            involved: Value::Null,
            severity: "Warning",
            reason,
            message: String::new(),
        };
        for _ in 0..=WAITING {
            events.send(event(Cause::Review, "SidecarRefused"));
        }
        events.send(event(Cause::Own, "CertificateRotationFailed"));
        drop(events);
        assert_eq!(writer.next().await.map(|event| event.reason), Some("CertificateRotationFailed"));
        let mut rest = 0;
        while writer.next().await.is_some() {
            rest += 1;
        }
        assert_eq!(rest, WAITING, "those of reviews are dropped where they pile up");
    }

    #[tokio::test(start_paused = true)]
    async fn no_namespace_and_no_crowd_of_them_gets_many_events() {
        let mut limits = Limits::new();
        let written = |limits: &mut Limits, namespace: &str| (0..100).filter(|_| limits.take(namespace)).count();
        assert_eq!(written(&mut limits, "a"), 10);
        let crowd: usize = (0..100).map(|index| written(&mut limits, &format!("n{index}"))).sum();
        assert_eq!(crowd, 50, "with those of the first");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(written(&mut limits, "a"), 2);
        assert_eq!(written(&mut limits, "b"), 10);
    }
}

//! Kubernetes events. One task writes them, so that reviews do not wait for it, and does not repeat
//! an event for a while. Events about reviews are dropped when too many are waiting; the injector's
//! own have a queue of their own and are written first.
use super::api::Api;
use super::timestamps::time;
use crate::clock::Clock;
use crate::tasks::Stop;
use lru::LruCache;
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The cause of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventSource {
    /// The injector itself. Reviews cannot delay or displace these events.
    Injector,
    /// A review. Callers are not authenticated, so these events are limited to a rate that people
    /// can read.
    Review,
}

/// An event about an object.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) source: EventSource,
    pub(super) namespace: String,
    pub(super) involved: Value,
    /// `Normal` or `Warning`.
    pub(super) severity: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The queues of events to write.
#[derive(Clone)]
pub(super) struct Events {
    own: mpsc::Sender<Event>,
    reviews: mpsc::Sender<Event>,
}

/// The task that writes events.
pub(super) struct EventWriter {
    own: mpsc::Receiver<Event>,
    reviews: mpsc::Receiver<Event>,
    api: Api,
    clock: Clock,
    identity: String,
}

/// How many events about reviews may wait.
const REVIEW_QUEUE: usize = 256;
/// How many of the injector's own events may wait. Hours without an API server bring only a few,
/// because the same problem is not reported twice.
const OWN_QUEUE: usize = 64;
/// How long the same event is not written again. A controller retries a refused pod over and over.
const QUIET: Duration = Duration::from_secs(600);
/// How many events and namespaces are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// The longest message, in characters. The API server refuses longer ones.
const MAX_MESSAGE: usize = 1000;

/// The rate of all events about reviews.
const TOTAL_RATE: Rate = Rate { burst: 60.0, seconds_per_event: 1.0 };
/// The rate of the events in one namespace.
const NAMESPACE_RATE: Rate = Rate { burst: 10.0, seconds_per_event: 30.0 };

/// How many events may come at once, and how fast this number is replenished.
#[derive(Clone, Copy)]
struct Rate {
    burst: f64,
    seconds_per_event: f64,
}

/// A token bucket, which holds the events that may be written now.
struct Bucket {
    rate: Rate,
    available: f64,
    updated: Instant,
}

/// Limits the events about reviews, in total and per namespace.
struct RateLimiter {
    total: Bucket,
    by_namespace: LruCache<String, Bucket>,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, available: rate.burst, updated: Instant::now() }
    }

    fn has_one(&mut self) -> bool {
        let now = Instant::now();
        let replenished = (now - self.updated).as_secs_f64() / self.rate.seconds_per_event;
        self.available = (self.available + replenished).min(self.rate.burst);
        self.updated = now;
        self.available >= 1.0
    }
}

impl RateLimiter {
    fn new() -> Self {
        Self { total: Bucket::new(TOTAL_RATE), by_namespace: LruCache::new(REMEMBERED) }
    }

    /// Whether one more event may be written in `namespace`; if so, it is counted.
    fn admit(&mut self, namespace: &str) -> bool {
        let bucket = self.by_namespace.get_or_insert_mut(namespace.to_owned(), || Bucket::new(NAMESPACE_RATE));
        let admitted = bucket.has_one() && self.total.has_one();
        if admitted {
            bucket.available -= 1.0;
            self.total.available -= 1.0;
        }
        admitted
    }
}

impl Events {
    pub(super) fn new(api: Api, clock: Clock, identity: String) -> (Self, EventWriter) {
        let (own, own_receiver) = mpsc::channel(OWN_QUEUE);
        let (reviews, reviews_receiver) = mpsc::channel(REVIEW_QUEUE);
        (Self { own, reviews }, EventWriter { own: own_receiver, reviews: reviews_receiver, api, clock, identity })
    }

    /// Queues an event, or drops it if the queue is full.
    pub(super) fn send(&self, event: Event) {
        let reason = event.reason;
        match event.source {
            EventSource::Injector => {
                if let Err(error) = self.own.try_send(event) {
                    tracing::warn!(reason, %error, "an event was dropped");
                }
            }
            EventSource::Review => {
                if let Err(error) = self.reviews.try_send(event) {
                    tracing::debug!(reason, %error, "an event was dropped");
                }
            }
        }
    }
}

impl EventWriter {
    /// Runs until `stop` fires.
    pub(super) async fn run(mut self, mut stop: Stop) -> Result<(), String> {
        let mut written: LruCache<u64, Instant> = LruCache::new(REMEMBERED);
        let (hasher, mut limiter) = (RandomState::new(), RateLimiter::new());
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
            if event.source == EventSource::Review && !limiter.admit(&event.namespace) {
                tracing::debug!(namespace = %event.namespace, "an event was dropped by the rate limit");
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
        let now = time(self.clock.now());
        let object = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "idjag-proxy-injector-", "namespace": event.namespace},
            "involvedObject": event.involved,
            "type": event.severity,
            "reason": event.reason,
            "message": event.message.chars().take(MAX_MESSAGE).collect::<String>(),
            "source": {"component": "idjag-proxy-injector"},
            "reportingComponent": "idjag-proxy.io/injector",
            "reportingInstance": self.identity,
            "firstTimestamp": now,
            "lastTimestamp": now,
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
    async fn own_event_is_written_before_those_of_reviews() {
        let api = Api::at("http://127.0.0.1:9".parse().expect("a URL")).expect("a client");
        let (events, mut writer) = Events::new(api, Clock::system(), "a".to_owned());
        let event = |source, reason| Event {
            source,
            namespace: "agents".to_owned(),
            involved: Value::Null,
            severity: "Warning",
            reason,
            message: String::new(),
        };
        for _ in 0..=REVIEW_QUEUE {
            events.send(event(EventSource::Review, "SidecarRefused"));
        }
        events.send(event(EventSource::Injector, "CertificateRotationFailed"));
        drop(events);
        assert_eq!(writer.next().await.map(|event| event.reason), Some("CertificateRotationFailed"));
        let mut rest = 0;
        while writer.next().await.is_some() {
            rest += 1;
        }
        assert_eq!(rest, REVIEW_QUEUE, "a full queue drops events of reviews");
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_limited_per_namespace_and_in_total() {
        let mut limiter = RateLimiter::new();
        let admitted =
            |limiter: &mut RateLimiter, namespace: &str| (0..100).filter(|_| limiter.admit(namespace)).count();
        assert_eq!(admitted(&mut limiter, "a"), 10);
        let others: usize = (0..100).map(|index| admitted(&mut limiter, &format!("n{index}"))).sum();
        assert_eq!(others, 50, "the first namespace had ten of the total");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(admitted(&mut limiter, "a"), 2);
        assert_eq!(admitted(&mut limiter, "b"), 10);
    }
}

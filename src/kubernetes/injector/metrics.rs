//! The injector's metrics. Every series exists from the start.
use super::review::ReviewOutcome;
use crate::telemetry::Registrar;
use prometheus::{Histogram, IntCounterVec, IntGauge};
use std::time::Duration;

#[derive(Clone)]
pub(super) struct Metrics {
    reviews: IntCounterVec,
    duration: Histogram,
    pub(super) expiry: IntGauge,
    pub(super) rotations: IntCounterVec,
    pub(super) leader: IntGauge,
    pub(super) ready: IntGauge,
}

/// The combinations of `resource` and `outcome` that occur. Workloads are never changed or refused.
const REVIEWS: [(&str, &str); 7] = [
    ("pods", "injected"),
    ("pods", "unchanged"),
    ("pods", "refused"),
    ("workloads", "unchanged"),
    ("workloads", "warned"),
    ("unknown", "unchanged"),
    ("unknown", "malformed"),
];

impl Metrics {
    pub(super) fn new(registrar: &Registrar) -> prometheus::Result<Self> {
        let help = "Admission reviews, by resource and outcome.";
        let reviews = registrar.counters("injector_reviews_total", help, &["resource", "outcome"])?;
        for (resource, outcome) in REVIEWS {
            reviews.with_label_values(&[resource, outcome]);
        }
        let help = "Certificates that came into use, or failed to.";
        let rotations = registrar.counters("injector_certificate_rotations_total", help, &["outcome"])?;
        for outcome in ["rotated", "failed"] {
            rotations.with_label_values(&[outcome]);
        }
        Ok(Self {
            reviews,
            duration: registrar.histogram(
                "injector_review_duration_seconds",
                "Time from a review to its answer.",
                &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0],
            )?,
            expiry: registrar.gauge(
                "injector_certificate_expiry_timestamp_seconds",
                "When the served certificate expires, in seconds since the epoch; 0 without one.",
            )?,
            rotations,
            leader: registrar.gauge("injector_leader", "Whether this replica renews the certificate.")?,
            ready: registrar.gauge("injector_ready", "Whether the API server would trust this replica.")?,
        })
    }

    /// Counts an answered review. `resource` is `pods` or `workloads`, and absent for anything
    /// else.
    pub(super) fn count_review(&self, resource: Option<&str>, outcome: ReviewOutcome, took: Duration) {
        self.reviews.with_label_values(&[resource.unwrap_or("unknown"), outcome.as_str()]).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts a review that was malformed or was not read.
    pub(super) fn count_malformed(&self) {
        self.reviews.with_label_values(&["unknown", "malformed"]).inc();
    }
}

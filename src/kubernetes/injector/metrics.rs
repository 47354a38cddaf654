//! What an operator sees of the injector. Every series is there from the start.
use super::review::Outcome;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};
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

/// A workload goes in as it is, with or without a warning.
const REVIEWS: [(&str, &str); 7] = [
    ("pods", "injected"),
    ("pods", "unchanged"),
    ("pods", "refused"),
    ("workloads", "unchanged"),
    ("workloads", "warned"),
    ("unknown", "unchanged"),
    ("unknown", "malformed"),
];

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Warned => "warned",
        }
    }
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(format!("idjag_proxy_injector_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counter = IntCounterVec::new(Opts::new(format!("idjag_proxy_injector_{name}"), help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let reviews =
            counter("reviews_total", "Admission reviews, by resource and outcome.", &["resource", "outcome"])?;
        for (resource, outcome) in REVIEWS {
            reviews.with_label_values(&[resource, outcome]);
        }
        let opts = HistogramOpts::new("idjag_proxy_injector_review_duration_seconds", "From a review to its answer.");
        let duration = Histogram::with_opts(
            opts.buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]),
        )?;
        registry.register(Box::new(duration.clone()))?;
        let rotations =
            counter("certificate_rotations_total", "Certificates that came into use, or failed to.", &["outcome"])?;
        for outcome in ["rotated", "failed"] {
            rotations.with_label_values(&[outcome]);
        }
        Ok(Self {
            reviews,
            duration,
            expiry: gauge(
                "certificate_expiry_timestamp_seconds",
                "When the certificate that is served ends, in seconds since the epoch; 0 without one.",
            )?,
            rotations,
            leader: gauge("leader", "Whether this replica renews the certificate.")?,
            ready: gauge("ready", "Whether the API server would trust this replica.")?,
        })
    }

    pub(super) fn reviewed(&self, resource: Option<&str>, outcome: Outcome, took: Duration) {
        self.reviews.with_label_values(&[resource.unwrap_or("unknown"), outcome.as_str()]).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(super) fn malformed(&self) {
        self.reviews.with_label_values(&["unknown", "malformed"]).inc();
    }
}

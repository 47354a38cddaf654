//! Registers every metric of the process and removes the series of routes and servers that a reload
//! removes.
use crate::sync::lock;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, Result,
    TextEncoder,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The metrics of this process. Clones share them.
///
/// A name is given without the prefix `idjag_proxy_`, which is added here. Every constructor fails
/// if the name or a label is malformed, or if the name is already registered.
#[derive(Clone, Default)]
pub struct Registrar {
    registry: Registry,
    labelled: Arc<Mutex<Vec<Box<dyn RemoveSeries>>>>,
}

impl Registrar {
    /// The media type of [`Registrar::encode`].
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Registers a counter without labels.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.register(IntCounter::new(prefixed(name), help)?)
    }

    /// Registers a counter for each combination of values of `labels`.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.register_labelled(IntCounterVec::new(Opts::new(prefixed(name), help), labels)?)
    }

    /// Registers a gauge without labels.
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.register(IntGauge::new(prefixed(name), help)?)
    }

    /// Registers a gauge for each combination of values of `labels`.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.register_labelled(IntGaugeVec::new(Opts::new(prefixed(name), help), labels)?)
    }

    /// Registers a histogram without labels; `buckets` are upper bounds in ascending order.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram> {
        self.register(Histogram::with_opts(HistogramOpts::new(prefixed(name), help).buckets(buckets.to_vec()))?)
    }

    /// Registers a histogram for each combination of values of `labels`; `buckets` are upper bounds
    /// in ascending order.
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<HistogramVec> {
        let opts = HistogramOpts::new(prefixed(name), help).buckets(buckets.to_vec());
        self.register_labelled(HistogramVec::new(opts, labels)?)
    }

    /// Removes every series that has all of `labels`, given as names and values, whichever module
    /// registered it. A handle that is still in use keeps counting, unseen.
    pub fn remove_series(&self, labels: &[(&str, &str)]) {
        lock(&self.labelled).iter().for_each(|metric| metric.remove_series(labels));
    }

    /// The underlying registry, for metrics that register themselves.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Writes all metrics in the Prometheus text format.
    ///
    /// # Errors
    /// A metric cannot be written, which is a bug.
    pub fn encode(&self) -> Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Registers a metric under exactly the name that it has.
    pub(super) fn register<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn register_labelled<B: MetricVecBuilder + 'static>(&self, metric: MetricVec<B>) -> Result<MetricVec<B>> {
        let metric = self.register(metric)?;
        lock(&self.labelled).push(Box::new(metric.clone()));
        Ok(metric)
    }
}

impl std::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registrar").finish_non_exhaustive()
    }
}

/// Converts a count for a gauge. A count that does not fit becomes the largest one that does.
pub fn gauge_value(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

pub(super) fn prefixed(name: &str) -> String {
    format!("idjag_proxy_{name}")
}

/// A metric with labels, whichever type its values have.
trait RemoveSeries: Send + Sync {
    fn remove_series(&self, labels: &[(&str, &str)]);
}

impl<B: MetricVecBuilder> RemoveSeries for MetricVec<B> {
    fn remove_series(&self, labels: &[(&str, &str)]) {
        for family in self.collect() {
            for series in family.get_metric() {
                let values: HashMap<&str, &str> =
                    series.get_label().iter().map(|label| (label.name(), label.value())).collect();
                if labels.iter().all(|(name, value)| values.get(name) == Some(value)) {
                    // An error means that another thread has removed it in the meantime.
                    let _ = self.remove(&values);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrar_adds_the_prefix_to_every_kind() {
        let registrar = Registrar::default();
        registrar.counter("a_total", "A.").expect("counter").inc();
        registrar.counters("b_total", "B.", &["x"]).expect("counters").with_label_values(&["1"]).inc();
        registrar.gauge("c", "C.").expect("gauge").set(3);
        registrar.gauges("d", "D.", &["x"]).expect("gauges").with_label_values(&["1"]).set(2);
        registrar.histogram("e", "E.", &[1.0]).expect("histogram").observe(0.5);
        registrar.histograms("f", "F.", &["x"], &[1.0]).expect("histograms").with_label_values(&["1"]).observe(0.5);
        let text = registrar.encode().expect("text");
        for line in [
            "# HELP idjag_proxy_a_total A.",
            "idjag_proxy_a_total 1",
            "idjag_proxy_b_total{x=\"1\"} 1",
            "idjag_proxy_c 3",
            "idjag_proxy_d{x=\"1\"} 2",
            "idjag_proxy_e_bucket{le=\"1\"} 1",
            "idjag_proxy_f_bucket{x=\"1\",le=\"1\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is missing:\n{text}");
        }
    }

    #[test]
    fn gauge_value_saturates() {
        assert_eq!((gauge_value(7_usize), gauge_value(u64::MAX)), (7, i64::MAX));
    }

    #[test]
    fn registering_a_name_twice_fails() {
        let registrar = Registrar::default();
        registrar.counter("a_total", "A.").expect("counter");
        assert!(registrar.clone().gauge("a_total", "A.").is_err());
    }

    #[test]
    fn series_with_all_the_given_labels_are_removed_from_every_metric() {
        let registrar = Registrar::default();
        let requests = registrar.counters("requests_total", "Requests.", &["route", "class"]).expect("counters");
        let durations = registrar.histograms("seconds", "Time.", &["route"], &[1.0]).expect("histograms");
        let expiry = registrar.gauges("expiry", "Expiry.", &["route", "server"]).expect("gauges");
        for route in ["old", "new"] {
            for class in ["2xx", "5xx"] {
                requests.with_label_values(&[route, class]).inc();
            }
            durations.with_label_values(&[route]).observe(0.5);
            for server in ["left", "right"] {
                expiry.with_label_values(&[route, server]).set(1);
            }
        }
        registrar.remove_series(&[("route", "new"), ("server", "left")]);
        let text = registrar.encode().expect("text");
        assert!(!text.contains("{route=\"new\",server=\"left\"}"), "{text}");
        assert_eq!(text.matches("route=\"new\"").count(), text.matches("route=\"old\"").count() - 1, "{text}");
        registrar.remove_series(&[("route", "old")]);
        let text = registrar.encode().expect("text");
        assert!(!text.contains("route=\"old\""), "{text}");
        assert!(text.contains("idjag_proxy_expiry{route=\"new\",server=\"right\"} 1"), "{text}");
    }
}

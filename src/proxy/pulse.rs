//! Shows whether the threads of the workers make progress.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When each worker's timer last fired, in milliseconds since the start. The clock is monotonic, so
/// neither a laptop's sleep nor an operator changes it.
#[derive(Clone, Debug)]
pub struct Pulse {
    start: Instant,
    last: Arc<[AtomicU64]>,
}

impl Pulse {
    /// The pulse of `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self { start: Instant::now(), last: (0..workers).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The workers whose timer has not fired for longer than `limit`.
    pub fn stuck(&self, limit: Duration) -> impl Iterator<Item = usize> + '_ {
        let now = self.start.elapsed();
        let is_late =
            move |last: &AtomicU64| now.saturating_sub(Duration::from_millis(last.load(Ordering::Relaxed))) > limit;
        self.last.iter().enumerate().filter(move |(_, last)| is_late(last)).map(|(worker, _)| worker)
    }

    /// Records that the timer of `worker` has fired.
    pub(super) fn beat(&self, worker: usize) {
        if let Some(last) = self.last.get(worker) {
            last.store(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

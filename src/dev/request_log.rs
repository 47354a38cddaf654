//! The log of a dev server's requests, for tests to check and for the demo to show.
use crate::sync::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::watch;

/// Older requests are dropped once there are this many.
const MAX_RECORDED: usize = 4096;

/// The requests that a server has received: all of them are counted, and the latest answered ones
/// are kept.
#[derive(Debug)]
pub(super) struct RequestLog<T> {
    arrivals: watch::Sender<u64>,
    answered: Mutex<VecDeque<T>>,
}

impl<T> Default for RequestLog<T> {
    fn default() -> Self {
        Self { arrivals: watch::Sender::new(0), answered: Mutex::default() }
    }
}

impl<T: Clone> RequestLog<T> {
    /// Counts a request that has arrived.
    pub(super) fn count_arrival(&self) {
        self.arrivals.send_modify(|arrivals| *arrivals += 1);
    }

    /// Records a request whose answer is known.
    pub(super) fn record(&self, request: T) {
        let mut answered = lock(&self.answered);
        if answered.len() == MAX_RECORDED {
            answered.pop_front();
        }
        answered.push_back(request);
    }

    /// The recorded requests, oldest first.
    pub(super) fn requests(&self) -> Vec<T> {
        lock(&self.answered).iter().cloned().collect()
    }

    /// The request that was recorded last.
    pub(super) fn last(&self) -> Option<T> {
        lock(&self.answered).back().cloned()
    }

    /// How many requests have arrived, answered or not.
    pub(super) fn arrivals(&self) -> u64 {
        *self.arrivals.borrow()
    }

    /// Waits until `count` requests have arrived.
    pub(super) async fn wait_for_arrivals(&self, count: u64) {
        // This cannot fail, because the log owns the sender.
        let _ = self.arrivals.subscribe().wait_for(|arrivals| *arrivals >= count).await;
    }
}

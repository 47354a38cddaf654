//! A timer for streams that may stall.
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Measures how long nothing has moved. The timer is registered only when something has to be
/// waited for, which most small bodies never need.
pub(super) struct IdleTimer {
    timeout: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    moved: bool,
}

impl IdleTimer {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, sleep: None, moved: false }
    }

    /// Changes the timeout from the next reset on.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Starts the timeout anew: something has moved.
    pub(super) fn reset(&mut self) {
        self.moved = true;
    }

    /// Whether the timeout has passed since the last reset. Called only while waiting; it wakes the
    /// task when the timeout passes.
    pub(super) fn has_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout)));
        if std::mem::take(&mut self.moved) {
            sleep.as_mut().reset(Instant::now() + self.timeout);
        }
        sleep.as_mut().poll(cx).is_ready()
    }
}

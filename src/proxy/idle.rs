//! How long nothing has moved.
use crate::policy::Timeouts;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// A timer that exists only once something has to be waited for: most small bodies never do.
pub(super) struct Idle {
    timeout: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    moved: bool,
}

impl Default for Idle {
    fn default() -> Self {
        Self::new(Timeouts::default().idle)
    }
}

impl Idle {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, sleep: None, moved: false }
    }

    /// From the next move on so long.
    pub(super) fn allow(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    pub(super) fn moved(&mut self) {
        self.moved = true;
    }

    /// Whether nothing has moved for too long; asked only while it is waited for.
    pub(super) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout)));
        if std::mem::take(&mut self.moved) {
            sleep.as_mut().reset(Instant::now() + self.timeout);
        }
        sleep.as_mut().poll(cx).is_ready()
    }
}

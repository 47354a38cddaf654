//! Runs hyper's HTTP/2 tasks on the worker's own thread.
use std::future::Future;

/// Spawns onto the current thread's runtime.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local;

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

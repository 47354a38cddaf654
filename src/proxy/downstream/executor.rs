//! A worker's own runtime, and hyper's HTTP/2 tasks on it.
use super::write_timeout::patient;
use crate::proxy::upstream::AT_ONCE;
use prometheus::IntCounter;
use std::future::Future;
use std::pin::pin;
use tokio::runtime::LocalOptions;

/// Runs `future`, and what it spawns, on the calling thread. Ends with it, whatever else is under way.
pub(crate) fn block_on<F: Future>(future: F) -> std::io::Result<F::Output> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // Names are all that is waited for in threads: what hangs there must not become hundreds of them.
    let runtime = builder.enable_all().max_blocking_threads(AT_ONCE).build_local(LocalOptions::default())?;
    let ended = runtime.block_on(future);
    // Dropping it would wait for names that are being looked up, for as long as the system's resolver likes.
    runtime.shutdown_background();
    Ok(ended)
}

/// Spawns onto the current thread's runtime.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local;

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

/// Spawns what answers an agent's requests over HTTP/2, each for as long as the agent takes something of its answer.
#[derive(Clone)]
pub(crate) struct Answers {
    /// Those that were given up.
    pub(crate) given_up: IntCounter,
}

impl<F> hyper::rt::Executor<F> for Answers
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        let given_up = self.given_up.clone();
        tokio::task::spawn_local(async move {
            patient(pin!(future), &given_up).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    #[test]
    fn a_look_up_that_hangs_does_not_hold_a_worker() {
        let (_answer, never) = channel::<()>();
        let (ended, end) = channel();
        std::thread::spawn(move || {
            let worker = async {
                let (looking_up, started) = tokio::sync::oneshot::channel();
                let look_up = move |answer: Receiver<()>| {
                    let _ = looking_up.send(());
                    answer.recv()
                };
                drop(tokio::task::spawn_blocking(move || look_up(never)));
                started.await.expect("started");
            };
            ended.send(block_on(worker).is_ok())
        });
        assert_eq!(end.recv_timeout(Duration::from_secs(60)), Ok(true));
    }
}

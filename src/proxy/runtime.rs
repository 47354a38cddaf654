//! The runtime of one worker thread.
use super::upstream::MAX_LOOKUPS;
use std::future::Future;
use tokio::runtime::LocalOptions;

/// Runs `future`, and what it spawns, on the calling thread. Returns when `future` ends, even if
/// something else is still running.
pub(super) fn block_on<F: Future>(future: F) -> std::io::Result<F::Output> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // Only name lookups use blocking threads. If they hang, they must not take hundreds of threads.
    let runtime = builder.enable_all().max_blocking_threads(MAX_LOOKUPS).build_local(LocalOptions::default())?;
    let output = runtime.block_on(future);
    // Dropping the runtime would wait for lookups, which may hang in the system resolver.
    runtime.shutdown_background();
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    #[test]
    fn hanging_lookup_does_not_keep_a_worker_from_ending() {
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

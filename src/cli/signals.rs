//! The signals that stop a process.
use crate::tasks::Stopper;
use tokio::signal::unix::{SignalKind, signal};

/// Runs `running` to its end. The first signal asks it to stop, and `meanwhile` is logged as what
/// happens until it does; a second one makes this return an error at once.
pub(super) async fn run_with_signals(
    running: impl Future<Output = Result<(), String>>,
    stopper: Stopper,
    meanwhile: &str,
) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    tokio::pin!(running);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            ended = &mut running => return ended,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if std::mem::replace(&mut is_stopping, true) {
            return Err("received a second signal: stopped at once".to_owned());
        }
        tracing::info!("received a signal to stop: {meanwhile}");
        stopper.stop();
    }
}

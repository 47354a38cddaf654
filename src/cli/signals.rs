//! What the system tells a process that runs until it is told to stop.
use crate::tasks::Stopper;
use tokio::signal::unix::{SignalKind, signal};

/// Runs `running` to its end, which a first signal asks for, saying what happens `until_then`. A second one leaves at once.
pub(super) async fn until_told(
    running: impl Future<Output = Result<(), String>>,
    stopper: Stopper,
    until_then: &str,
) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    tokio::pin!(running);
    let mut told = false;
    loop {
        tokio::select! {
            ended = &mut running => return ended,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if std::mem::replace(&mut told, true) {
            return Err("a second signal came: left at once".to_owned());
        }
        tracing::info!("told to stop: {until_then}");
        stopper.stop();
    }
}

//! Long-lived tasks. Each has a name and an owner, takes the stop signal as an argument, and if it
//! ends unexpectedly, the process stops.
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The signal that asks tasks to stop. It fires once, for all clones.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Fires the [`Stop`] that it was created with. Dropping it fires it, too, so that no task outlives
/// its owner.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Stop {
    /// Creates a signal and the value that fires it.
    pub fn pair() -> (Stopper, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Stopper(sender), Stop(receiver))
    }

    /// Waits until the signal has fired.
    pub async fn stopped(&mut self) {
        // An error means that the stopper was dropped, which stops the tasks as well.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }

    /// Tells whether the signal has fired.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl Stopper {
    /// Fires the signal for all clones of the [`Stop`].
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// How a named task ended.
#[derive(Debug)]
pub struct Ended {
    /// The name that it was spawned with.
    pub name: &'static str,
    /// Its own error, or that it panicked.
    pub result: Result<(), String>,
}

/// The tasks of one runtime, by name.
#[derive(Debug, Default)]
pub struct Tasks(JoinSet<Ended>);

impl Tasks {
    /// Spawns a task that is expected to run until its stop signal fires.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.0.spawn(async move { Ended { name, result: task.await } });
    }

    /// Waits for the next task to end. Without a task it waits for ever.
    pub async fn next_end(&mut self) -> Ended {
        match self.0.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => Ended { name: "task", result: Err(error.to_string()) },
            None => std::future::pending().await,
        }
    }

    /// Waits up to `grace` for tasks that were asked to stop, and then aborts those that are left.
    pub async fn shutdown(&mut self, grace: Duration) {
        let all = async { while self.0.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            self.0.shutdown().await;
        }
    }
}

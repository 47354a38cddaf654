//! Every long-lived task has a name and an owner. The stop signal is an argument; an unexpected end is a reason to stop.
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Tells tasks to stop. Cloned freely; it fires once.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Fires the [`Stop`] that it came with. Dropping it fires too, so that a lost owner leaves no orphan running.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Stop {
    /// A signal and the hand that fires it.
    pub fn pair() -> (Stopper, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Stopper(sender), Stop(receiver))
    }

    /// Waits until the signal has fired.
    pub async fn stopped(&mut self) {
        // An error means that the stopper is gone, which is a stop as well.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }

    /// Whether the signal has fired.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl Stopper {
    /// Fires.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// How a named task ended.
#[derive(Debug)]
pub struct Ended {
    /// The name it was spawned with.
    pub name: &'static str,
    /// What went wrong: its own error, or a panic.
    pub result: Result<(), String>,
}

/// The tasks of one runtime, by name.
#[derive(Debug, Default)]
pub struct Tasks(JoinSet<Ended>);

impl Tasks {
    /// Spawns a task that runs until it is told to stop.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.0.spawn(async move { Ended { name, result: task.await } });
    }

    /// The next task that ends; pending for ever while there is none.
    pub async fn next_end(&mut self) -> Ended {
        match self.0.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => Ended { name: "task", result: Err(error.to_string()) },
            None => std::future::pending().await,
        }
    }

    /// Gives tasks that were told to stop `grace` to do so, then ends what is left.
    pub async fn shutdown(&mut self, grace: Duration) {
        let all = async { while self.0.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            self.0.shutdown().await;
        }
    }
}

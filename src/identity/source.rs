//! The set of sources that an identity can come from.
use super::files::{Files, FilesSettings};
use super::handle::Identity;
use super::metrics::Metrics;
use super::workload_api::{WorkloadApi, WorkloadApiSettings};
use crate::clock::Clock;
use crate::tasks::Stop;
use tokio::sync::watch;

/// The settings of the source that the workload's identity comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// The SPIFFE Workload API.
    WorkloadApi(WorkloadApiSettings),
    /// PEM files that some other process renews.
    Files(FilesSettings),
}

/// The task that keeps an [`Identity`] current.
pub enum IdentityTask {
    /// The task that holds a stream of the Workload API open.
    WorkloadApi(WorkloadApi),
    /// The task that watches PEM files.
    Files(Files),
}

impl IdentitySource {
    /// Creates the task and the handle that it keeps current.
    pub fn build(&self, clock: Clock, metrics: Metrics) -> (IdentityTask, Identity) {
        match self {
            Self::WorkloadApi(settings) => {
                let (task, identity) = WorkloadApi::new(settings.clone(), clock, metrics);
                (IdentityTask::WorkloadApi(task), identity)
            }
            Self::Files(settings) => {
                let (task, identity) = Files::new(settings.clone(), clock, metrics);
                (IdentityTask::Files(task), identity)
            }
        }
    }
}

impl IdentityTask {
    /// Runs until `stop` fires. It does not contact the source before `needed` first becomes true,
    /// because a workload whose routes need no identity may not be registered.
    ///
    /// # Errors
    /// It never fails; the result has the type that [`crate::tasks::Tasks`] expects.
    pub async fn run(self, mut needed: watch::Receiver<bool>, mut stop: Stop) -> Result<(), String> {
        tokio::select! {
            () = stop.stopped() => return Ok(()),
            _ = needed.wait_for(|needed| *needed) => {}
        }
        match self {
            Self::WorkloadApi(task) => task.run(stop).await,
            Self::Files(task) => task.run(stop).await,
        }
    }
}

//! The set of sources that an identity can come from.
use super::files::{Files, FilesSettings};
use super::handle::Identity;
use super::metrics::Metrics;
use super::workload_api::{WorkloadApi, WorkloadApiSettings};
use crate::clock::Clock;
use crate::tasks::Stop;
use std::fmt;
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

    /// The key of the configuration that selects the source.
    pub fn setting(&self) -> &'static str {
        match self {
            Self::WorkloadApi(_) => "identity.workload_api",
            Self::Files(_) => "identity.files",
        }
    }

    /// Whether the source issues JWT-SVIDs, in addition to the X.509-SVID.
    pub fn has_jwt_svids(&self) -> bool {
        match self {
            Self::WorkloadApi(_) => true,
            Self::Files(_) => false,
        }
    }
}

/// Names the source: the Workload API with its address, or the file of the certificate.
impl fmt::Display for IdentitySource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WorkloadApi(settings) => write!(out, "the Workload API at {}", settings.socket),
            Self::Files(settings) => write!(out, "{}", settings.certificate.display()),
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

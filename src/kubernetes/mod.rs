//! The proxy in Kubernetes: the sidecar that a pod gets, and the two ways to get it.
//! [`inject_manifests`] reads files, [`injector`] answers the API server. Both call `inject`, which
//! is pure, so both write the same sidecar.
//!
//! Objects are JSON values and not types, because a type drops the fields that it does not know.
mod inject;
pub mod injector;
mod manifest;
mod names;
mod untrusted;
mod workload;

pub use inject::{Defaults, PullPolicy, Socket};
pub use manifest::{InjectedManifests, ManifestError, ObjectReport, inject_manifests};
pub use names::{ANNOTATION_STATUS, ANNOTATIONS, IMAGE, LABEL_INJECT, LABEL_INJECTED, OUTBOUND_PORT, UID};

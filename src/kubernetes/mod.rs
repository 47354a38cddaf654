//! The proxy in Kubernetes: the sidecar that a pod gets, and the two doors by which it gets it. [`inject_manifests`] reads files,
//! [`injector`] answers the API server; both come to `inject`, which is pure, and so write the same sidecar.
//!
//! Objects are JSON values and not types, because a type drops the fields that it does not know.
mod inject;
pub mod injector;
mod manifest;
mod names;
mod words;
mod workload;

pub use inject::{Defaults, PullPolicy, Socket};
pub use manifest::{Injected, ManifestError, Note, inject_manifests};
pub use names::{ANNOTATION_STATUS, ANNOTATIONS, IMAGE, LABEL_INJECT, LABEL_INJECTED, OUTBOUND_PORT, UID};

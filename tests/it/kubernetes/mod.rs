//! The Kubernetes half: `inject` as a process.
mod inject;

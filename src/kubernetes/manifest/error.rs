//! The error that reading manifests returns.

/// A document that cannot be read and may contain a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the document at line {line} is not a manifest: {problem}")]
pub struct ManifestError {
    /// The document's first line in the text, counted from 1.
    pub(super) line: usize,
    pub(super) problem: String,
}

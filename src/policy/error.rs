//! The error of an invalid pattern.

/// An invalid host or path pattern. The text says why it is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(pub String);

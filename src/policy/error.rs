//! Why a route's pattern is refused.

/// Why a pattern was refused, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(pub String);

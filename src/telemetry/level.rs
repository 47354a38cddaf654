//! The importance of a log line.

/// The least important lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Only errors are logged.
    Error,
    /// Warnings and errors are logged.
    Warn,
    /// State changes and requests are logged, too.
    Info,
    /// Details for debugging are logged, too.
    Debug,
    /// Everything is logged.
    Trace,
}

impl Level {
    pub(super) const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// Parses a level's name, which must be in lower case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == text)
    }

    /// Returns the level's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

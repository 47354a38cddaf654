//! Who ended a request: the label `by` of `ended_total`, and the field `ended` of the log line.

/// Who or what ended a request and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedBy {
    /// Everything was sent: the agent has its whole answer.
    Whole,
    /// The agent left, or its body broke off.
    Agent,
    /// The upstream could not be reached, or broke off.
    Upstream,
    /// A timeout.
    Timeout,
    /// A limit of this proxy or of the route.
    Limit,
    /// The proxy stopped: the drain deadline had come.
    Drain,
    /// The upstream's identity was no longer trusted.
    Trust,
}

impl EndedBy {
    /// All of them, in the order of their discriminants.
    pub(super) const ALL: [Self; 7] =
        [Self::Whole, Self::Agent, Self::Upstream, Self::Timeout, Self::Limit, Self::Drain, Self::Trust];

    /// The label in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Agent => "agent",
            Self::Upstream => "upstream",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::Drain => "drain",
            Self::Trust => "trust",
        }
    }
}

//! Who ended a request: the label `by` of `ended_total`, and the field `ended` of the log line.

macro_rules! ended_by {
    ($($(#[doc = $doc:literal])+ $variant:ident => $label:literal,)+) => {
        /// Who or what ended a request and its answer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum EndedBy {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl EndedBy {
            /// All of them, in the order of the discriminants.
            pub(super) const ALL: [Self; [$($label),+].len()] = [$(Self::$variant),+];

            /// The label in metrics.
            pub(super) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }
    };
}

ended_by! {
    /// Everything was sent: the agent has its whole answer.
    Whole => "whole",
    /// The agent left, or its body broke off.
    Agent => "agent",
    /// The upstream could not be reached, or broke off.
    Upstream => "upstream",
    /// A timeout.
    Timeout => "timeout",
    /// A limit of this proxy or of the route.
    Limit => "limit",
    /// The proxy stopped: the drain deadline had come.
    Drain => "drain",
    /// The upstream's identity was no longer trusted.
    Trust => "trust",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_listed_in_the_order_of_their_discriminants() {
        for (index, by) in EndedBy::ALL.iter().enumerate() {
            assert_eq!(*by as usize, index, "{by:?}");
        }
    }
}

//! Errors of issuers: who can do something about each, and how soon it is worth trying again.
use crate::jose::InvalidToken;
use std::time::Duration;

/// The longest `Retry-After` that is honoured; a longer one counts as this.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);

/// Who can do something about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The agent, or its user: 403.
    Agent,
    /// The user, with another token: 401.
    User,
    /// Only an operator: 502.
    Operator,
    /// Nobody, but the failure may be transient: 503.
    Unavailable,
    /// The provider of the workload's identity: 503.
    Identity,
}

/// Declares an enum of failures with the facts of each variant in one row, so that no variant can
/// lack any:
///
/// - `kind`: a stable name, for metrics and logs;
/// - `fault`: who can do something about it;
/// - `negative_ttl`: how long the failure is served to later callers without another request;
/// - `advice`: what the caller can do, for people, without any words of the server, which may quote
///   what we sent.
///
/// Expressions in a row may use the variant's fields and, in `advice`, the server's name, by the
/// names that the invocation gives them. `wraps` adds a variant for the failures of another such
/// enum, which brings its own rows.
macro_rules! failures {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident($server:ident) $(wraps $wrapped:ident($inner:ty))? {
            $(
                $(#[$variant_meta:meta])*
                $variant:ident $(($value:ident: $value_type:ty))? $({ $($(#[$field_meta:meta])* $field:ident: $field_type:ty),+ })? => {
                    kind: $kind:literal,
                    fault: $fault:expr,
                    negative_ttl: $negative_ttl:expr,
                    advice: $advice:expr,
                }
            )+
        }
    ) => {
        $(#[$meta])*
        $vis enum $name {
            $(
                $(#[$variant_meta])*
                $variant $(($value_type))? $({ $($(#[$field_meta])* $field: $field_type),+ })?,
            )+
            $(
                /// The issuer could not be used.
                #[error("{0}")]
                $wrapped(#[from] $inner),
            )?
        }

        impl $name {
            /// Every value of [`Self::kind`]; some occur more than once.
            pub(crate) fn kinds() -> impl Iterator<Item = &'static str> {
                [$($kind),+].into_iter()$(.chain(<$inner>::kinds()))?
            }

            /// A stable name, for metrics and logs.
            pub(crate) fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $kind,)+
                    $(Self::$wrapped(inner) => <$inner>::kind(inner),)?
                }
            }

            /// Who can do something about it.
            pub(crate) fn fault(&self) -> Fault {
                match self {
                    $(Self::$variant $(($value))? $({ $($field),+ })? => {
                        $(let _ = $value;)?
                        $($(let _ = $field;)+)?
                        $fault
                    })+
                    $(Self::$wrapped(inner) => <$inner>::fault(inner),)?
                }
            }

            /// How long the failure is served to later callers without another request.
            pub(crate) fn negative_ttl(&self) -> std::time::Duration {
                match self {
                    $(Self::$variant $(($value))? $({ $($field),+ })? => {
                        $(let _ = $value;)?
                        $($(let _ = $field;)+)?
                        $negative_ttl
                    })+
                    $(Self::$wrapped(inner) => <$inner>::negative_ttl(inner),)?
                }
            }

            /// What the caller can do, for people. `server` is the authorization server's name.
            pub(crate) fn advice(&self, $server: &str) -> String {
                match self {
                    $(Self::$variant $(($value))? $({ $($field),+ })? => {
                        $(let _ = $value;)?
                        $($(let _ = $field;)+)?
                        $advice
                    })+
                    $(Self::$wrapped(inner) => <$inner>::advice(inner, $server),)?
                }
            }
        }
    };
}
pub(crate) use failures;

failures! {
    /// Why an issuer cannot be used. Texts are for the log.
    #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
    pub enum IssuerError(server) {
        /// The workload has no identity, or no JWT-SVID.
        #[error("this workload's identity: {0}")]
        Identity(why: String) => {
            kind: "identity",
            fault: Fault::Identity,
            negative_ttl: Duration::from_secs(1),
            advice: "The workload has no usable identity at the moment. Try again; if it lasts, the operator finds in the \
                     proxy's log and status what it waits for."
                .to_owned(),
        }
        /// No connection could be made, or it broke.
        #[error("cannot be reached: {0}")]
        Unreachable(why: String) => {
            kind: "unreachable",
            fault: Fault::Unavailable,
            negative_ttl: Duration::from_secs(2),
            advice: try_later(server),
        }
        /// No secure connection could be made.
        #[error("no secure connection: {0}")]
        Tls(why: String) => {
            kind: "tls",
            fault: Fault::Unavailable,
            negative_ttl: Duration::from_secs(5),
            advice: try_later(server),
        }
        /// This step of the request passed its deadline.
        #[error("{0} took too long")]
        Timeout(step: &'static str) => {
            kind: "timeout",
            fault: Fault::Unavailable,
            negative_ttl: Duration::from_secs(2),
            advice: try_later(server),
        }
        /// The server answered 5xx, 408, 425 or 429.
        #[error("answered {status}")]
        Busy {
            /// The HTTP status of the answer.
            status: u16,
            /// How long the server asks to be left alone.
            retry_after: Option<Duration>
        } => {
            kind: "busy",
            fault: Fault::Unavailable,
            negative_ttl: match retry_after {
                Some(wait) => (*wait).clamp(Duration::from_secs(1), MAX_RETRY_AFTER),
                None => Duration::from_secs(2),
            },
            advice: try_later(server),
        }
        /// The answer breaks the protocol.
        #[error("its answer is not usable: {0}")]
        Response(why: String) => {
            kind: "response",
            fault: Fault::Operator,
            negative_ttl: Duration::from_secs(5),
            advice: ask_operator(server),
        }
        /// None of the well-known locations has usable metadata.
        #[error("no usable metadata: {0}; if it publishes none, name its `endpoints` in the configuration")]
        Metadata(why: String) => {
            kind: "metadata",
            fault: Fault::Operator,
            negative_ttl: Duration::from_secs(5),
            advice: ask_operator(server),
        }
        /// As [`Self::Metadata`], but one of the locations answered 5xx, so it may have the
        /// metadata in a moment.
        #[error("no usable metadata: {0}; if it publishes none, name its `endpoints` in the configuration")]
        Undiscovered(why: String) => {
            kind: "busy",
            fault: Fault::Unavailable,
            negative_ttl: Duration::from_secs(2),
            advice: try_later(server),
        }
        /// The key set is missing or unusable.
        #[error("no usable key set: {0}")]
        Keys(why: String) => {
            kind: "metadata",
            fault: Fault::Operator,
            negative_ttl: Duration::from_secs(5),
            advice: ask_operator(server),
        }
        /// A credential would have been sent in the clear, to this URL.
        #[error(
            "{0} is plain http to a host that is not loopback: use https, or list the host under `allow_plain_http`"
        )]
        PlainHttp(url: String) => {
            kind: "plain_http",
            fault: Fault::Operator,
            negative_ttl: Duration::from_secs(30),
            advice: ask_operator(server),
        }
        /// The configuration does not result in a request that can be sent.
        #[error("no request can be sent: {0}")]
        Configuration(why: String) => {
            kind: "configuration",
            fault: Fault::Operator,
            negative_ttl: Duration::from_secs(30),
            advice: ask_operator(server),
        }
    }
}

impl IssuerError {
    /// Whether the failure may end by itself.
    pub(super) fn is_transient(&self) -> bool {
        self.fault() == Fault::Unavailable
    }

    /// How long the server asks to be left alone, at most five minutes.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

pub(crate) fn try_later(server: &str) -> String {
    format!("The authorization server `{server}` gives no token at the moment. Try again later.")
}

pub(crate) fn ask_operator(server: &str) -> String {
    format!(
        "The proxy and the authorization server `{server}` do not understand each other. Tell the operator; its log says why."
    )
}

/// Why a token was not verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The token itself is not valid.
    #[error("the token {0}")]
    Token(#[from] InvalidToken),
    /// Its issuer's keys could not be obtained.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
}

//! Why there is no token, whose fault that is, and how long it is not worth asking again.
use crate::assertion::ActorError;
use crate::jose::Refused;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The longest that a server can keep us from asking again, whatever its `Retry-After` says.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);

/// Why there is no token. Everybody who waited for it gets a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeError(Arc<Parts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    server: String,
    failure: Failure,
}

/// Who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The agent, or its user: 403.
    Agent,
    /// The user, with another token: 401.
    User,
    /// Only an operator: 502.
    Operator,
    /// Nobody, it may pass: 503.
    Unavailable,
    /// Whoever provides the workload's identity: 503.
    Identity,
}

/// What went wrong. Texts are for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No identity, or no JWT-SVID.
    Identity(String),
    /// The grant needs a user's token, and there is none.
    NoUserToken,
    /// The user's token is not believed.
    UserToken(Refused),
    /// The user's token carries a chain of actors that is not carried on.
    Actors(ActorError),
    /// No connection.
    Unreachable(String),
    /// No secure connection.
    Tls(String),
    /// Too slow.
    Timeout(&'static str),
    /// 5xx, 408, 425, or 429.
    Busy { status: u16, retry_after: Option<Duration> },
    /// An OAuth error, understood (RFC 6749 §5.2).
    Refused { status: u16, code: String, description: String, delegated: bool },
    /// An answer that is no answer.
    Response(String),
    /// A token that is over before it is used.
    Expired,
    /// No usable metadata.
    Metadata(String),
    /// None either, and one of the places where it may be answered 5xx: it may be there in a moment.
    Undiscovered(String),
    /// No usable key set.
    Keys(String),
    /// A credential would have gone out in the clear.
    PlainHttp(String),
    /// What was asked for cannot be asked.
    Configuration(String),
}

/// Every value of [`ExchangeError::kind`], for series that exist from the start.
pub(super) const KINDS: [&str; 13] = [
    "identity",
    "user_token",
    "actors",
    "unreachable",
    "tls",
    "timeout",
    "busy",
    "refused",
    "response",
    "expired",
    "metadata",
    "plain_http",
    "configuration",
];

impl Failure {
    /// Whether it may be over by itself.
    pub(super) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::Tls(_) | Self::Timeout(_) | Self::Busy { .. } | Self::Undiscovered(_)
        )
    }
}

impl ExchangeError {
    pub(super) fn new(server: &str, failure: Failure) -> Self {
        Self(Arc::new(Parts { server: server.to_owned(), failure }))
    }

    /// The server sent a token that cannot be used as one.
    pub fn unusable_token() -> Self {
        Self::new("", Failure::Response("the access token cannot stand in a header".to_owned()))
    }

    /// A stable name, for metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self.0.failure {
            Failure::Identity(_) => "identity",
            Failure::NoUserToken | Failure::UserToken(_) => "user_token",
            Failure::Actors(_) => "actors",
            Failure::Unreachable(_) => "unreachable",
            Failure::Tls(_) => "tls",
            Failure::Timeout(_) => "timeout",
            Failure::Busy { .. } | Failure::Undiscovered(_) => "busy",
            Failure::Refused { .. } => "refused",
            Failure::Response(_) => "response",
            Failure::Expired => "expired",
            Failure::Metadata(_) | Failure::Keys(_) => "metadata",
            Failure::PlainHttp(_) => "plain_http",
            Failure::Configuration(_) => "configuration",
        }
    }

    /// Who can do something about it.
    pub fn fault(&self) -> Fault {
        match &self.0.failure {
            Failure::Identity(_) => Fault::Identity,
            Failure::NoUserToken | Failure::UserToken(_) => Fault::User,
            Failure::Actors(_) => Fault::Agent,
            Failure::Unreachable(_)
            | Failure::Tls(_)
            | Failure::Timeout(_)
            | Failure::Busy { .. }
            | Failure::Undiscovered(_) => Fault::Unavailable,
            Failure::Refused { code, delegated, .. } => fault_of(code, *delegated),
            Failure::Response(_)
            | Failure::Expired
            | Failure::Metadata(_)
            | Failure::Keys(_)
            | Failure::PlainHttp(_)
            | Failure::Configuration(_) => Fault::Operator,
        }
    }

    /// The server's error code, if it gave one. It is short and has no characters beyond `a-z A-Z 0-9 _ . -`.
    pub fn oauth_code(&self) -> Option<&str> {
        match &self.0.failure {
            Failure::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// How long the server wants to be left alone, at most five minutes.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.0.failure {
            Failure::Busy { retry_after, .. } => retry_after,
            _ => None,
        }
    }

    /// The authorization server's name in the configuration; empty if none was asked.
    pub fn server(&self) -> &str {
        &self.0.server
    }

    /// How long the same question need not be asked again.
    pub fn negative_ttl(&self) -> Duration {
        let seconds = match &self.0.failure {
            Failure::Busy { retry_after: Some(wait), .. } => {
                return (*wait).clamp(Duration::from_secs(1), MAX_RETRY_AFTER);
            }
            Failure::Identity(_) => 1,
            Failure::Unreachable(_) | Failure::Timeout(_) | Failure::Busy { .. } | Failure::Undiscovered(_) => 2,
            Failure::Tls(_) | Failure::Response(_) | Failure::Expired | Failure::Metadata(_) | Failure::Keys(_) => 5,
            Failure::UserToken(Refused::UnknownKey | Refused::NotYet) => 5,
            Failure::NoUserToken | Failure::UserToken(_) | Failure::Actors(_) => 15,
            Failure::Refused { .. } => match self.fault() {
                Fault::Agent => 10,
                Fault::Unavailable => 5,
                _ => 30,
            },
            Failure::PlainHttp(_) | Failure::Configuration(_) => 30,
        };
        Duration::from_secs(seconds)
    }

    /// What to tell the agent. None of the server's own words, which may quote what we sent.
    pub fn advice(&self) -> String {
        let server = &self.0.server;
        match &self.0.failure {
            _ if self.fault() == Fault::Unavailable => {
                format!("The authorization server `{server}` gives no token at the moment. Try again later.")
            }
            Failure::Identity(_) => {
                "The workload has no usable identity at the moment. Try again; if it lasts, the operator finds in the \
                 proxy's log and status what it waits for."
                    .to_owned()
            }
            Failure::NoUserToken => {
                "This route acts in a user's name and needs the user's token with the request.".to_owned()
            }
            Failure::UserToken(why) => {
                format!("The user's token {why}. Get a fresh one from `{server}` and send it again.")
            }
            Failure::Actors(why) => format!("The user's token was delegated too far or in a circle: {why}."),
            Failure::Refused { code, .. } if self.fault() == Fault::Agent => {
                format!(
                    "The authorization server `{server}` does not allow this ({code}). Ask for less, or as another user."
                )
            }
            Failure::Refused { code, .. } => format!(
                "The authorization server `{server}` refuses this proxy ({code}). Only an operator can change that: the client's \
                 registration there and the token in the proxy's configuration must agree."
            ),
            _ => format!(
                "The proxy and the authorization server `{server}` do not understand each other. Tell the operator; its log says why."
            ),
        }
    }

    pub(super) fn is_code(&self, expected: &str) -> bool {
        self.oauth_code() == Some(expected)
    }
}

/// RFC 6749 §5.2, RFC 8693 §2.2.2, and the extensions in the standards digest (OC-4). A code that nobody here knows is the operator's.
fn fault_of(code: &str, delegated: bool) -> Fault {
    match code {
        "access_denied"
        | "invalid_grant"
        | "invalid_scope"
        | "invalid_target"
        | "invalid_authorization_details"
        | "insufficient_user_authentication"
        | "consent_required"
        | "interaction_required"
        | "login_required" => Fault::Agent,
        // RFC 8693 §2.2.2 uses it for a subject token that is not accepted.
        "invalid_request" if delegated => Fault::Agent,
        "temporarily_unavailable" | "server_error" | "slow_down" => Fault::Unavailable,
        _ => Fault::Operator,
    }
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.server.is_empty() {
            write!(out, "authorization server `{}`: ", self.0.server)?;
        }
        match &self.0.failure {
            Failure::Identity(why) => write!(out, "this workload's identity: {why}"),
            Failure::NoUserToken => out.write_str("the grant acts for a user and the request carries no user's token"),
            Failure::UserToken(why) => write!(out, "the user's token {why}"),
            Failure::Actors(why) => write!(out, "the user's token: {why}"),
            Failure::Unreachable(why) => write!(out, "cannot be reached: {why}"),
            Failure::Tls(why) => write!(out, "no secure connection: {why}"),
            Failure::Timeout(what) => write!(out, "{what} took too long"),
            Failure::Busy { status, .. } => write!(out, "answered {status}"),
            Failure::Refused { status, code, description, .. } if description.is_empty() => {
                write!(out, "answered {status} {code}")
            }
            Failure::Refused { status, code, description, .. } => {
                write!(out, "answered {status} {code}: {description}")
            }
            Failure::Response(why) => write!(out, "its answer is not usable: {why}"),
            Failure::Expired => {
                out.write_str("the token that it sent is already over; compare the clocks of both machines")
            }
            Failure::Metadata(why) | Failure::Undiscovered(why) => {
                write!(
                    out,
                    "no usable metadata: {why}; where it publishes none, the configuration names its `endpoints`"
                )
            }
            Failure::Keys(why) => write!(out, "no usable key set: {why}"),
            Failure::PlainHttp(url) => write!(
                out,
                "{url} is plain http to a host that is not loopback: use https, or list the host under `allow_plain_http`"
            ),
            Failure::Configuration(why) => write!(out, "cannot be asked: {why}"),
        }
    }
}

impl std::error::Error for ExchangeError {}

//! Errors of an exchange: who can do something about each, and how soon it is worth asking again.
use crate::assertion::ActorError;
use crate::issuer::{Fault, IssuerError, VerifyError, ask_operator, failures, try_later};
use crate::jose::InvalidToken;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why no token was issued. All callers that waited for the token get a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeError(Arc<FailureAtServer>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FailureAtServer {
    server: String,
    failure: Failure,
}

failures! {
    /// Why an exchange failed. Texts are for the log.
    #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
    pub(super) enum Failure(server) wraps Issuer(IssuerError) {
        /// The grant needs a user's token, and there is none.
        #[error("the grant acts for a user and the request carries no user's token")]
        NoUserToken => {
            kind: "user_token",
            fault: Fault::User,
            negative_ttl: Duration::from_secs(15),
            advice: "This route acts in a user's name and needs the user's token with the request.".to_owned(),
        }
        /// The user's token is not valid.
        #[error("the user's token {0}")]
        UserToken(why: InvalidToken) => {
            kind: "user_token",
            fault: Fault::User,
            negative_ttl: match why {
                InvalidToken::UnknownKey | InvalidToken::NotYet => Duration::from_secs(5),
                _ => Duration::from_secs(15),
            },
            advice: format!("The user's token {why}. Get a fresh one from `{server}` and send it again."),
        }
        /// The user's token carries a chain of actors that cannot be extended.
        #[error("the user's token: {0}")]
        Actors(why: ActorError) => {
            kind: "actors",
            fault: Fault::Agent,
            negative_ttl: Duration::from_secs(15),
            advice: format!("The user's token was delegated too far or in a loop: {why}."),
        }
        /// The server answered with an OAuth error (RFC 6749 §5.2).
        #[error("answered {0}")]
        Refused(error: OAuthError) => {
            kind: "refused",
            fault: error.fault(),
            negative_ttl: match error.fault() {
                Fault::Agent => Duration::from_secs(10),
                Fault::Unavailable => Duration::from_secs(5),
                _ => Duration::from_secs(30),
            },
            advice: error.advice(server),
        }
        /// The server issued a token that has expired before it could be used.
        #[error("the token it issued has already expired; compare the clocks of both machines")]
        Expired => {
            kind: "expired",
            fault: Fault::Operator,
            negative_ttl: Duration::from_secs(5),
            advice: ask_operator(server),
        }
    }
}

/// An OAuth error in a server's answer (RFC 6749 §5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OAuthError {
    /// The HTTP status of the answer.
    pub(super) status: u16,
    /// `error`. It is short and has no characters beyond `a-z A-Z 0-9 _ . -`.
    pub(super) code: String,
    /// `error_description`, safe to log; it may be empty.
    pub(super) description: String,
    /// Whether the grant acts for a user.
    pub(super) delegated: bool,
}

impl OAuthError {
    /// Classifies the codes of RFC 6749 §5.2, RFC 8693 §2.2.2, RFC 8707, RFC 9396, RFC 9470, RFC
    /// 8628 and OpenID Connect Core §3.1.2.6. Any other code is a matter for the operator.
    fn fault(&self) -> Fault {
        match &*self.code {
            "access_denied"
            | "invalid_grant"
            | "invalid_scope"
            | "invalid_target"
            | "invalid_authorization_details"
            | "insufficient_user_authentication"
            | "consent_required"
            | "interaction_required"
            | "login_required" => Fault::Agent,
            // RFC 8693 §2.2.2 uses this code for a subject token that is not accepted.
            "invalid_request" if self.delegated => Fault::Agent,
            "temporarily_unavailable" | "server_error" | "slow_down" => Fault::Unavailable,
            _ => Fault::Operator,
        }
    }

    fn advice(&self, server: &str) -> String {
        let code = &self.code;
        match self.fault() {
            Fault::Unavailable => try_later(server),
            Fault::Agent => format!(
                "The authorization server `{server}` does not allow this ({code}). Ask for less, or as another user."
            ),
            _ => format!(
                "The authorization server `{server}` refuses this proxy ({code}). Only an operator can change that: the client's \
                 registration there and the token in the proxy's configuration must agree."
            ),
        }
    }
}

impl fmt::Display for OAuthError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.status, self.code)?;
        if self.description.is_empty() { Ok(()) } else { write!(out, ": {}", self.description) }
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Token(why) => Self::UserToken(why),
            VerifyError::Issuer(error) => Self::Issuer(error),
        }
    }
}

impl ExchangeError {
    /// `server` is the authorization server's name in the configuration.
    pub(super) fn new(server: &str, failure: impl Into<Failure>) -> Self {
        Self(Arc::new(FailureAtServer { server: server.to_owned(), failure: failure.into() }))
    }

    /// The error for a token that a header field cannot hold.
    pub fn unusable_token() -> Self {
        Self::new("", IssuerError::Response("the access token has characters that a header cannot carry".to_owned()))
    }

    /// A stable name, for metrics and logs.
    pub fn kind(&self) -> &'static str {
        self.0.failure.kind()
    }

    /// Who can do something about it.
    pub fn fault(&self) -> Fault {
        self.0.failure.fault()
    }

    /// The server's error code, if it sent one. It is short and has no characters beyond `a-z A-Z
    /// 0-9 _ . -`.
    pub fn oauth_code(&self) -> Option<&str> {
        match &self.0.failure {
            Failure::Refused(error) => Some(&error.code),
            _ => None,
        }
    }

    /// The server's `Retry-After`, at most five minutes.
    pub fn retry_after(&self) -> Option<Duration> {
        match &self.0.failure {
            Failure::Issuer(error) => error.retry_after(),
            _ => None,
        }
    }

    /// The authorization server's name in the configuration; empty if none was asked.
    pub fn server(&self) -> &str {
        &self.0.server
    }

    /// How long the failure is served to later callers without another request.
    pub fn negative_ttl(&self) -> Duration {
        self.0.failure.negative_ttl()
    }

    /// What the agent can do. It contains no text of the server, which may quote what we sent.
    pub fn advice(&self) -> String {
        self.0.failure.advice(&self.0.server)
    }

    pub(super) fn is_code(&self, expected: &str) -> bool {
        self.oauth_code() == Some(expected)
    }
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.server.is_empty() {
            write!(out, "authorization server `{}`: ", self.0.server)?;
        }
        self.0.failure.fmt(out)
    }
}

impl std::error::Error for ExchangeError {}

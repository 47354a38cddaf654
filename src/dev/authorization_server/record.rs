//! The token requests that have been answered, for tests to check and for the demo to show.
use crate::dev::jwt;
use serde_json::Value;

/// The purpose of a token request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leg {
    /// The client's own credentials (RFC 6749 §4.4).
    ClientCredentials,
    /// An assertion that the agent signed itself, sent by RFC 8693 or RFC 7523.
    SelfIssued,
    /// Leg 1 of ID-JAG: a token exchange for the ID-JAG (RFC 8693).
    IdJagIssue,
    /// Leg 2 of ID-JAG: an identity provider's ID-JAG as the grant (RFC 7523).
    IdJagRedeem,
    /// Any other token exchange (RFC 8693).
    TokenExchange,
    /// Any other JWT bearer grant (RFC 7523).
    JwtBearer,
    /// Any other `grant_type`, or none.
    Other,
}

/// The fields of a form in their order. A parameter without a value is treated as absent (RFC 6749
/// §3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form(pub Vec<(String, String)>);

impl Form {
    pub(super) fn parse(body: &[u8]) -> Self {
        let fields = form_urlencoded::parse(body).into_owned().filter(|(_, value)| !value.is_empty());
        Self(fields.collect())
    }

    /// The value of a parameter, the first one if it is repeated.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter that may be repeated: `audience`, `resource`.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a parameter as a JWT, decoded but not verified.
    pub fn token(&self, name: &str) -> Option<jwt::Token> {
        jwt::decode(self.value(name)?).ok()
    }

    /// A parameter that is given twice although it must not be (RFC 6749 §3.2).
    pub(super) fn repeated(&self) -> Option<&str> {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        let repeatable = ["audience", "resource"];
        let twice = |name: &&&str| names.iter().filter(|other| other == name).count() > 1;
        names.iter().find(|name| !repeatable.contains(*name) && twice(name)).copied()
    }
}

/// A token request with its outcome.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The purpose of the request.
    pub leg: Leg,
    /// The parameters. They contain credentials and are for tests only.
    pub form: Form,
    /// The `Authorization` header field.
    pub authorization: Option<String>,
    /// The SPIFFE ID in the TLS client certificate.
    pub certificate_id: Option<String>,
    /// The id of the client, if it authenticated.
    pub client: Option<String>,
    /// The status of the answer.
    pub status: u16,
    /// The OAuth error code and the reason of a refusal. The reason may be more detailed than what
    /// the client was told.
    pub refusal: Option<(String, String)>,
    /// The body of the answer, if it is JSON.
    pub answer: Value,
}

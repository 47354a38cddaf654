//! What came in, for tests to assert on and for the demo to show.
use crate::dev::jwt;
use serde_json::Value;
use std::collections::VecDeque;

const KEPT: usize = 4096;

/// What a token request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leg {
    /// RFC 6749 §4.4.
    ClientCredentials,
    /// An assertion of the agent's own, by RFC 8693 or RFC 7523.
    SelfIssued,
    /// RFC 8693 that asks for an ID-JAG: leg 1.
    IdJagIssue,
    /// RFC 7523 with an identity provider's ID-JAG: leg 2.
    IdJagRedeem,
    /// Any other RFC 8693.
    TokenExchange,
    /// Any other RFC 7523.
    JwtBearer,
    /// Another `grant_type`, or none.
    Other,
}

/// The fields of a form, in order. A parameter without a value counts as absent (RFC 6749 §3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form(pub Vec<(String, String)>);

impl Form {
    pub(super) fn parse(body: &[u8]) -> Self {
        let fields = form_urlencoded::parse(body).into_owned().filter(|(_, value)| !value.is_empty());
        Self(fields.collect())
    }

    /// The value of a parameter; the first, if it is repeated.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter that may be repeated: `audience`, `resource`.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    }

    /// A parameter's value as a JWT, decoded and not verified.
    pub fn token(&self, name: &str) -> Option<jwt::Token> {
        jwt::decode(self.value(name)?).ok()
    }

    /// The parameter that is given twice and must not be (RFC 6749 §3.2).
    pub(super) fn repeated(&self) -> Option<&str> {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        let repeatable = ["audience", "resource"];
        let twice = |name: &&&str| names.iter().filter(|other| other == name).count() > 1;
        names.iter().find(|name| !repeatable.contains(*name) && twice(name)).copied()
    }
}

/// One token request and what became of it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// What it was for.
    pub leg: Leg,
    /// Its parameters. They hold credentials: for tests only.
    pub form: Form,
    /// The `Authorization` field.
    pub authorization: Option<String>,
    /// The SPIFFE ID of the TLS client certificate.
    pub certificate_id: Option<String>,
    /// The client, once it has proved who it is.
    pub client: Option<String>,
    /// The status of the answer.
    pub status: u16,
    /// Why it was refused: the OAuth error code and the reason, which may say more than the client was told.
    pub refusal: Option<(String, String)>,
    /// The answer's body, as JSON if it is.
    pub answer: Value,
}

#[derive(Debug, Default)]
pub(super) struct Record(VecDeque<Recorded>);

impl Record {
    pub(super) fn push(&mut self, recorded: Recorded) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(recorded);
    }

    /// The newest last.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Recorded> {
        self.0.iter()
    }
}

//! The JWTs that this proxy signs.
use super::actor::Actor;
use crate::clock::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Serialize, Serializer};
use std::time::Duration;

/// `typ` of an identity assertion (draft-ietf-oauth-identity-assertion-authz-grant §3.1).
pub const ID_JAG_TYP: &str = "oauth-id-jag+jwt";
/// `typ` of a client assertion (draft-ietf-oauth-rfc7523bis).
pub const CLIENT_ASSERTION_TYP: &str = "client-authentication+jwt";
/// The time from `iat` to `exp`, unless the configuration sets another.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// The longest time from `iat` to `exp`.
pub const MAX_LIFETIME: Duration = Duration::from_secs(60 * 60);
/// The lifetime of a client assertion. It is used for one request; a minute leaves room for clock
/// skew.
pub const CLIENT_ASSERTION_LIFETIME: Duration = Duration::from_secs(60);

/// The claims of an ID-JAG (draft-ietf-oauth-identity-assertion-authz-grant §3.1): `iss` asserts to
/// `aud` that the client `client_id` acts on behalf of `sub`, with `act` as the actor.
#[derive(Clone, Debug, Serialize)]
pub struct IdJag {
    /// The issuer of the assertion.
    pub iss: String,
    /// The subject that the client acts on behalf of.
    pub sub: String,
    /// The exact issuer identifier of the authorization server.
    pub aud: String,
    /// The client's ID at `aud`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Unique, because a server may accept each assertion only once.
    pub jti: String,
    /// Whole seconds since the epoch.
    #[serde(serialize_with = "numeric_date")]
    pub iat: Timestamp,
    /// Whole seconds since the epoch.
    #[serde(serialize_with = "numeric_date")]
    pub exp: Timestamp,
    /// Resource identifiers (RFC 8707), sent as a string if there is one and as an array otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "one_or_many")]
    pub resource: Vec<String>,
    /// The scopes, separated by spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The chain of actors that act for `sub`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<Actor>,
}

/// The claims of a client assertion for `private_key_jwt` (RFC 7523 §3).
#[derive(Clone, Debug, Serialize)]
pub struct ClientAssertion {
    iss: String,
    sub: String,
    aud: String,
    jti: String,
    #[serde(serialize_with = "numeric_date")]
    iat: Timestamp,
    #[serde(serialize_with = "numeric_date")]
    exp: Timestamp,
}

impl ClientAssertion {
    /// Claims for one request, with a new `jti`.
    pub fn new(client_id: &str, audience: &str, now: Timestamp) -> Self {
        Self {
            iss: client_id.to_owned(),
            sub: client_id.to_owned(),
            aud: audience.to_owned(),
            jti: new_jti(),
            iat: now,
            exp: now.plus(CLIENT_ASSERTION_LIFETIME),
        }
    }
}

/// A random `jti` of 128 bits, in base64url.
pub fn new_jti() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .expect("the library's random generator fails only where the system has no entropy at all");
    URL_SAFE_NO_PAD.encode(bytes)
}

fn numeric_date<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(at.unix_seconds())
}

fn one_or_many<S: Serializer>(values: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    match values {
        [one] => serializer.serialize_str(one),
        many => many.serialize(serializer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn id_jag_serializes_as_in_the_draft() {
        let mut claims = IdJag {
            iss: "https://idp.acme.example".into(),
            sub: "U019488227".into(),
            aud: "https://as.chat.example".into(),
            client_id: Some("agent-client-1".into()),
            jti: "idjag-0001".into(),
            iat: Timestamp::from_unix_seconds(1_767_225_600),
            exp: Timestamp::from_unix_seconds(1_767_225_900),
            resource: vec!["https://api.chat.example/".into()],
            scope: Some("chat.read chat.history".into()),
            act: None,
        };
        // The payload of vector C1, byte for byte.
        let c1 = crate::jose::vectors::payload(crate::jose::vectors::C1);
        assert_eq!(serde_json::to_string(&claims).expect("json"), c1);
        claims.resource.push("https://b".into());
        claims.scope = None;
        let text = serde_json::to_string(&claims).expect("json");
        assert!(
            text.contains(r#""resource":["https://api.chat.example/","https://b"]"#) && !text.contains("scope"),
            "{text}"
        );
    }

    #[test]
    fn client_assertion_has_the_claims_of_rfc_7523() {
        let now = Timestamp::from_unix_seconds(1_767_225_600);
        let claims = serde_json::to_value(ClientAssertion::new("c", "https://as", now)).expect("json");
        assert_eq!((&claims["iss"], &claims["sub"], &claims["aud"]), (&"c".into(), &"c".into(), &"https://as".into()));
        assert_eq!((&claims["iat"], &claims["exp"]), (&1_767_225_600_u64.into(), &1_767_225_660_u64.into()));
    }

    #[test]
    fn jti_is_unique() {
        let many: HashSet<_> = (0..1000).map(|_| new_jti()).collect();
        assert_eq!(many.len(), 1000);
        assert!(many.iter().all(|jti| jti.len() == 22));
    }
}

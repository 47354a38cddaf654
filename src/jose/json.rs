//! Reads untrusted JSON: only an object, and no member twice, because two parsers may pick
//! different ones (RFC 7519 §4).
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Why a text is not the expected JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is not JSON, or it is nested too deeply.
    #[error("is not JSON")]
    Syntax,
    /// It is JSON, but not an object.
    #[error("is not a JSON object")]
    NotAnObject,
    /// A member name occurs twice in one object.
    #[error("has a member twice")]
    Duplicate,
}

/// Reads one JSON object. Depth is bounded by `serde_json` (128); the caller bounds the size.
pub fn object(bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
    match serde_json::from_slice::<UniqueMembers>(bytes) {
        Ok(UniqueMembers(Value::Object(members))) => Ok(members),
        Ok(_) => Err(JsonError::NotAnObject),
        Err(error) if error.to_string().starts_with(DUPLICATE) => Err(JsonError::Duplicate),
        Err(_) => Err(JsonError::Syntax),
    }
}

const DUPLICATE: &str = "duplicate member";

/// A value in which no object, at any depth, repeats a member.
struct UniqueMembers(Value);

impl<'de> Deserialize<'de> for UniqueMembers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueMembersVisitor).map(Self)
    }
}

struct UniqueMembersVisitor;

impl<'de> Visitor<'de> for UniqueMembersVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(UniqueMembers(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let UniqueMembers(value) = map.next_value()?;
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom(DUPLICATE));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_member_is_refused_at_any_depth() {
        assert_eq!(object(br#"{"iss":"a","iss":"b"}"#), Err(JsonError::Duplicate));
        assert_eq!(object(br#"{"act":{"sub":"a","sub":"a"}}"#), Err(JsonError::Duplicate));
        assert_eq!(object(br#"{"a":[{"b":1,"b":1}]}"#), Err(JsonError::Duplicate));
        assert_eq!(object(br#"{"a":{"b":1},"b":[{"b":1},{"b":-2.5}]}"#).expect("once each").len(), 2);
    }

    #[test]
    fn anything_but_one_object_is_refused() {
        for (text, error) in [
            ("[]", JsonError::NotAnObject),
            ("\"x\"", JsonError::NotAnObject),
            ("", JsonError::Syntax),
            ("{} {}", JsonError::Syntax),
            ("{\"a\":1,}", JsonError::Syntax),
            ("\u{feff}{}", JsonError::Syntax),
        ] {
            assert_eq!(object(text.as_bytes()), Err(error), "{text}");
        }
        let deep = "{\"a\":".repeat(100_000);
        assert_eq!(object(deep.as_bytes()), Err(JsonError::Syntax));
    }
}

//! JSON from strangers: an object or nothing, and no member twice, since two readers may take different ones (JB-7).
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Why a text is not the JSON object that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON, or nested too deeply.
    #[error("is not JSON")]
    Syntax,
    /// JSON, but an array, a string or the like.
    #[error("is not a JSON object")]
    NotAnObject,
    /// An object in which a member name occurs twice.
    #[error("has a member twice")]
    Duplicate,
}

/// Reads one JSON object. Depth is bounded by `serde_json` (128); the caller bounds the size.
pub fn object(bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
    match serde_json::from_slice::<Strict>(bytes) {
        Ok(Strict(Value::Object(members))) => Ok(members),
        Ok(_) => Err(JsonError::NotAnObject),
        Err(error) if error.to_string().starts_with(DUPLICATE) => Err(JsonError::Duplicate),
        Err(_) => Err(JsonError::Syntax),
    }
}

const DUPLICATE: &str = "duplicate member";

/// A value none of whose objects, at any depth, repeats a member.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
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
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let Strict(value) = map.next_value()?;
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
    fn a_member_twice_is_refused_at_any_depth() {
        assert_eq!(object(br#"{"iss":"a","iss":"b"}"#), Err(JsonError::Duplicate));
        assert_eq!(object(br#"{"act":{"sub":"a","sub":"a"}}"#), Err(JsonError::Duplicate));
        assert_eq!(object(br#"{"a":[{"b":1,"b":1}]}"#), Err(JsonError::Duplicate));
        assert_eq!(object(br#"{"a":{"b":1},"b":[{"b":1},{"b":-2.5}]}"#).expect("once each").len(), 2);
    }

    #[test]
    fn only_one_object_and_nothing_else() {
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

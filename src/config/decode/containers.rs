//! Optional values, lists and mappings of the file format's types.
use super::{Decode, Decoder, Definitions, Leaf};
use crate::config::problem::{Position, Step};
use crate::config::tree::{Node, Value, printable};
use serde_json::json;

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        // A value that cannot be decoded is treated as absent; its error is in the report.
        Some(T::decode(node, decoder))
    }

    fn absent(_: Position, _: &mut Decoder<'_>) -> Option<Self> {
        Some(None)
    }

    fn expected() -> String {
        T::expected()
    }

    fn describe(definitions: &mut Definitions) -> serde_json::Value {
        T::describe(definitions)
    }

    fn may_be_absent() -> bool {
        true
    }
}

impl<T: Decode> Decode for Vec<T> {
    /// Decodes a list. Items that cannot be decoded are left out.
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let Value::List(items) = &node.value else {
            let problem = decoder.wrong_kind(node, &Self::expected());
            if matches!(node.value, Value::Scalar { .. }) {
                problem.help("put it in square brackets");
            }
            return None;
        };
        let mut decoded = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            decoded.extend(decoder.within(Step::Index(index), |decoder| T::decode(item, decoder)));
        }
        Some(decoded)
    }

    fn expected() -> String {
        format!("a list, each item {}", T::expected())
    }

    fn describe(definitions: &mut Definitions) -> serde_json::Value {
        json!({ "type": "array", "items": T::describe(definitions) })
    }
}

/// An item of a list with its index in the file, which may differ from its index among the items
/// that could be decoded.
#[derive(Clone, Debug)]
pub(crate) struct Numbered<T> {
    pub(crate) index: usize,
    pub(crate) item: T,
}

impl<T: Decode> Decode for Numbered<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let index = match decoder.path.0.last() {
            Some(Step::Index(index)) => *index,
            _ => 0,
        };
        T::decode(node, decoder).map(|item| Self { index, item })
    }

    fn expected() -> String {
        T::expected()
    }

    fn describe(definitions: &mut Definitions) -> serde_json::Value {
        T::describe(definitions)
    }
}

/// One value, or a list of values.
#[derive(Clone, Debug)]
pub(crate) struct OneOrMore<T>(pub(crate) Vec<T>);

impl<T: Decode> Decode for OneOrMore<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match &node.value {
            Value::List(_) => Vec::decode(node, decoder).map(Self),
            _ => T::decode(node, decoder).map(|item| Self(vec![item])),
        }
    }

    fn expected() -> String {
        format!("{}, or a list of them", T::expected())
    }

    fn describe(definitions: &mut Definitions) -> serde_json::Value {
        let item = T::describe(definitions);
        json!({ "anyOf": [item, { "type": "array", "items": item }] })
    }
}

/// A mapping whose keys are chosen by the user, in the order of the file.
#[derive(Clone, Debug)]
pub(crate) struct Mapping<K, T>(pub(crate) Vec<(K, T)>);

impl<K: Leaf, T: Decode> Decode for Mapping<K, T> {
    /// Decodes a mapping. Entries that cannot be decoded are left out.
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            decoder.wrong_kind(node, &Self::expected());
            return None;
        };
        let mut decoded = Vec::with_capacity(entries.len());
        for entry in entries {
            let both = decoder.within(Step::Key(printable(&entry.key)), |decoder| {
                let key = K::parse(&entry.key);
                if let Err(reason) = &key {
                    decoder.error(entry.at, format!("expected {} as a key: {reason}", K::EXPECTED));
                }
                let value = T::decode(&entry.value, decoder);
                Some((key.ok()?, value?))
            });
            decoded.extend(both);
        }
        Some(Self(decoded))
    }

    fn expected() -> String {
        format!("a mapping from {} to {}", K::EXPECTED, T::expected())
    }

    fn describe(definitions: &mut Definitions) -> serde_json::Value {
        json!({ "type": "object", "propertyNames": K::schema(), "additionalProperties": T::describe(definitions) })
    }
}

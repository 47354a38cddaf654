//! The tree of a file: every value and every key knows its position, and a scalar keeps the text
//! that was written (`007` and `2026-11` are not numbers until a number is expected).
mod reader;

pub(crate) use reader::{MAX_BYTES, parse};

use super::problem::{KeyPath, Position, Step};

/// A value and its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar. It is `plain` if it was written without quotes, so that `true` and `80` may be a
    /// boolean and a number.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<MapEntry>),
}

/// A key of a mapping, its position, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapEntry {
    pub(crate) key: String,
    pub(crate) at: Position,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn entry(&self, key: &str) -> Option<&MapEntry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The value at `path`, if the file has it.
    pub(crate) fn find(&self, path: &KeyPath) -> Option<&Self> {
        path.0.iter().try_fold(self, |node, step| node.inside(step))
    }

    /// The keys of a mapping, in the order of the file; empty for any other value.
    pub(crate) fn keys(&self) -> Vec<String> {
        match &self.value {
            Value::Map(entries) => entries.iter().map(|entry| entry.key.clone()).collect(),
            _ => Vec::new(),
        }
    }

    fn inside(&self, step: &Step) -> Option<&Self> {
        match (step, &self.value) {
            (Step::Key(key), _) => self.entry(key).map(|entry| &entry.value),
            (Step::Index(index), Value::List(items)) => items.get(*index),
            (Step::Index(_), _) => None,
        }
    }

    /// The position of the value at `path`, or of the closest value around it if the file does not
    /// have it.
    pub(crate) fn position(&self, path: &KeyPath) -> Position {
        let mut node = self;
        for step in &path.0 {
            let Some(inner) = node.inside(step) else { break };
            node = inner;
        }
        node.at
    }

    /// Moves the value to `at`. Used for defaults, which have no position of their own.
    pub(crate) fn moved_to(mut self, at: Position) -> Self {
        self.at = at;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| *item = item.clone().moved_to(at)),
            Value::Map(entries) => entries.iter_mut().for_each(|entry| {
                entry.at = at;
                entry.value = entry.value.clone().moved_to(at);
            }),
            Value::Null | Value::Scalar { .. } => {}
        }
        self
    }

    /// Names the kind of value, for the sentence "expected …, found …". The text of a scalar is not
    /// shown.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Converts the value to JSON, for the defaults in the schema.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Scalar { text, plain: true } => match text.as_str() {
                "true" => true.into(),
                "false" => false.into(),
                _ => text.parse::<u64>().map_or_else(|_| text.as_str().into(), Into::into),
            },
            Value::Scalar { text, plain: false } => text.as_str().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect(),
        }
    }
}

/// Makes a key safe to show: short, and without control characters.
pub(crate) fn printable(text: &str) -> String {
    let mut shown: String = text.chars().take(60).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(60).is_some() {
        shown.push('…');
    }
    shown
}

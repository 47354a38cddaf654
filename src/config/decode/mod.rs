//! Decodes the tree into the file types, and describes the file types as JSON Schema. Each type is
//! described once, by `record!` or `choice!`, and both are generated from that description.
//!
//! Decoding never stops at the first problem. A field that cannot be decoded is treated as absent,
//! so that the rest of its record is still checked; only a required field that is missing discards
//! its record.
mod containers;
mod keys;
mod leaf;

pub(crate) use containers::{Mapping, Numbered, OneOrMore};
pub(crate) use keys::{Choice, Fields};
pub(crate) use leaf::Leaf;

use super::problem::{KeyPath, Position, Problem, Report, Step};
use super::tree::{self, Node, Value};
use serde_json::Map;

/// Reads one environment variable.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The path of the value that is being decoded, and the problems found so far.
pub(crate) struct Decoder<'a> {
    pub(crate) report: &'a mut Report,
    environment: Environment<'a>,
    path: KeyPath,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(report: &'a mut Report, environment: Environment<'a>) -> Self {
        Self { report, environment, path: KeyPath::default() }
    }

    pub(crate) fn within<T>(&mut self, step: Step, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.0.push(step);
        let result = read(self);
        self.path.0.pop();
        result
    }

    /// Reports an error about the value that is being decoded.
    pub(crate) fn error(&mut self, at: Position, message: impl Into<String>) -> &mut Problem {
        self.report.error(at, &self.path, message)
    }

    fn wrong_kind(&mut self, node: &Node, expected: &str) -> &mut Problem {
        let message = format!("expected {expected}, found {}", node.kind());
        let problem = self.error(node.at, message);
        if node.value == Value::Null { problem.help("give it a value or remove the key") } else { problem }
    }
}

/// The JSON Schemas of the types that have names.
pub(crate) type Definitions = Map<String, serde_json::Value>;

/// A type that the file format has.
pub(crate) trait Decode: Sized {
    /// Decodes a value. Returns `None` after it has reported what is wrong.
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self>;

    /// The value of a key that is missing and has no default.
    fn absent(at: Position, decoder: &mut Decoder<'_>) -> Option<Self> {
        decoder.error(at, format!("this key is required: {}", Self::expected()));
        None
    }

    /// Describes a valid value in words: "a duration such as 30s".
    fn expected() -> String;

    /// Returns the JSON Schema. A type that has a name is added to the definitions and referred to.
    fn describe(definitions: &mut Definitions) -> serde_json::Value;

    /// Whether the key may be left out although it has no default.
    fn may_be_absent() -> bool {
        false
    }

    /// The value of a choice that is written as its name alone: all its defaults.
    fn decode_bare_name(at: Position, decoder: &mut Decoder<'_>) -> Option<Self> {
        decoder.error(at, format!("the name alone is not enough: it needs {}", Self::expected()));
        None
    }

    /// Whether the bare name of a choice is enough, so that [`Decode::decode_bare_name`] succeeds.
    fn has_only_defaults() -> bool {
        false
    }
}

/// Parses a default that was given to `record!`.
pub(crate) fn default_node(yaml: &str) -> Node {
    let mut report = Report::new(std::path::Path::new("default"), yaml);
    tree::parse(yaml, &mut report).expect("defaults are valid YAML, which a test checks")
}

/// The known word that `word` most likely misspells.
pub(crate) fn closest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    let word: String = word.chars().take(64).collect::<String>().to_lowercase().replace('-', "_");
    let scored = known.iter().map(|candidate| (strsim::damerau_levenshtein(&word, candidate), *candidate));
    let (distance, candidate) = scored.min_by_key(|(distance, _)| *distance)?;
    let close = distance <= 2.max(candidate.len() / 3) && distance < candidate.len();
    let begun = word.len() >= 3 && (candidate.starts_with(&word) || word.starts_with(candidate));
    (close || begun).then_some(candidate)
}

/// Lists words as in "`a`, `b` or `c`".
pub(crate) fn list_words(words: &[&str], last: &str) -> String {
    match words {
        [] => "no keys".to_owned(),
        [only] => format!("`{only}`"),
        [first @ .., end] => {
            let first: Vec<String> = first.iter().map(|word| format!("`{word}`")).collect();
            format!("{} {last} `{end}`", first.join(", "))
        }
    }
}

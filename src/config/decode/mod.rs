//! From the tree to the file types, and from the file types to the JSON Schema. Each type is described once, by `record!` or
//! `choice!`, and both come from that description.
//!
//! Decoding never stops at the first problem. A field that cannot be read counts as absent afterwards, so that the rest of its
//! record is still looked at; only a required field takes its record with it.
mod containers;
mod keys;
mod leaf;

pub(crate) use containers::{Mapping, Numbered, OneOrMore};
pub(crate) use keys::{Chosen, Fields};
pub(crate) use leaf::Leaf;

use super::problem::{KeyPath, Position, Problem, Report, Step};
use super::tree::{self, Node, Value};
use serde_json::Map;

/// Reads one variable of the environment.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is being decoded, and what was found so far.
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

/// The JSON Schemas of the named types, by name.
pub(crate) type Definitions = Map<String, serde_json::Value>;

/// A type of the file format.
pub(crate) trait Decode: Sized {
    /// `None`: what is wrong is in the report.
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self>;

    /// The value of a key that is not there and has no default.
    fn absent(at: Position, decoder: &mut Decoder<'_>) -> Option<Self> {
        decoder.error(at, format!("this key is required: {}", Self::expected()));
        None
    }

    /// What belongs here, in words: "a duration such as 30s".
    fn expected() -> String;

    /// Its JSON Schema; a type with a name of its own goes to the definitions and is referred to.
    fn describe(definitions: &mut Definitions) -> serde_json::Value;

    /// Whether a mapping may leave the key out although no default is given for it.
    fn may_be_absent() -> bool {
        false
    }

    /// The value that the bare name of a choice stands for: all its defaults.
    fn by_name_alone(at: Position, decoder: &mut Decoder<'_>) -> Option<Self> {
        decoder.error(at, format!("the name alone is not enough: it needs {}", Self::expected()));
        None
    }

    /// Whether [`Decode::by_name_alone`] succeeds.
    fn has_only_defaults() -> bool {
        false
    }
}

/// The tree of a default that `record!` was given.
pub(crate) fn default_node(yaml: &str) -> Node {
    let mut report = Report::new(std::path::Path::new("default"), yaml);
    tree::parse(yaml, &mut report).expect("a default is YAML, which a test reads through")
}

/// The known word that `word` is probably a misspelling of.
pub(crate) fn closest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    let word: String = word.chars().take(64).collect::<String>().to_lowercase().replace('-', "_");
    let scored = known.iter().map(|candidate| (strsim::damerau_levenshtein(&word, candidate), *candidate));
    let (distance, candidate) = scored.min_by_key(|(distance, _)| *distance)?;
    let close = distance <= 2.max(candidate.len() / 3) && distance < candidate.len();
    let begun = word.len() >= 3 && (candidate.starts_with(&word) || word.starts_with(candidate));
    (close || begun).then_some(candidate)
}

/// "`a`, `b` or `c`"
pub(crate) fn list_words(words: &[&str], last: &str) -> String {
    match words {
        [] => "nothing in it".to_owned(),
        [only] => format!("`{only}`"),
        [first @ .., end] => {
            let first: Vec<String> = first.iter().map(|word| format!("`{word}`")).collect();
            format!("{} {last} `{end}`", first.join(", "))
        }
    }
}

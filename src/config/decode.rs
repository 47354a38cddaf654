//! From the tree to the file types, and from the file types to the JSON Schema. Each type is described once, by `record!` or
//! `choice!`, and both come from that description.
//!
//! Decoding never stops at the first problem. A field that cannot be read counts as absent afterwards, so that the rest of its
//! record is still looked at; only a required field takes its record with it.
use super::problem::{KeyPath, Position, Problem, Report, Step};
use super::tree::{self, Node, Value, printable};
use serde_json::{Map, json};

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

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        // What cannot be read counts as absent; the report knows.
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
    /// Items that cannot be read are left out.
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

/// An item of a list and its index in the file, which is not its index among the items that could be read.
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

/// One value, or a list of them.
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
        format!("{}, or a list of such", T::expected())
    }

    fn describe(definitions: &mut Definitions) -> serde_json::Value {
        let item = T::describe(definitions);
        json!({ "anyOf": [item, { "type": "array", "items": item }] })
    }
}

/// A mapping whose keys the file chooses, in the order of the file.
#[derive(Clone, Debug)]
pub(crate) struct Mapping<K, T>(pub(crate) Vec<(K, T)>);

impl<K: Leaf, T: Decode> Decode for Mapping<K, T> {
    /// Entries that cannot be read are left out.
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

/// A value that is written as one word or number.
pub(crate) trait Leaf: Sized {
    /// "a duration such as 30s"
    const EXPECTED: &'static str;
    /// Whether the value is a secret or says where one is. Then the environment has no say in it, and it is never shown.
    const SECRET: bool = false;
    /// Whether quotes would make it another kind of value, as they do with numbers and booleans.
    const UNQUOTED: bool = false;

    /// From the text, or why not; the reason does not repeat the text.
    fn parse(text: &str) -> Result<Self, String>;

    /// Its JSON Schema, without a description.
    fn schema() -> serde_json::Value {
        json!({ "type": "string" })
    }
}

impl<L: Leaf> Decode for L {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let Value::Scalar { text, plain } = &node.value else {
            decoder.wrong_kind(node, L::EXPECTED);
            return None;
        };
        let named = text.contains("${");
        if named && L::SECRET {
            let problem =
                decoder.error(node.at, "the environment is not read for a field that holds or names a secret");
            problem.help("write the path of the file itself").unquoted();
            return None;
        }
        if L::UNQUOTED && !plain && !named {
            decoder.error(node.at, format!("expected {}, found text in quotes", L::EXPECTED)).help("remove the quotes");
            return None;
        }
        let expanded = expand(text, decoder.environment);
        let result = expanded.and_then(|text| L::parse(&text));
        if let Err(reason) = &result {
            // The text as written: what a variable holds may not be fit to be shown.
            let found = if L::SECRET { String::new() } else { format!(", found `{}`", printable(text)) };
            let problem = decoder.error(node.at, format!("expected {}{found}: {reason}", L::EXPECTED));
            if L::SECRET {
                problem.unquoted();
            }
        }
        result.ok()
    }

    fn expected() -> String {
        L::EXPECTED.to_owned()
    }

    fn describe(definitions: &mut Definitions) -> serde_json::Value {
        let schema = L::schema();
        if L::SECRET || schema == json!({ "type": "string" }) {
            return schema;
        }
        definitions.entry("Environment").or_insert_with(|| {
            json!({
                "description": "A value with `${NAME}` in it, which is read from the environment.",
                "type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}",
            })
        });
        json!({ "anyOf": [schema, { "$ref": "#/$defs/Environment" }] })
    }
}

/// Replaces `${NAME}` by what the environment has; `$${` stands for a `${` that is meant.
fn expand(text: &str, environment: Environment<'_>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        rest = &from[2..];
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            continue;
        }
        expanded.push_str(before);
        let (name, after) = rest.split_once('}').ok_or("a `${` without its `}`")?;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err("`${NAME}` holds one variable's name and nothing else".into());
        }
        expanded.push_str(&environment(name).ok_or_else(|| format!("the environment has no variable `{name}`"))?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// A mapping with known keys, while `record!` takes them out one by one.
pub(crate) struct Fields<'n> {
    node: &'n Node,
    known: &'static [&'static str],
}

impl<'n> Fields<'n> {
    /// Refuses what is not a mapping; reports keys that are not known.
    pub(crate) fn open(node: &'n Node, decoder: &mut Decoder<'_>, known: &'static [&'static str]) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            let expected = format!("a mapping with {}", list_words(known, "and"));
            decoder.wrong_kind(node, &expected);
            return None;
        };
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            decoder.within(Step::Key(printable(&entry.key)), |decoder| unknown_key(entry, decoder, known));
        }
        Some(Self { node, known })
    }

    /// The value of a key; its default, which is YAML, where the file does not have it or has it wrong.
    pub(crate) fn take<T: Decode>(
        &self,
        key: &'static str,
        default: Option<&str>,
        decoder: &mut Decoder<'_>,
    ) -> Option<T> {
        debug_assert!(self.known.contains(&key));
        decoder.within(Step::Key(key.to_owned()), |decoder| {
            let written = self.node.entry(key).map(|entry| T::decode(&entry.value, decoder));
            match (written, default) {
                (Some(Some(value)), _) => Some(value),
                (_, Some(default)) => T::decode(&default_node(default).moved_to(self.node.at), decoder),
                (Some(None), None) => None,
                (None, None) => T::absent(self.node.at, decoder),
            }
        })
    }
}

fn unknown_key(entry: &tree::Entry, decoder: &mut Decoder<'_>, known: &[&str]) {
    const SECRETIVE: [&str; 6] = ["secret", "password", "passphrase", "private", "credential", "key"];
    let lowercase = entry.key.to_lowercase();
    let problem = decoder.error(entry.at, format!("unknown key `{}`", printable(&entry.key)));
    if SECRETIVE.iter().any(|word| lowercase.contains(word)) {
        problem.unquoted();
    }
    match closest(&entry.key, known) {
        Some(similar) => problem.help(format!("did you mean `{similar}`?")),
        None if known.is_empty() => problem.help("there are no keys here"),
        None => problem.help(format!("the keys here are {}", list_words(known, "and"))),
    };
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

/// How a choice was written: which of its names, and the node of its content, if it has one.
pub(crate) struct Chosen<'n> {
    pub(crate) name: &'static str,
    pub(crate) at: Position,
    content: Option<&'n Node>,
}

impl<'n> Chosen<'n> {
    /// Reads `name` or `{ name: … }`.
    pub(crate) fn open(node: &'n Node, decoder: &mut Decoder<'_>, names: &'static [&'static str]) -> Option<Self> {
        let expected = || list_words(names, "or");
        let (written, at, content) = match &node.value {
            Value::Scalar { text, .. } => (text, node.at, None),
            Value::Map(entries) => match entries.as_slice() {
                [entry] => (&entry.key, entry.at, Some(&entry.value)),
                [] => {
                    decoder.error(node.at, format!("expected one of {}, found an empty mapping", expected()));
                    return None;
                }
                [_, second, ..] => {
                    let problem = decoder.error(second.at, "a choice has one key, this is a second one");
                    problem.help(format!("choose one of {}", expected()));
                    return None;
                }
            },
            Value::Null | Value::List(_) => {
                decoder.wrong_kind(node, &format!("one of {}", expected()));
                return None;
            }
        };
        let Some(name) = names.iter().copied().find(|name| name == written) else {
            let problem = decoder.error(at, format!("expected one of {}, found `{}`", expected(), printable(written)));
            if let Some(similar) = closest(written, names) {
                problem.help(format!("did you mean `{similar}`?"));
            }
            return None;
        };
        Some(Self { name, at, content })
    }

    /// What belongs to the chosen name.
    pub(crate) fn content<T: Decode>(&self, decoder: &mut Decoder<'_>) -> Option<T> {
        match self.content {
            Some(node) => decoder.within(Step::Key(self.name.to_owned()), |decoder| T::decode(node, decoder)),
            None => T::by_name_alone(self.at, decoder),
        }
    }
}

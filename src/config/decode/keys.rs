//! Mappings with known keys: the records and the choices of the file format.
use super::{Decode, Decoder, closest, default_node, list_words};
use crate::config::problem::{Position, Step};
use crate::config::tree::{MapEntry, Node, Value, printable};

/// A mapping with known keys, from which `record!` takes the values one by one.
pub(crate) struct Fields<'n> {
    node: &'n Node,
    known: &'static [&'static str],
}

impl<'n> Fields<'n> {
    /// Refuses anything but a mapping, and reports unknown keys.
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

    /// Returns the value of a key. If it is missing or invalid, `default` (YAML text) takes its
    /// place; without a default, a missing key is [`Decode::absent`].
    pub(crate) fn take<T: Decode>(
        &self,
        key: &'static str,
        default: Option<&str>,
        decoder: &mut Decoder<'_>,
    ) -> Option<T> {
        debug_assert!(self.known.contains(&key));
        decoder.within(Step::Key(key.to_owned()), |decoder| {
            let decoded = self.node.entry(key).map(|entry| T::decode(&entry.value, decoder));
            match (decoded, default) {
                (Some(Some(value)), _) => Some(value),
                (_, Some(default)) => T::decode(&default_node(default).moved_to(self.node.at), decoder),
                (Some(None), None) => None,
                (None, None) => T::absent(self.node.at, decoder),
            }
        })
    }
}

fn unknown_key(entry: &MapEntry, decoder: &mut Decoder<'_>, known: &[&str]) {
    const SECRET_WORDS: [&str; 6] = ["secret", "password", "passphrase", "private", "credential", "key"];
    if decoder.report.is_full() {
        return;
    }
    let lowercase = entry.key.to_lowercase();
    let problem = decoder.error(entry.at, format!("unknown key `{}`", printable(&entry.key)));
    if SECRET_WORDS.iter().any(|word| lowercase.contains(word)) {
        problem.without_snippet();
    }
    match closest(&entry.key, known) {
        Some(similar) => problem.help(format!("did you mean `{similar}`?")),
        None if known.is_empty() => problem.help("no keys are allowed here"),
        None => problem.help(format!("the keys here are {}", list_words(known, "and"))),
    };
}

/// A choice as the file has it: one of its names, and the node of its content, if there is one.
pub(crate) struct Choice<'n> {
    pub(crate) name: &'static str,
    pub(crate) at: Position,
    content: Option<&'n Node>,
}

impl<'n> Choice<'n> {
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
                    let problem = decoder.error(second.at, "only one key is allowed here, and this is the second");
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

    /// Decodes the content of the chosen name.
    pub(crate) fn content<T: Decode>(&self, decoder: &mut Decoder<'_>) -> Option<T> {
        match self.content {
            Some(node) => decoder.within(Step::Key(self.name.to_owned()), |decoder| T::decode(node, decoder)),
            None => T::decode_bare_name(self.at, decoder),
        }
    }
}

//! The documents of a YAML text, read as kubectl reads them: YAML 1.1, where `no` is false and
//! `0644` is octal.
use super::error::ManifestError;
use crate::kubernetes::workload::WorkloadKind;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_yaml::DuplicateKeyPolicy;
use std::borrow::Cow;
use std::fmt;

/// The text of one document, from its `---` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document<'t> {
    text: &'t str,
    line: usize,
    /// The document has no `---`: it follows a `...` or another JSON object.
    is_bare: bool,
}

/// Splits `text` into documents, which concatenated are `text` again. A line that begins with `---`
/// begins a document and a line of `...` ends one (YAML 1.2.2 §9.1). Of several JSON objects in a
/// row each is a document, as for kubectl.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let (mut documents, mut start, mut start_line, mut at) = (Vec::new(), 0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if at > start && is_start(line) && !is_preamble(&text[start..at]) {
            cut(&text[start..at], start_line, &mut documents);
            (start, start_line) = (at, index + 1);
        }
        at += line.len();
        if is_end(line) {
            cut(&text[start..at], start_line, &mut documents);
            (start, start_line) = (at, index + 2);
        }
    }
    if start < text.len() || documents.is_empty() {
        cut(&text[start..], start_line, &mut documents);
    }
    documents
}

/// Pushes `text` as one document, or as several if it is JSON objects in a row.
fn cut<'t>(text: &'t str, line: usize, documents: &mut Vec<Document<'t>>) {
    let (mut rest, mut line) = (text, line);
    for end in objects(text) {
        let (object, after) = rest.split_at(end);
        documents.push(Document { text: object, line, is_bare: !documents.is_empty() });
        (rest, line) = (after, line + object.matches('\n').count());
    }
    let is_bare = !documents.is_empty() && !rest.lines().next().is_some_and(is_start);
    documents.push(Document { text: rest, line, is_bare });
}

/// Returns the lengths of all JSON objects but the last if `text` consists of several, and nothing
/// otherwise.
fn objects(text: &str) -> Vec<usize> {
    let content = without_byte_order_mark(text);
    if !content.trim_start().starts_with('{') {
        return Vec::new();
    }
    let mut stream = serde_json::Deserializer::from_str(content).into_iter::<IgnoredAny>();
    let (mut ends, mut last) = (Vec::new(), 0);
    while let Some(object) = stream.next() {
        if object.is_err() {
            return Vec::new();
        }
        ends.push(stream.byte_offset() - last);
        last = stream.byte_offset();
    }
    if let Some(first) = ends.first_mut() {
        *first += text.len() - content.len();
    }
    ends.pop();
    ends
}

/// A file written on Windows begins with a byte order mark, which is inside the text when files are
/// concatenated.
fn without_byte_order_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn is_start(line: &str) -> bool {
    without_byte_order_mark(line)
        .strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn is_end(line: &str) -> bool {
    line.strip_prefix("...").is_some_and(|rest| rest.trim().is_empty() || rest.starts_with(char::is_whitespace))
}

/// Whether `text` consists of directives, which belong to the document that follows.
fn is_preamble(text: &str) -> bool {
    let is_directive = |line: &str| without_byte_order_mark(line).starts_with('%');
    let is_empty = |line: &str| line.trim().is_empty() || line.starts_with('#');
    text.lines().any(is_directive) && text.lines().all(|line| is_directive(line) || is_empty(line))
}

/// A syntax error in a document.
struct SyntaxError {
    problem: String,
    location: Option<Location>,
}

/// A position within a document, counted from 1.
struct Location {
    line: usize,
    column: u64,
}

impl<'t> Document<'t> {
    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Whether the document needs a `---` once the document before it has been written anew.
    pub(super) fn is_bare(&self) -> bool {
        self.is_bare && !self.is_json()
    }

    fn is_json(&self) -> bool {
        serde_json::from_str::<IgnoredAny>(without_byte_order_mark(self.text)).is_ok()
    }

    /// Parses the document. The value is null if there is nothing but comments.
    pub(super) fn parse(&self) -> Result<Value, ManifestError> {
        parse(self.text, DuplicateKeyPolicy::Error).map_err(|error| match error.location {
            Some(Location { line, column }) => {
                self.error(format!("{}, at line {}, column {column}", error.problem, self.line - 1 + line))
            }
            None => self.error(error.problem),
        })
    }

    fn error(&self, problem: impl fmt::Display) -> ManifestError {
        ManifestError { line: self.line, problem: problem.to_string() }
    }

    /// Finds the kind of a document that cannot be read in full, if its text shows that it contains
    /// no workload.
    pub(super) fn guess_kind(&self) -> Option<String> {
        if let Ok(value) = parse(self.text, DuplicateKeyPolicy::LastWins) {
            let kind = value.get("kind").and_then(Value::as_str).filter(|_| !has_workload(&value))?;
            return Some(kind.to_owned());
        }
        let mut own = None;
        for (at, key) in self.text.match_indices("kind") {
            let rest = self.text[at + key.len()..].trim_start_matches(['"', '\'']).trim_start_matches(' ');
            let Some(rest) = rest.strip_prefix(':') else { continue };
            let rest = rest.trim_start_matches(' ').trim_start_matches(['"', '\'']);
            let kind: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
            if kind.is_empty() || WorkloadKind::is_known_kind(&kind) || kind.ends_with("List") {
                return None;
            }
            let before = &self.text[..at];
            if before.is_empty() || before.ends_with('\n') {
                own = Some(kind);
            }
        }
        own
    }

    /// Returns the document's text with another value. Comments in front of the content stay.
    pub(super) fn replaced(&self, value: &Value) -> Result<String, ManifestError> {
        let body = if self.is_json() { json(value) } else { yaml(value) };
        Ok(self.head() + &body.map_err(|problem| self.error(problem))?)
    }

    /// Returns the directives, the `---`, comments and empty lines in front of the content.
    fn head(&self) -> String {
        let mut head = String::new();
        for line in self.text.split_inclusive('\n') {
            let content = without_byte_order_mark(line);
            let rest = if is_start(line) { &content[3..] } else { content }.trim();
            if rest.is_empty() || rest.starts_with('#') || rest.starts_with('%') {
                head.push_str(line);
                continue;
            }
            if is_start(line) {
                head.push_str("---\n");
            }
            break;
        }
        head
    }
}

/// Whether `value` contains an object of a workload's kind, or a list of that kind.
fn has_workload(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_workload),
        Value::Object(fields) => {
            let kind = fields.get("kind").and_then(Value::as_str).unwrap_or_default();
            let is_workload = WorkloadKind::is_known_kind(kind.strip_suffix("List").unwrap_or(kind));
            is_workload || fields.values().any(has_workload)
        }
        _ => false,
    }
}

fn parse(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Value, SyntaxError> {
    let text = content(text);
    let read = |strict_booleans: bool| -> Result<Value, SyntaxError> {
        let options = serde_yaml::options! {
            budget: serde_yaml::budget! { max_depth: 200, max_nodes: 20_000_000, max_events: 80_000_000 },
            duplicate_keys: duplicate_keys,
            legacy_octal_numbers: true,
            strict_booleans: strict_booleans,
            with_snippet: false,
        };
        serde_yaml::from_str_with_options(&text, options).map_err(|error| SyntaxError::of(&error))
    };
    let mut value = read(false)?;
    if BOOLEANS.iter().any(|word| has_odd_capitals(&text, word)) {
        restore_text(&mut value, read(true)?);
    }
    Ok(value)
}

/// The booleans of YAML 1.1. Each may also be written in capitals, or with a first capital.
const BOOLEANS: [&str; 8] = ["true", "false", "yes", "no", "on", "off", "y", "n"];

fn is_boolean(text: &str) -> bool {
    BOOLEANS.iter().any(|word| {
        let capital = |index: usize| text.as_bytes().get(index).is_some_and(u8::is_ascii_uppercase);
        let rest_is = |test: fn(&u8) -> bool| text.bytes().skip(1).all(|byte| test(&byte));
        text.eq_ignore_ascii_case(word)
            && (rest_is(u8::is_ascii_lowercase) || (capital(0) && rest_is(u8::is_ascii_uppercase)))
    })
}

fn has_odd_capitals(text: &str, word: &str) -> bool {
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|found| found.eq_ignore_ascii_case(word) && !is_boolean(found))
}

/// Makes oddly capitalised booleans text. kubectl reads `tRue` as text; our parser reads it as true
/// unless it is strict, and then reads `yes` as text, too. Where the two results differ, the strict
/// one has the text as it is written.
fn restore_text(value: &mut Value, strict: Value) {
    match (value, strict) {
        (Value::Array(items), Value::Array(strict)) => {
            items.iter_mut().zip(strict).for_each(|(item, strict)| restore_text(item, strict));
        }
        (Value::Object(fields), Value::Object(strict)) => {
            fields.values_mut().zip(strict).for_each(|(field, (_, strict))| restore_text(field, strict));
        }
        (value @ Value::Bool(_), Value::String(text)) if !is_boolean(&text) => *value = Value::String(text),
        _ => {}
    }
}

/// Removes byte order marks, directives and the `...` for the parser. Every line keeps its number.
fn content(text: &str) -> Cow<'_, str> {
    let is_plain = |line: &str| !line.starts_with('\u{feff}') && !line.starts_with('%') && !is_end(line);
    if text.split_inclusive('\n').all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut is_body = false;
    let lines = text.split_inclusive('\n').map(|line| {
        let unmarked = without_byte_order_mark(line);
        let is_directive = !is_body && unmarked.starts_with('%');
        is_body |= is_start(line) || !(is_directive || unmarked.trim().is_empty() || unmarked.starts_with('#'));
        if is_directive || is_end(line) { "\n" } else { unmarked }
    });
    Cow::Owned(lines.collect())
}

impl SyntaxError {
    fn of(error: &serde_yaml::Error) -> Self {
        let error = error.without_snippet();
        let problem = match error {
            serde_yaml::Error::DuplicateMappingKey { key: Some(key), .. } => format!("the key `{key}` appears twice"),
            serde_yaml::Error::DuplicateMappingKey { .. } => "a key appears twice".to_owned(),
            serde_yaml::Error::Eof { .. } => "it ends unexpectedly".to_owned(),
            serde_yaml::Error::Budget { .. } => "it is too large or too deep".to_owned(),
            serde_yaml::Error::UnknownAnchor { .. } => "it refers to an unknown anchor".to_owned(),
            _ => "it is neither YAML nor JSON".to_owned(),
        };
        let location = error.location().map(|at| {
            let line = usize::try_from(at.line()).unwrap_or(usize::MAX);
            Location { line, column: at.column() }
        });
        Self { problem, location: location.filter(|location| location.line > 0) }
    }
}

fn json(value: &Value) -> Result<String, String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| error.to_string())
}

/// Writes YAML and reads it back; a value that does not come back the same is written as JSON,
/// which is YAML, too.
fn yaml(value: &Value) -> Result<String, String> {
    let options = serde_yaml::ser_options! { folded_wrap_chars: usize::MAX };
    match serde_yaml::to_string_with_options(value, options) {
        Ok(text) if parse(&text, DuplicateKeyPolicy::Error).is_ok_and(|read| read == *value) => Ok(text),
        _ => json(value),
    }
}

#[cfg(test)]
mod tests;

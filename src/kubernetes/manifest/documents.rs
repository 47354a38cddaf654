//! The documents of a YAML text, read as kubectl reads them: YAML 1.1, where `no` is false and `0644` is octal.
use super::ManifestError;
use crate::kubernetes::workload::Kind;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_yaml::DuplicateKeyPolicy;
use std::borrow::Cow;

/// One document as it is written, from its `---` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document<'t> {
    text: &'t str,
    line: usize,
    /// Nothing but its place says where it begins: it stands behind a `...`, or behind another JSON object.
    is_bare: bool,
}

/// A line that begins with `---` begins a document, whatever stands before it, and one of `...` ends one (YAML 1.2.2 §9.1); several JSON
/// objects in a row are a document each, as kubectl has it. The pieces together are the text.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let (mut documents, mut start, mut start_line, mut at) = (Vec::new(), 0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if at > start && is_marker(line) && !is_preamble(&text[start..at]) {
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

/// One piece, or several if it is JSON objects in a row.
fn cut<'t>(text: &'t str, line: usize, documents: &mut Vec<Document<'t>>) {
    let (mut rest, mut line) = (text, line);
    for end in objects(text) {
        let (object, behind) = rest.split_at(end);
        documents.push(Document { text: object, line, is_bare: !documents.is_empty() });
        (rest, line) = (behind, line + object.matches('\n').count());
    }
    let is_bare = !documents.is_empty() && !rest.lines().next().is_some_and(is_marker);
    documents.push(Document { text: rest, line, is_bare });
}

/// The length of each JSON object of a text but the last, if it is nothing but several of them.
fn objects(text: &str) -> Vec<usize> {
    let content = without_mark(text);
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

/// A file that was written on Windows begins with a byte order mark, and may stand behind another.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn is_marker(line: &str) -> bool {
    without_mark(line).strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn is_end(line: &str) -> bool {
    line.strip_prefix("...").is_some_and(|rest| rest.trim().is_empty() || rest.starts_with(char::is_whitespace))
}

/// Directives, which belong to the document behind them.
fn is_preamble(text: &str) -> bool {
    let is_directive = |line: &str| without_mark(line).starts_with('%');
    let is_empty = |line: &str| line.trim().is_empty() || line.starts_with('#');
    text.lines().any(is_directive) && text.lines().all(|line| is_directive(line) || is_empty(line))
}

/// What is wrong with a document, and where: a line and a column of it.
struct Flaw {
    problem: String,
    place: Option<(usize, u64)>,
}

impl<'t> Document<'t> {
    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Whether it needs a `---` once what stands before it has been written anew.
    pub(super) fn is_bare(&self) -> bool {
        self.is_bare && !self.is_json()
    }

    fn is_json(&self) -> bool {
        serde_json::from_str::<IgnoredAny>(without_mark(self.text)).is_ok()
    }

    /// Null for a document of nothing but comments.
    pub(super) fn parse(&self) -> Result<Value, ManifestError> {
        parse(self.text, DuplicateKeyPolicy::Error).map_err(|Flaw { problem, place }| match place {
            Some((line, column)) => self.error(format!("{problem}, at line {}, column {column}", self.line - 1 + line)),
            None => self.error(problem),
        })
    }

    /// The kind of a document that cannot be read in full, where a look at it shows that there is no workload in it.
    pub(super) fn kind_at_a_glance(&self) -> Option<String> {
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
            if kind.is_empty() || Kind::is_name(&kind) || kind.ends_with("List") {
                return None;
            }
            let before = &self.text[..at];
            if before.is_empty() || before.ends_with('\n') {
                own = Some(kind);
            }
        }
        own
    }

    /// This document with another value. Comments in front of it stay.
    pub(super) fn replaced(&self, value: &Value) -> Result<String, ManifestError> {
        let body = if self.is_json() { json(value) } else { yaml(value) };
        Ok(self.head() + &body.map_err(|problem| self.error(problem))?)
    }

    /// Directives, the `---`, comments and empty lines in front of the content.
    fn head(&self) -> String {
        let mut head = String::new();
        for line in self.text.split_inclusive('\n') {
            let content = without_mark(line);
            let rest = if is_marker(line) { &content[3..] } else { content }.trim();
            if rest.is_empty() || rest.starts_with('#') || rest.starts_with('%') {
                head.push_str(line);
                continue;
            }
            if is_marker(line) {
                head.push_str("---\n");
            }
            break;
        }
        head
    }
}

/// Whether anything in it is of a workload's kind, or a list of such.
fn has_workload(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_workload),
        Value::Object(fields) => {
            let kind = fields.get("kind").and_then(Value::as_str).unwrap_or_default();
            let is_workload = Kind::is_name(kind.strip_suffix("List").unwrap_or(kind));
            is_workload || fields.values().any(has_workload)
        }
        _ => false,
    }
}

fn parse(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Value, Flaw> {
    let text = content(text);
    let read = |strict_booleans: bool| -> Result<Value, Flaw> {
        let options = serde_yaml::options! {
            budget: serde_yaml::budget! { max_depth: 200, max_nodes: 20_000_000, max_events: 80_000_000 },
            duplicate_keys: duplicate_keys,
            legacy_octal_numbers: true,
            strict_booleans: strict_booleans,
            with_snippet: false,
        };
        serde_yaml::from_str_with_options(&text, options).map_err(|error| Flaw::of(&error))
    };
    let mut value = read(false)?;
    if BOOLEANS.iter().any(|word| has_oddly_spelt(&text, word)) {
        settle(&mut value, read(true)?);
    }
    Ok(value)
}

/// What YAML 1.1 has for true and false, each in these capitals, in capitals throughout, or with the first.
const BOOLEANS: [&str; 8] = ["true", "false", "yes", "no", "on", "off", "y", "n"];

fn is_boolean(text: &str) -> bool {
    BOOLEANS.iter().any(|word| {
        let capital = |index: usize| text.as_bytes().get(index).is_some_and(u8::is_ascii_uppercase);
        let rest_is = |test: fn(&u8) -> bool| text.bytes().skip(1).all(|byte| test(&byte));
        text.eq_ignore_ascii_case(word)
            && (rest_is(u8::is_ascii_lowercase) || (capital(0) && rest_is(u8::is_ascii_uppercase)))
    })
}

fn has_oddly_spelt(text: &str, word: &str) -> bool {
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|found| found.eq_ignore_ascii_case(word) && !is_boolean(found))
}

/// `tRue` is text for kubectl, and true for the reader unless it is strict; then `yes` is text as well. Where the two differ, the strict
/// one has the text as it is written.
fn settle(value: &mut Value, strict: Value) {
    match (value, strict) {
        (Value::Array(items), Value::Array(strict)) => {
            items.iter_mut().zip(strict).for_each(|(item, strict)| settle(item, strict));
        }
        (Value::Object(fields), Value::Object(strict)) => {
            fields.values_mut().zip(strict).for_each(|(field, (_, strict))| settle(field, strict));
        }
        (value @ Value::Bool(_), Value::String(text)) if !is_boolean(&text) => *value = Value::String(text),
        _ => {}
    }
}

/// What there is to read: without byte order marks, directives and the `...`, line by line where it was.
fn content(text: &str) -> Cow<'_, str> {
    let is_plain = |line: &str| !line.starts_with('\u{feff}') && !line.starts_with('%') && !is_end(line);
    if text.split_inclusive('\n').all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut is_body = false;
    let lines = text.split_inclusive('\n').map(|line| {
        let unmarked = without_mark(line);
        let is_directive = !is_body && unmarked.starts_with('%');
        is_body |= is_marker(line) || !(is_directive || unmarked.trim().is_empty() || unmarked.starts_with('#'));
        if is_directive || is_end(line) { "\n" } else { unmarked }
    });
    Cow::Owned(lines.collect())
}

impl Flaw {
    fn of(error: &serde_yaml::Error) -> Self {
        let error = error.without_snippet();
        let problem = match error {
            serde_yaml::Error::DuplicateMappingKey { key: Some(key), .. } => format!("the key `{key}` is there twice"),
            serde_yaml::Error::DuplicateMappingKey { .. } => "a key is there twice".to_owned(),
            serde_yaml::Error::Eof { .. } => "it ends too soon".to_owned(),
            serde_yaml::Error::Budget { .. } => "it is too large or too deep".to_owned(),
            serde_yaml::Error::UnknownAnchor { .. } => "it refers to an anchor that is not there".to_owned(),
            _ => "it is neither YAML nor JSON".to_owned(),
        };
        let place = error.location().map(|at| (usize::try_from(at.line()).unwrap_or(usize::MAX), at.column()));
        Self { problem, place: place.filter(|(line, _)| *line > 0) }
    }
}

fn json(value: &Value) -> Result<String, String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| error.to_string())
}

/// Read back before it is believed: what does not come back the same is written as JSON, which is YAML too.
fn yaml(value: &Value) -> Result<String, String> {
    let options = serde_yaml::ser_options! { folded_wrap_chars: usize::MAX };
    match serde_yaml::to_string_with_options(value, options) {
        Ok(text) if parse(&text, DuplicateKeyPolicy::Error).is_ok_and(|read| read == *value) => Ok(text),
        _ => json(value),
    }
}

#[cfg(test)]
mod tests;

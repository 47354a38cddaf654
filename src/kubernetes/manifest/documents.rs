//! The documents of a YAML text, read as kubectl reads them: YAML 1.1, where `no` is false and `0644` is octal.
use super::ManifestError;
use serde_json::Value;

/// One document as it is written, from its `---` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document<'t> {
    text: &'t str,
    line: usize,
}

/// A line that begins with `---` begins a document, whatever stands before it (YAML 1.2.2 §9.1.2); the pieces together are the text.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let (mut documents, mut start, mut start_line, mut at) = (Vec::new(), 0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if at > start && is_marker(line) {
            documents.push(Document { text: &text[start..at], line: start_line });
            (start, start_line) = (at, index + 1);
        }
        at += line.len();
    }
    documents.push(Document { text: &text[start..], line: start_line });
    documents
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

impl<'t> Document<'t> {
    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Null for a document of nothing but comments.
    pub(super) fn parse(&self) -> Result<Value, ManifestError> {
        parse(self.text).map_err(|_| {
            // Read once more where it stands, so that the error names the line of the whole text.
            let placed = format!("{}{}", "\n".repeat(self.line - 1), self.text);
            self.error(parse(&placed).err().unwrap_or_default())
        })
    }

    /// This document with another value. Comments in front of it stay.
    pub(super) fn replaced(&self, value: &Value) -> Result<String, ManifestError> {
        let body = if serde_json::from_str::<Value>(self.text).is_ok() { json(value) } else { yaml(value) };
        Ok(self.head() + &body.map_err(|problem| self.error(problem))?)
    }

    /// The `---`, comments and empty lines in front of the content.
    fn head(&self) -> String {
        let mut head = String::new();
        for line in self.text.split_inclusive('\n') {
            let rest = if is_marker(line) { &line[3..] } else { line }.trim();
            if rest.is_empty() || rest.starts_with('#') {
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

fn parse(text: &str) -> Result<Value, String> {
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! { max_depth: 200, max_nodes: 20_000_000, max_events: 80_000_000 },
        legacy_octal_numbers: true,
    };
    serde_yaml::from_str_with_options(text, options).map_err(|error| error.to_string())
}

fn json(value: &Value) -> Result<String, String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| error.to_string())
}

/// Read back before it is believed: what does not come back the same is written as JSON, which is YAML too.
fn yaml(value: &Value) -> Result<String, String> {
    let options = serde_yaml::ser_options! { folded_wrap_chars: usize::MAX };
    match serde_yaml::to_string_with_options(value, options) {
        Ok(text) if parse(&text).as_ref() == Ok(value) => Ok(text),
        _ => json(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(text: &str) -> Vec<&str> {
        split(text).into_iter().map(|document| document.text()).collect()
    }

    #[test]
    fn documents_begin_at_their_marker() {
        assert_eq!(texts("a: 1\n---\nb: 2\n--- # c\nc: 3"), ["a: 1\n", "---\nb: 2\n", "--- # c\nc: 3"]);
        assert_eq!(texts("---\r\na: 1\r\n---\r\n"), ["---\r\na: 1\r\n", "---\r\n"]);
        assert_eq!(texts("text: |\n  ---\n  --- a\n----\n"), ["text: |\n  ---\n  --- a\n----\n"]);
        assert_eq!(texts(""), [""]);
        assert_eq!(split("a: 1\n\n---\nb: 2\n")[1].line(), 3);
    }

    #[test]
    fn comments_in_front_stay() {
        let head = |text: &str| split(text)[0].head();
        assert_eq!(head("--- # d\n\n# Source: x\nkind: A\n# c\n"), "--- # d\n\n# Source: x\n");
        assert_eq!(head("--- {kind: A}\n"), "---\n");
        assert_eq!(head("kind: A\n"), "");
    }

    #[test]
    fn scalars_are_read_as_kubectl_reads_them() {
        let value = parse("{a: no, b: 0644, c: 'no', d: 1e3, e: 12:30, f: ~, g: 2024-01-01, h: 0x1F}").expect("YAML");
        let expected = serde_json::json!({
            "a": false, "b": 420, "c": "no", "d": 1000.0, "e": "12:30", "f": null, "g": "2024-01-01", "h": 31,
        });
        assert_eq!(value, expected);
    }

    fn values() -> impl Strategy<Value = Value> {
        let words = [
            "yes", "No", "on", "~", "null", "0644", "1_0", "1e3", ".5", "12:30", "---", "- a", "a: b", "#", " a ",
            "<<", "=",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i32>().prop_map(|number| Value::from(f64::from(number) / 8.0)),
            ".*".prop_map(Value::from),
            "[ -~\n\t]{0,120}".prop_map(Value::from),
            proptest::sample::select(words.to_vec()).prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map("[ -~]{0,12}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in values()) {
            let text = yaml(&value).expect("written");
            prop_assert_eq!(parse(&text), Ok(value));
        }

        #[test]
        fn the_pieces_are_the_text(text in "(---|-|a: 1|\n|\r\n| |#){0,20}") {
            prop_assert_eq!(texts(&text).concat(), text);
        }
    }
}

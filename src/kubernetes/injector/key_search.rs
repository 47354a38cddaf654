//! Looks for the sidecar's configuration file in a `ConfigMap` while its JSON arrives, and keeps
//! none of it. Anyone may write a `ConfigMap` of 1 MiB in their own namespace, of characters that
//! take six bytes each in JSON.
use crate::kubernetes::names::CONFIG_KEY;

/// The search in one object, whose text arrives in pieces of any length.
#[derive(Debug, Default)]
pub(super) struct KeySearch {
    string: StringState,
    depth: usize,
    /// The beginning of the last string. Escapes are not decoded, because no key that matters has a
    /// character that is ever escaped.
    text: Vec<u8>,
    /// Whether the current entry of the object contains files.
    in_files: bool,
    found: bool,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, Default)]
enum StringState {
    #[default]
    Outside,
    Inside,
    /// Inside a string, after a backslash.
    Escape,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Before,
    Within,
    After,
}

/// The entries of a `ConfigMap` that contain files.
const FILES: [&[u8]; 2] = [b"data", b"binaryData"];
/// How many bytes of a string are kept: more than any key that matters has.
const MAX_KEY: usize = 32;
const _: () = assert!(CONFIG_KEY.len() < MAX_KEY);

impl KeySearch {
    /// Reads the next piece of the text.
    pub(super) fn read(&mut self, piece: &[u8]) {
        for byte in piece {
            self.string = match (self.string, byte) {
                (StringState::Inside, b'"') => StringState::Outside,
                (StringState::Inside, b'\\') => self.keep(*byte, StringState::Escape),
                (StringState::Inside | StringState::Escape, _) => self.keep(*byte, StringState::Inside),
                (StringState::Outside, b'"') => {
                    self.text.clear();
                    StringState::Inside
                }
                (StringState::Outside, _) => {
                    self.read_structure(*byte);
                    StringState::Outside
                }
            };
        }
    }

    fn keep(&mut self, byte: u8, next: StringState) -> StringState {
        if self.text.len() < MAX_KEY {
            self.text.push(byte);
        }
        next
    }

    fn read_structure(&mut self, byte: u8) {
        match byte {
            b'{' | b'[' => {
                self.depth += 1;
                if self.progress == Progress::Before {
                    self.progress = Progress::Within;
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.progress = Progress::After;
                }
            }
            b':' if self.depth == 1 => self.in_files = FILES.contains(&&*self.text),
            b':' if self.depth == 2 => self.found |= self.in_files && self.text == CONFIG_KEY.as_bytes(),
            _ => {}
        }
    }

    /// Returns whether the file is there, or `None` if the text is incomplete or not an object.
    pub(super) fn result(&self) -> Option<bool> {
        (self.progress == Progress::After).then_some(self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn result_of(text: &str, length: usize) -> Option<bool> {
        let mut search = KeySearch::default();
        text.as_bytes().chunks(length).for_each(|piece| search.read(piece));
        search.result()
    }

    #[test]
    fn key_is_found_only_where_it_is_a_file() {
        for (object, expected) in [
            (json!({"data": {"proxy.yaml": ""}}), true),
            (json!({"binaryData": {"a": "", "proxy.yaml": ""}, "data": {}}), true),
            (json!({"data": {"proxy.yaml.old": "", "roxy.yaml": ""}}), false),
            (json!({"data": {"a": "proxy.yaml\":"}, "kind": "ConfigMap"}), false),
            (json!({"data": {"a": "\\\"proxy.yaml\\\":\""}}), false),
            (json!({"metadata": {"annotations": {"data": "x", "proxy.yaml": ""}, "proxy.yaml": ""}}), false),
            (json!({"a": {"data": {"proxy.yaml": ""}}, "b": [{"data": {"proxy.yaml": ""}}]}), false),
            (json!({"data": {"a": {"proxy.yaml": ""}}, "metadata": {"proxy.yaml": ""}}), false),
            (json!({"data": {"x".repeat(MAX_KEY + 1): "x".repeat(1000)}}), false),
            (json!({}), false),
        ] {
            for length in [1, 2, 7, 10_000] {
                assert_eq!(result_of(&object.to_string(), length), Some(expected), "{object}");
            }
        }
    }

    #[test]
    fn incomplete_text_has_no_result() {
        let whole = json!({"data": {"proxy.yaml": "}}}"}}).to_string();
        for length in 0..whole.len() {
            assert_eq!(result_of(&whole[..length], 3), None, "{length}");
        }
        for text in ["", "null", "\"{}\"", "1"] {
            assert_eq!(result_of(text, 1), None, "{text}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let word = prop_oneof![
            proptest::sample::select(vec!["data", "binaryData", "proxy.yaml", "\"", "\\", "{", ":"])
                .prop_map(str::to_owned),
            ".{0,6}",
        ];
        word.clone().prop_map(Value::from).prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(word.clone(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn search_agrees_with_a_parser(object in any_json(), pretty: bool, length in 1_usize..40) {
            let text = if pretty { format!("{object:#}") } else { object.to_string() };
            let has = |key: &str| object.get(key).and_then(|files| files.get(CONFIG_KEY)).is_some();
            let expected = (object.is_object() || object.is_array()).then(|| has("data") || has("binaryData"));
            prop_assert_eq!(result_of(&text, length), expected);
        }

        #[test]
        fn any_bytes_are_accepted(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            KeySearch::default().read(&bytes);
        }
    }
}

//! Whether a `ConfigMap` has the file that a sidecar reads, told from its JSON as it comes in. Nothing of it is kept: whoever may write
//! one in their own namespace may make it 1 MiB of characters that JSON writes with six bytes each.
use crate::kubernetes::names::CONFIG_KEY;

/// What has been seen of one object so far. Fed with the whole of a text, in pieces of any length.
#[derive(Debug, Default)]
pub(super) struct Search {
    place: Place,
    depth: usize,
    /// The text that was read last, as far as it may be a key that is looked for. Escapes stay as they are written: none of these keys
    /// has a character that anybody escapes.
    text: Vec<u8>,
    /// Whether the object's entry that is being read is one that holds files.
    in_files: bool,
    found: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    Outside,
    Text,
    Escape,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Before,
    Within,
    After,
}

/// The entries of a `ConfigMap` that hold files.
const FILES: [&[u8]; 2] = [b"data", b"binaryData"];
/// Of a text, in bytes: longer than any that is looked for.
const KEPT: usize = 32;
const _: () = assert!(CONFIG_KEY.len() < KEPT);

impl Search {
    pub(super) fn read(&mut self, piece: &[u8]) {
        for byte in piece {
            self.place = match (self.place, byte) {
                (Place::Text, b'"') => Place::Outside,
                (Place::Text, b'\\') => self.keep(*byte, Place::Escape),
                (Place::Text | Place::Escape, _) => self.keep(*byte, Place::Text),
                (Place::Outside, b'"') => {
                    self.text.clear();
                    Place::Text
                }
                (Place::Outside, _) => {
                    self.mark(*byte);
                    Place::Outside
                }
            };
        }
    }

    fn keep(&mut self, byte: u8, next: Place) -> Place {
        if self.text.len() < KEPT {
            self.text.push(byte);
        }
        next
    }

    fn mark(&mut self, byte: u8) {
        match byte {
            b'{' | b'[' => {
                self.depth += 1;
                if self.state == State::Before {
                    self.state = State::Within;
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.state = State::After;
                }
            }
            b':' if self.depth == 1 => self.in_files = FILES.contains(&&*self.text),
            b':' if self.depth == 2 => self.found |= self.in_files && self.text == CONFIG_KEY.as_bytes(),
            _ => {}
        }
    }

    /// Whether it is there; nothing for a text that broke off, or is no object at all.
    pub(super) fn outcome(&self) -> Option<bool> {
        (self.state == State::After).then_some(self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn outcome(text: &str, length: usize) -> Option<bool> {
        let mut search = Search::default();
        text.as_bytes().chunks(length).for_each(|piece| search.read(piece));
        search.outcome()
    }

    #[test]
    fn it_is_found_where_it_is_a_file_and_nowhere_else() {
        for (object, expected) in [
            (json!({"data": {"proxy.yaml": ""}}), true),
            (json!({"binaryData": {"a": "", "proxy.yaml": ""}, "data": {}}), true),
            (json!({"data": {"proxy.yaml.old": "", "roxy.yaml": ""}}), false),
            (json!({"data": {"a": "proxy.yaml\":"}, "kind": "ConfigMap"}), false),
            (json!({"data": {"a": "\\\"proxy.yaml\\\":\""}}), false),
            (json!({"metadata": {"annotations": {"data": "x", "proxy.yaml": ""}, "proxy.yaml": ""}}), false),
            (json!({"a": {"data": {"proxy.yaml": ""}}, "b": [{"data": {"proxy.yaml": ""}}]}), false),
            (json!({"data": {"a": {"proxy.yaml": ""}}, "metadata": {"proxy.yaml": ""}}), false),
            (json!({"data": {"x".repeat(KEPT + 1): "x".repeat(1000)}}), false),
            (json!({}), false),
        ] {
            for length in [1, 2, 7, 10_000] {
                assert_eq!(outcome(&object.to_string(), length), Some(expected), "{object}");
            }
        }
    }

    #[test]
    fn what_broke_off_says_nothing() {
        let whole = json!({"data": {"proxy.yaml": "}}}"}}).to_string();
        for length in 0..whole.len() {
            assert_eq!(outcome(&whole[..length], 3), None, "{length}");
        }
        for text in ["", "null", "\"{}\"", "1"] {
            assert_eq!(outcome(text, 1), None, "{text}");
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
        fn it_sees_what_a_parser_sees(object in any_json(), pretty: bool, length in 1_usize..40) {
            let text = if pretty { format!("{object:#}") } else { object.to_string() };
            let has = |key: &str| object.get(key).and_then(|files| files.get(CONFIG_KEY)).is_some();
            let expected = (object.is_object() || object.is_array()).then(|| has("data") || has("binaryData"));
            prop_assert_eq!(outcome(&text, length), expected);
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            Search::default().read(&bytes);
        }
    }
}

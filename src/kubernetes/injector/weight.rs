//! What a JSON text takes in memory once it is parsed, told from the text: `0,` is two bytes and becomes a hundred.

/// For a value in a list, which grows by doubling, or an entry of a map, whose key is a text of its own.
const ENTRY: usize = 192;
/// For the first node of a map, which has room for eleven entries.
const MAP: usize = 704;
/// For the first four places of a list.
const LIST: usize = 192;

/// In bytes; never less than it takes, and for ordinary objects about twice as much. Any text has one: whether it is JSON is not asked.
pub(super) fn weight(text: &[u8]) -> usize {
    let (mut weight, mut in_string, mut escaped, mut opened) = (text.len() + ENTRY, false, false, 0);
    for byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            // What is empty takes nothing.
            b'}' | b']' => opened = 0,
            _ => weight += std::mem::take(&mut opened),
        }
        match byte {
            b'"' => in_string = true,
            b',' => weight += ENTRY,
            b'{' => opened = MAP + ENTRY,
            b'[' => opened = LIST + ENTRY,
            _ => {}
        }
    }
    weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_text_or_empty_weighs_nothing_more() {
        let least = |text: &str| text.len() + ENTRY;
        for text in ["0", r#""{[,\"{[,""#, "[]", "{ }", "[ \n]"] {
            assert_eq!(weight(text.as_bytes()), least(text), "{text}");
        }
        assert_eq!(weight(b"[0,0]"), 5 + ENTRY + LIST + ENTRY + ENTRY);
        assert_eq!(weight(br#"{"a":{}}"#), 8 + ENTRY + MAP + ENTRY);
        assert_eq!(weight(b"\"\\"), 2 + ENTRY, "cut off");
    }
}

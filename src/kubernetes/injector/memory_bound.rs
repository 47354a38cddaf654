//! An upper bound on the memory of parsed JSON, computed from its text: the two bytes of `0,`
//! become a hundred.

/// The size of a value in a list, which grows by doubling, or of a map's entry, whose key is
/// allocated separately.
const ENTRY: usize = 192;
/// The size of a map's first node, which has room for eleven entries.
const MAP: usize = 704;
/// The size of a list's first four places.
const LIST: usize = 192;

/// Returns an upper bound, in bytes, on the memory that `text` takes once it is parsed as JSON;
/// about twice the real size of ordinary objects. Accepts any bytes, valid JSON or not.
pub(super) fn memory_bound(text: &[u8]) -> usize {
    let (mut bound, mut in_string, mut escaped, mut opened) = (text.len() + ENTRY, false, false, 0);
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
            // An empty list or map allocates nothing.
            b'}' | b']' => opened = 0,
            _ => bound += std::mem::take(&mut opened),
        }
        match byte {
            b'"' => in_string = true,
            b',' => bound += ENTRY,
            b'{' => opened = MAP + ENTRY,
            b'[' => opened = LIST + ENTRY,
            _ => {}
        }
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_empty_containers_add_nothing() {
        let least = |text: &str| text.len() + ENTRY;
        for text in ["0", r#""{[,\"{[,""#, "[]", "{ }", "[ \n]"] {
            assert_eq!(memory_bound(text.as_bytes()), least(text), "{text}");
        }
        assert_eq!(memory_bound(b"[0,0]"), 5 + ENTRY + LIST + ENTRY + ENTRY);
        assert_eq!(memory_bound(br#"{"a":{}}"#), 8 + ENTRY + MAP + ENTRY);
        assert_eq!(memory_bound(b"\"\\"), 2 + ENTRY, "an unfinished string");
    }
}

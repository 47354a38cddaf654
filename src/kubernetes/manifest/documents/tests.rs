use super::*;
use proptest::prelude::*;

fn texts(text: &str) -> Vec<&str> {
    split(text).into_iter().map(|document| document.text()).collect()
}

#[test]
fn document_begins_at_its_marker() {
    assert_eq!(texts("a: 1\n---\nb: 2\n--- # c\nc: 3"), ["a: 1\n", "---\nb: 2\n", "--- # c\nc: 3"]);
    assert_eq!(texts("---\r\na: 1\r\n---\r\n"), ["---\r\na: 1\r\n", "---\r\n"]);
    assert_eq!(texts("text: |\n  ---\n  --- a\n----\n"), ["text: |\n  ---\n  --- a\n----\n"]);
    assert_eq!(texts(""), [""]);
    assert_eq!(split("a: 1\n\n---\nb: 2\n")[1].line(), 3);
    assert_eq!(texts("a: 1\n...\nb: 2\n"), ["a: 1\n...\n", "b: 2\n"]);
    assert_eq!(texts("a: 1\n...\n---\nb: 2\n...\n"), ["a: 1\n...\n", "---\nb: 2\n...\n"]);
    assert_eq!(texts("%YAML 1.1\n# c\n---\na: 1\n"), ["%YAML 1.1\n# c\n---\na: 1\n"]);
    assert_eq!(texts("a: 1\n\u{feff}---\nb: 2\n"), ["a: 1\n", "\u{feff}---\nb: 2\n"]);
}

#[test]
fn each_of_several_json_objects_is_a_document() {
    assert_eq!(texts("{\"a\": 1}\n{\"b\":\n{}} {}\n"), ["{\"a\": 1}", "\n{\"b\":\n{}}", " {}\n"]);
    assert_eq!(texts("\u{feff}{}{}"), ["\u{feff}{}", "{}"]);
    assert_eq!(split("{}\n{}\n{}\n").iter().map(Document::line).collect::<Vec<_>>(), [1, 1, 2]);
    assert_eq!(texts("{a: 1}\n"), ["{a: 1}\n"]);
}

#[test]
fn oddly_capitalised_boolean_is_text() {
    let value = read("{a: tRue, b: yEs, c: [YES, oN, Off, n], d: {tRUE: True}, e: 'no'}");
    let expected = serde_json::json!({
        "a": "tRue", "b": "yEs", "c": [true, "oN", false, false], "d": {"tRUE": true}, "e": "no",
    });
    assert_eq!(value, expected);
    assert_eq!(read(&yaml(&value).expect("written")), value);
}

fn read(text: &str) -> Value {
    parse(text, DuplicateKeyPolicy::Error).unwrap_or_else(|error| panic!("{text}: {}", error.problem))
}

#[test]
fn directives_and_markers_are_not_content() {
    let expected = serde_json::json!({"a": "%b"});
    for text in [
        "%YAML 1.2\n---\na: '%b'\n",
        "# c\n%YAML 1.1\n%TAG ! !\n---\na: '%b'\n...\n",
        "\u{feff}a: '%b'\n",
        "---\n\u{feff}a: '%b'\n",
        "\u{feff}---\na: '%b'\n... # c\n",
    ] {
        assert_eq!(read(text), expected, "{text:?}");
    }
    assert_eq!(read("---\na: '\n%b'\n"), serde_json::json!({"a": " %b"}), "a line within a text is content");
}

#[test]
fn comments_in_front_belong_to_the_head() {
    let head = |text: &str| split(text)[0].head();
    assert_eq!(head("--- # d\n\n# Source: x\nkind: A\n# c\n"), "--- # d\n\n# Source: x\n");
    assert_eq!(head("--- {kind: A}\n"), "---\n");
    assert_eq!(head("kind: A\n"), "");
}

#[test]
fn scalars_are_read_as_kubectl_reads_them() {
    let value = read("{a: no, b: 0644, c: 'no', d: 1e3, e: 12:30, f: ~, g: 2024-01-01, h: 0x1F}");
    let expected = serde_json::json!({
        "a": false, "b": 420, "c": "no", "d": 1000.0, "e": "12:30", "f": null, "g": "2024-01-01", "h": 31,
    });
    assert_eq!(value, expected);
}

fn values() -> impl Strategy<Value = Value> {
    let words = [
        "yes", "No", "on", "~", "null", "0644", "1_0", "1e3", ".5", "12:30", "---", "- a", "a: b", "#", " a ", "<<",
        "=",
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
    fn written_value_is_read_back(value in values()) {
        let text = yaml(&value).expect("written");
        prop_assert_eq!(read(&text), value);
    }

    #[test]
    fn documents_concatenate_to_the_text(text in "(---|-|a: 1|\n|\r\n| |#|\\.\\.\\.|[{][}]|%|\u{feff}){0,20}") {
        prop_assert_eq!(texts(&text).concat(), text);
    }
}

//! The JSON Schema of the file, generated from the same descriptions as the decoder.
use super::decode::{Decode, Definitions};
use super::file::File;
use serde_json::{Value, json};

/// The JSON Schema (draft 2020-12) of the configuration file. Editors use it to complete and
/// validate.
pub fn schema() -> Value {
    let mut definitions = Definitions::new();
    let root = File::describe(&mut definitions);
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The configuration file of idjag-proxy",
    });
    schema["$ref"] = root["$ref"].clone();
    schema["$defs"] = definitions.into();
    schema
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::problem::Report;
    use crate::config::read::read;
    use crate::config::tree;
    use std::path::Path;

    /// Implements the part of JSON Schema that our schema uses; an unknown keyword fails the test.
    pub(crate) fn accepts(root: &Value, schema: &Value, value: &Value) -> bool {
        let keyword = |name: &str, rule: &Value| match name {
            "$ref" => {
                let name = rule.as_str().and_then(|rule| rule.strip_prefix("#/$defs/")).expect("a local reference");
                accepts(root, root["$defs"].get(name).expect("it is defined"), value)
            }
            "anyOf" => list(rule).iter().any(|schema| accepts(root, schema, value)),
            "const" => rule == value,
            "type" => match rule {
                Value::String(name) => is_a(name, value),
                names => list(names).iter().filter_map(Value::as_str).any(|name| is_a(name, value)),
            },
            "items" => value.as_array().is_none_or(|items| items.iter().all(|item| accepts(root, rule, item))),
            "minimum" => value.as_u64().is_none_or(|number| number >= rule.as_u64().expect("a bound")),
            "maximum" => value.as_u64().is_none_or(|number| number <= rule.as_u64().expect("a bound")),
            "minProperties" => value.as_object().is_none_or(|map| map.len() as u64 >= rule.as_u64().expect("a bound")),
            "maxProperties" => value.as_object().is_none_or(|map| map.len() as u64 <= rule.as_u64().expect("a bound")),
            "required" => value
                .as_object()
                .is_none_or(|map| list(rule).iter().filter_map(Value::as_str).all(|key| map.contains_key(key))),
            "properties" => value
                .as_object()
                .is_none_or(|map| map.iter().all(|(key, value)| rule.get(key).is_none_or(|s| accepts(root, s, value)))),
            "additionalProperties" => value.as_object().is_none_or(|map| {
                let mut others = map.iter().filter(|(key, _)| schema["properties"].get(*key).is_none());
                others.all(|(_, value)| *rule != Value::Bool(false) && accepts(root, rule, value))
            }),
            "pattern" if rule.as_str().is_some_and(|rule| rule.starts_with(r"\$\{")) => {
                value.as_str().is_none_or(|text| text.contains("${"))
            }
            "pattern" | "propertyNames" | "description" | "default" | "title" | "$schema" | "$defs" => true,
            other => panic!("the keyword {other}"),
        };
        schema.as_object().is_none_or(|keywords| keywords.iter().all(|(name, rule)| keyword(name, rule)))
    }

    fn list(value: &Value) -> &[Value] {
        value.as_array().expect("a list")
    }

    fn is_a(name: &str, value: &Value) -> bool {
        match name {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "number" | "integer" => value.is_number(),
            other => panic!("the type {other}"),
        }
    }

    fn both_accept(text: &str) -> (bool, bool) {
        let decoded = read(Path::new("f"), text.as_bytes(), &|_| Some("x".into())).report.finish().errors.is_empty();
        let mut report = Report::new(Path::new("f"), text);
        let tree = tree::parse(text, &mut report).expect("YAML");
        let schema = schema();
        (decoded, accepts(&schema, &schema, &tree.to_json()))
    }

    #[test]
    fn schema_accepts_what_the_decoder_accepts() {
        for text in [
            "routes: []",
            "unmatched: pass",
            "unmatched: { refuse: {} }",
            "allow_plain_http: [loopback, a.example]",
            "workers: 4",
            "workers: ${N}1",
            "identity: { assertion: { kid: 2026, key_file: a, retired: [a, { key_file: b, kid: 1 }] } }",
            "routes: [{ match: { host: a, headers: { x: 1 } }, token: { flow: { id_jag: { idp: a, server: b } } } }]",
            "authorization_servers: { a: { issuer: 'https://a', client_auth: { spiffe_jwt: {} }, tls: { spiffe_ids: [x] } } }",
        ] {
            let accepted = both_accept(text);
            assert!(accepted.1, "the schema refuses {text}");
            assert!(accepted.0 || text.contains("${N}"), "the decoder refuses {text}");
        }
    }

    #[test]
    fn schema_refuses_what_the_decoder_refuses() {
        for text in [
            "route: []",
            "routes: {}",
            "routes:",
            "routes: [{ token: none }]",
            "workers: 0",
            "workers: many",
            "workers: '4'",
            "version: 2",
            "unmatched: forward",
            "unmatched: { refuse: {}, pass: {} }",
            "unmatched: {}",
            "drain: 1s",
            "tokens: { t: { flow: id_jag } }",
            "tokens: { t: { flow: { id_jag: { idp: a } } } }",
            "authorization_servers: { a: { issuer: 'https://a', client_auth: client_secret_basic } }",
        ] {
            assert_eq!(both_accept(text), (false, false), "{text}");
        }
    }

    #[test]
    fn every_key_has_a_description() {
        fn walk(path: &str, value: &Value) {
            for (key, inner) in value.as_object().into_iter().flatten() {
                let path = format!("{path}/{key}");
                if path.ends_with("/properties") {
                    for (key, property) in inner.as_object().into_iter().flatten() {
                        assert!(property["description"].is_string() || path.contains("Nothing"), "{path}/{key}");
                    }
                }
                walk(&path, inner);
            }
        }
        let schema = schema();
        walk("", &schema);
        assert_eq!(schema["$defs"]["Drain"]["properties"]["idle"]["default"], "1s");
        assert_eq!(schema["$defs"]["Match"]["required"], json!(["host"]));
        assert_eq!(schema["$defs"]["Match"]["additionalProperties"], false);
    }
}

//! Scalar values, and the environment variables in them.
use super::{Decode, Decoder, Definitions, Environment};
use crate::config::tree::{Node, Value, printable};
use serde_json::json;

/// A type whose values are scalars: one word or number.
pub(crate) trait Leaf: Sized {
    /// Describes a valid value, such as "a duration such as 30s".
    const EXPECTED: &'static str;
    /// Whether the value is a secret or names one. Such a value is never shown, and a `${` in it is
    /// an error.
    const SECRET: bool = false;
    /// Whether quotes would turn the value into text, as they do with numbers and booleans.
    const UNQUOTED: bool = false;

    /// Parses the text, or says why it is invalid; the reason does not repeat the text.
    fn parse(text: &str) -> Result<Self, String>;

    /// The JSON Schema, without a description.
    fn schema() -> serde_json::Value {
        json!({ "type": "string" })
    }
}

impl<L: Leaf> Decode for L {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let Value::Scalar { text, plain } = &node.value else {
            decoder.wrong_kind(node, L::EXPECTED);
            return None;
        };
        let has_variable = text.contains("${");
        if has_variable && L::SECRET {
            let problem = decoder
                .error(node.at, "environment variables are not expanded in a field that holds or names a secret");
            problem.help("write the path of the file itself").without_snippet();
            return None;
        }
        if L::UNQUOTED && !plain && !has_variable {
            decoder.error(node.at, format!("expected {}, found text in quotes", L::EXPECTED)).help("remove the quotes");
            return None;
        }
        let expanded = expand(text, decoder.environment);
        let result = expanded.and_then(|text| L::parse(&text));
        if let Err(reason) = &result {
            // Show the text as written, because the value of a variable may be confidential.
            let found = if L::SECRET { String::new() } else { format!(", found `{}`", printable(text)) };
            let problem = decoder.error(node.at, format!("expected {}{found}: {reason}", L::EXPECTED));
            if L::SECRET {
                problem.without_snippet();
            }
        }
        result.ok()
    }

    fn expected() -> String {
        L::EXPECTED.to_owned()
    }

    fn describe(definitions: &mut Definitions) -> serde_json::Value {
        let schema = L::schema();
        if L::SECRET || schema == json!({ "type": "string" }) {
            return schema;
        }
        definitions.entry("Environment").or_insert_with(|| {
            json!({
                "description": "A value that contains `${NAME}`, which is replaced by the environment variable.",
                "type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}",
            })
        });
        json!({ "anyOf": [schema, { "$ref": "#/$defs/Environment" }] })
    }
}

/// Replaces `${NAME}` by the value of the variable; `$${` is an escaped `${`.
fn expand(text: &str, environment: Environment<'_>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        rest = &from[2..];
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            continue;
        }
        expanded.push_str(before);
        let (name, after) = rest.split_once('}').ok_or("a `${` without its `}`")?;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err("`${…}` must contain the name of a variable and nothing else".into());
        }
        expanded.push_str(&environment(name).ok_or_else(|| format!("the environment variable `{name}` is not set"))?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

//! Reads fields of JSON values that may have any shape.
use serde_json::Value;

/// Returns the items of the list `key`, and none if it is missing or not a list.
pub(super) fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Returns the text of `key`, if it is one.
pub(super) fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key).and_then(Value::as_str)
}

/// Returns the value's `name`, which is empty if it has none.
pub(super) fn name(value: &Value) -> &str {
    text(value, "name").unwrap_or_default()
}

//! The two macros that describe a type of the file format once. The `///` text of a field or a
//! variant is both its documentation and its description in the schema, which editors show.

/// A mapping with known keys: `field: Type` is required, `field: Option<Type>` is optional, and
/// `field: Type = "yaml"` has a default, written as it would be in the file.
macro_rules! record {
    (
        $(#[doc = $doc:literal])*
        $name:ident { $( $(#[doc = $field_doc:literal])* $field:ident : $ty:ty $(= $default:literal)? ),* $(,)? }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug)]
        pub(crate) struct $name { $( $(#[doc = $field_doc])* pub(crate) $field: $ty, )* }

        impl $crate::config::decode::Decode for $name {
            fn decode(
                node: &$crate::config::tree::Node,
                decoder: &mut $crate::config::decode::Decoder<'_>,
            ) -> Option<Self> {
                const KEYS: &[&str] = &[$( $crate::config::describe::key(stringify!($field)) ),*];
                let _fields = $crate::config::decode::Fields::open(node, decoder, KEYS)?;
                $( let $field = _fields.take::<$ty>(
                    $crate::config::describe::key(stringify!($field)),
                    $crate::config::describe::default_of!($($default)?),
                    decoder,
                ); )*
                Some(Self { $( $field: $field?, )* })
            }

            fn expected() -> String {
                const KEYS: &[&str] = &[$( $crate::config::describe::key(stringify!($field)) ),*];
                format!("a mapping with {}", $crate::config::decode::list_words(KEYS, "and"))
            }

            fn describe(definitions: &mut $crate::config::decode::Definitions) -> serde_json::Value {
                let name = stringify!($name);
                $crate::config::describe::define_record(name, concat!($($doc, "\n"),*), definitions, |_definitions| vec![
                    $( $crate::config::describe::FieldSchema {
                        key: $crate::config::describe::key(stringify!($field)),
                        doc: concat!($($field_doc, "\n"),*),
                        default: $crate::config::describe::default_of!($($default)?),
                        required: !<$ty as $crate::config::decode::Decode>::may_be_absent(),
                        schema: <$ty as $crate::config::decode::Decode>::describe(_definitions),
                    }, )*
                ])
            }

            fn decode_bare_name(
                at: $crate::config::problem::Position,
                decoder: &mut $crate::config::decode::Decoder<'_>,
            ) -> Option<Self> {
                let node = $crate::config::tree::Node { at, value: $crate::config::tree::Value::Map(Vec::new()) };
                Self::decode(&node, decoder)
            }

            fn has_only_defaults() -> bool {
                true $( && ($crate::config::describe::default_of!($($default)?).is_some()
                    || <$ty as $crate::config::decode::Decode>::may_be_absent()) )*
            }
        }
    };
}

/// A choice between names, each with or without content. It is written as `name`, which means all
/// its defaults, or as `{ name: … }`.
macro_rules! choice {
    (
        $(#[doc = $doc:literal])*
        $name:ident { $( $(#[doc = $variant_doc:literal])* $key:literal => $variant:ident $(($ty:ty))? ),* $(,)? }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug)]
        pub(crate) enum $name { $( $(#[doc = $variant_doc])* $variant $(($ty))?, )* }

        impl $crate::config::decode::Decode for $name {
            fn decode(
                node: &$crate::config::tree::Node,
                decoder: &mut $crate::config::decode::Decoder<'_>,
            ) -> Option<Self> {
                let chosen = $crate::config::decode::Choice::open(node, decoder, &[$($key),*])?;
                $( if chosen.name == $key {
                    return $crate::config::describe::read_variant!(chosen, decoder, $variant $(, $ty)?);
                } )*
                None
            }

            fn expected() -> String {
                format!("one of {}", $crate::config::decode::list_words(&[$($key),*], "or"))
            }

            fn describe(definitions: &mut $crate::config::decode::Definitions) -> serde_json::Value {
                use $crate::config::describe::{VariantSchema, define_choice};
                define_choice(stringify!($name), concat!($($doc, "\n"),*), definitions, |_definitions| vec![
                    $( VariantSchema::of::<$crate::config::describe::content!($($ty)?)>(
                        $key, concat!($($variant_doc, "\n"),*), _definitions,
                    ), )*
                ])
            }
        }
    };
}

macro_rules! default_of {
    () => {
        None::<&'static str>
    };
    ($default:literal) => {
        Some($default)
    };
}

macro_rules! content {
    () => {
        $crate::config::describe::Nothing
    };
    ($ty:ty) => {
        $ty
    };
}

macro_rules! read_variant {
    ($chosen:ident, $decoder:ident, $variant:ident) => {
        $chosen.content::<$crate::config::describe::Nothing>($decoder).map(|_| Self::$variant)
    };
    ($chosen:ident, $decoder:ident, $variant:ident, $ty:ty) => {
        $chosen.content::<$ty>($decoder).map(Self::$variant)
    };
}

pub(crate) use {choice, content, default_of, read_variant, record};

use super::decode::{Decode, Definitions, default_node};
use serde_json::{Map, Value, json};

record! {
    /// Stands for the content of a variant without any.
    Nothing {}
}

/// A field's name as it is written in the file: `r#match` becomes `match`.
pub(crate) const fn key(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// The schema of one key of a record.
pub(crate) struct FieldSchema {
    pub(crate) key: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) default: Option<&'static str>,
    pub(crate) required: bool,
    pub(crate) schema: Value,
}

/// Adds a record to the definitions, unless it is there, and returns a reference to it.
pub(crate) fn define_record(
    name: &str,
    doc: &str,
    definitions: &mut Definitions,
    fields: impl FnOnce(&mut Definitions) -> Vec<FieldSchema>,
) -> Value {
    let name = name.strip_suffix("File").unwrap_or(name);
    if !definitions.contains_key(name) {
        definitions.insert(name.to_owned(), Value::Null);
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in fields(definitions) {
            let mut schema = described(field.schema, field.doc);
            match field.default {
                Some(default) => schema["default"] = default_node(default).to_json(),
                None if field.required => required.push(field.key),
                None => {}
            }
            properties.insert(field.key.to_owned(), schema);
        }
        let object =
            json!({ "type": "object", "additionalProperties": false, "properties": properties, "required": required });
        definitions.insert(name.to_owned(), described(object, doc));
    }
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// The schema of one name of a choice.
pub(crate) struct VariantSchema {
    name: &'static str,
    doc: &'static str,
    is_bare_valid: bool,
    content: Value,
}

impl VariantSchema {
    pub(crate) fn of<T: Decode>(name: &'static str, doc: &'static str, definitions: &mut Definitions) -> Self {
        Self { name, doc, is_bare_valid: T::has_only_defaults(), content: T::describe(definitions) }
    }
}

/// Adds a choice to the definitions, unless it is there, and returns a reference to it.
pub(crate) fn define_choice(
    name: &str,
    doc: &str,
    definitions: &mut Definitions,
    variants: impl FnOnce(&mut Definitions) -> Vec<VariantSchema>,
) -> Value {
    let name = name.strip_suffix("File").unwrap_or(name);
    if !definitions.contains_key(name) {
        definitions.insert(name.to_owned(), Value::Null);
        let mut alternatives = Vec::new();
        let mut properties = Map::new();
        for variant in variants(definitions) {
            if variant.is_bare_valid {
                alternatives.push(described(json!({ "const": variant.name }), variant.doc));
            }
            properties.insert(variant.name.to_owned(), described(variant.content, variant.doc));
        }
        alternatives.push(json!({
            "type": "object", "additionalProperties": false,
            "minProperties": 1, "maxProperties": 1, "properties": properties,
        }));
        definitions.insert(name.to_owned(), described(json!({ "anyOf": alternatives }), doc));
    }
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn described(mut schema: Value, doc: &str) -> Value {
    let doc = doc.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    if !doc.is_empty() {
        schema["description"] = doc.into();
    }
    schema
}

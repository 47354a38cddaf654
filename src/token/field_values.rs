//! The values of header fields that carry an access token, which are made once and not for each
//! request.
use crate::secret::Secret;
use http::HeaderValue;
use std::sync::OnceLock;
use zeroize::Zeroizing;

/// The field values of one token: one for each prefix that it has been sent with. There are as many
/// as the configurations that were in force while the token lived have prefixes.
#[derive(Debug, Default)]
pub(super) struct FieldValues(OnceLock<Box<FieldValue>>);

#[derive(Debug)]
struct FieldValue {
    prefix: Box<str>,
    /// Marked sensitive: `Debug` hides it and HPACK never indexes it (RFC 7541 §7.1.3).
    value: HeaderValue,
    next: FieldValues,
}

impl FieldValues {
    /// The value that consists of `prefix` and `token`, or `None` if a header field cannot hold it.
    pub(super) fn get(&self, prefix: &str, token: &Secret) -> Option<&HeaderValue> {
        let mut values = self;
        loop {
            let found = match values.0.get() {
                Some(found) => found,
                None => {
                    let value = field_value(prefix, token)?;
                    // Another thread may set it first, maybe for another prefix.
                    values
                        .0
                        .get_or_init(|| Box::new(FieldValue { prefix: prefix.into(), value, next: Self::default() }))
                }
            };
            if *found.prefix == *prefix {
                return Some(&found.value);
            }
            values = &found.next;
        }
    }
}

fn field_value(prefix: &str, token: &Secret) -> Option<HeaderValue> {
    let text = Zeroizing::new([prefix, token.expose()].concat());
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_prefix_has_one_value() {
        let (values, token) = (FieldValues::default(), Secret::new("eyJ".to_owned()));
        for (prefix, expected) in [("Bearer ", "Bearer eyJ"), ("", "eyJ"), ("Token ", "Token eyJ"), ("", "eyJ")] {
            let value = values.get(prefix, &token).expect("a value");
            assert_eq!(value, expected);
            assert!(value.is_sensitive());
            assert!(std::ptr::eq(value, values.get(prefix, &token).expect("a value")), "{prefix}");
        }
        assert!(!format!("{values:?}").contains("eyJ"));
        assert!(values.get("a\n", &token).is_none());
    }
}

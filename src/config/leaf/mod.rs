//! The types whose values are scalars. Each describes what it expects, and why a text is invalid.
mod local;
mod web;

pub(crate) use local::{AbsolutePath, AdminSocket, FilePath, Network, SecretPath, Uid, UnixUrl, Version};
pub(crate) use web::{EgressException, Issuer, OriginUrl, Prefix, Resource, Scope, ServerName, WebUrl};

use super::decode::Leaf;
use crate::policy::Rate;
use serde_json::{Value, json};
use std::time::Duration;

/// Free text, such as a client id, a key id or an audience.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) String);

impl Leaf for Text {
    const EXPECTED: &'static str = "text";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("it is empty".into()),
            _ if text.chars().any(char::is_control) => Err("it contains a control character".into()),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// To a YAML editor `2026` is a number; to us it may be a key id.
    fn schema() -> Value {
        json!({ "type": ["string", "number", "boolean"] })
    }
}

/// The name of a server, a token or a route, which is also its label in metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name(pub(crate) String);

impl Leaf for Name {
    const EXPECTED: &'static str = "a name";

    fn parse(text: &str) -> Result<Self, String> {
        let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        match text.len() {
            1..=63 if begins && text.chars().all(valid) => Ok(Self(text.to_owned())),
            _ => Err("use 1 to 63 letters, digits, `-`, `_` and `.`, starting with a letter or digit".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$" })
    }
}

impl Leaf for bool {
    const EXPECTED: &'static str = "`true` or `false`";
    const UNQUOTED: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            "yes" | "Yes" | "on" | "On" | "True" | "TRUE" => Err("write `true`".into()),
            "no" | "No" | "off" | "Off" | "False" | "FALSE" => Err("write `false`".into()),
            _ => Err("it is neither".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "boolean" })
    }
}

/// A TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port(pub(crate) u16);

impl Leaf for Port {
    const EXPECTED: &'static str = "a port from 1 to 65535";
    const UNQUOTED: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(port) if port > 0 => Ok(Self(port)),
            _ => Err("it is not a number in this range".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "integer", "minimum": 1, "maximum": 65535 })
    }
}

/// A count of at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) usize);

impl Leaf for Count {
    const EXPECTED: &'static str = "a number from 1 to 1000000";
    const UNQUOTED: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count @ 1..=1_000_000) => Ok(Self(count)),
            _ => Err("it is not a number in this range".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "integer", "minimum": 1, "maximum": 1_000_000 })
    }
}

impl Leaf for Duration {
    const EXPECTED: &'static str = "a duration with its unit, such as `30s` or `5m`";

    fn parse(text: &str) -> Result<Self, String> {
        const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
        match humantime::parse_duration(text) {
            Ok(Duration::ZERO) => Err("it is zero".into()),
            Ok(duration) if duration > LONGEST => Err("it is longer than a day".into()),
            Ok(duration) => Ok(duration),
            Err(_) if text.bytes().all(|byte| byte.is_ascii_digit()) => Err("the unit is missing".into()),
            Err(_) => Err("the units are `ms`, `s`, `m` and `h`".into()),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl Leaf for Size {
    const EXPECTED: &'static str = "a size with its unit, such as `64KiB` or `10MiB`";

    fn parse(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit.trim()) else {
            return Err(if unit.is_empty() {
                "the unit is missing"
            } else {
                "the units are `B`, `KiB`, `MiB` and `GiB`"
            }
            .into());
        };
        if number.is_empty() {
            return Err("the number is missing".into());
        }
        let bytes = number.parse().ok().and_then(|number: u64| number.checked_mul(*factor));
        match bytes {
            Some(1..=0x100_0000_0000) => Ok(Self(bytes.unwrap_or_default())),
            Some(0) => Err("it is zero".into()),
            _ => Err("it is larger than 1024GiB".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^[0-9]+ *(B|KiB|MiB|GiB)$" })
    }
}

impl Leaf for Rate {
    const EXPECTED: &'static str = "a number of requests per second, minute or hour, such as `50/s` or `600/m`";

    fn parse(text: &str) -> Result<Self, String> {
        let (requests, unit) = text.split_once('/').ok_or("the unit is missing: `/s`, `/m` or `/h`")?;
        let per = match unit.trim() {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err("the units are `s`, `m` and `h`".into()),
        };
        match requests.trim().parse() {
            Ok(requests @ 1..=1_000_000) => Ok(Self { requests, per }),
            _ => Err("the number is not from 1 to 1000000".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^[0-9]+ */ *[smh]$" })
    }
}

/// How often a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryAttempts(pub(crate) u32);

impl Leaf for RetryAttempts {
    const EXPECTED: &'static str = "a number from 0 to 5";
    const UNQUOTED: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(attempts @ 0..=5) => Ok(Self(attempts)),
            _ => Err("it is not a number in this range".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "integer", "minimum": 0, "maximum": 5 })
    }
}

/// A share in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Percent(pub(crate) u32);

impl Leaf for Percent {
    const EXPECTED: &'static str = "a share such as `20%`";

    fn parse(text: &str) -> Result<Self, String> {
        let Some(number) = text.strip_suffix('%') else { return Err("the `%` is missing".into()) };
        match number.trim_end().parse() {
            Ok(share @ 0..=100) => Ok(Self(share)),
            _ => Err("it is not a number from 0 to 100".into()),
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^[0-9]{1,3} *%$" })
    }
}

#[cfg(test)]
pub(crate) fn accepts<L: Leaf>(texts: &[&str]) {
    for text in texts {
        assert!(L::parse(text).is_ok(), "{text}");
    }
}

#[cfg(test)]
pub(crate) fn refuses<L: Leaf>(texts: &[&str]) {
    for text in texts {
        assert!(L::parse(text).is_err(), "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_or_size_without_a_unit_is_refused() {
        assert_eq!(Duration::parse("1m 30s"), Ok(Duration::from_secs(90)));
        refuses::<Duration>(&["30", "0s", "2days", "-1s", "soon", ""]);
        assert_eq!(Size::parse("64KiB"), Ok(Size(65536)));
        assert_eq!(Size::parse("1 GiB"), Ok(Size(1 << 30)));
        refuses::<Size>(&["64", "64KB", "0B", "KiB", "", "99999999999999999999GiB", "2048GiB"]);
    }

    #[test]
    fn rate_has_a_number_and_a_unit() {
        assert_eq!(Rate::parse("50/s"), Ok(Rate { requests: 50, per: Duration::from_secs(1) }));
        assert_eq!(Rate::parse("600 / m"), Ok(Rate { requests: 600, per: Duration::from_secs(60) }));
        refuses::<Rate>(&["50", "0/s", "-1/s", "50/d", "/s", "50/", "1000001/s", "1.5/s"]);
    }

    #[test]
    fn share_outside_of_the_range_is_refused() {
        assert_eq!(Percent::parse("20%"), Ok(Percent(20)));
        accepts::<Percent>(&["0%", "100 %"]);
        refuses::<Percent>(&["20", "101%", "-1%", "0.5%", "%", ""]);
        refuses::<RetryAttempts>(&["6", "-1", "", "two"]);
    }

    #[test]
    fn name_with_other_characters_is_refused() {
        accepts::<Name>(&["a", "calendar-2.eu_1"]);
        refuses::<Name>(&["", "-a", "a b", "ä", &"a".repeat(64)]);
    }
}

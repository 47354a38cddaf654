//! What strangers wrote, as far as it goes into our own words: admission comes before validation, so a name may be anything.

/// Long enough for every name that Kubernetes takes.
const LONGEST: usize = 64;

/// Without control characters, and with an ellipsis where it is cut.
pub(crate) fn shortened(text: &str) -> String {
    let mut characters = text.chars().filter(|c| !c.is_control());
    let mut short: String = characters.by_ref().take(LONGEST).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut() {
        assert_eq!(shortened("calendar\n"), "calendar");
        assert_eq!(shortened(&"ü".repeat(64)), "ü".repeat(64));
        assert_eq!(shortened(&"ü".repeat(65)), format!("{}…", "ü".repeat(64)));
    }
}

//! Makes untrusted text safe to quote. Admission runs before validation, so a name in a pod can be
//! anything.

/// How many characters of a text are quoted. Most names in a pod are DNS labels, of at most 63
/// characters (RFC 1035 §2.3.4).
const MAX_QUOTED: usize = 64;

/// Removes control characters and cuts `text` after [`MAX_QUOTED`] characters, which an ellipsis
/// shows.
pub(crate) fn truncate(text: &str) -> String {
    let mut characters = text.chars().filter(|c| !c.is_control());
    let mut quoted: String = characters.by_ref().take(MAX_QUOTED).collect();
    if characters.next().is_some() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_with_an_ellipsis() {
        assert_eq!(truncate("calendar\n"), "calendar");
        assert_eq!(truncate(&"ü".repeat(64)), "ü".repeat(64));
        assert_eq!(truncate(&"ü".repeat(65)), format!("{}…", "ü".repeat(64)));
    }
}

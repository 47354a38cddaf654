//! Times as Kubernetes objects write them.
use crate::clock::Timestamp;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Writes a `Time`, which has whole seconds.
pub(super) fn time(at: Timestamp) -> String {
    humantime::format_rfc3339_seconds(system_time(at)).to_string()
}

/// Writes a `MicroTime`.
pub(super) fn micro_time(at: Timestamp) -> String {
    humantime::format_rfc3339_micros(system_time(at)).to_string()
}

fn system_time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(at.unix_millis())).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_has_no_fraction_and_micro_time_has_six_digits() {
        let at = Timestamp::from_unix_millis(1_000_500);
        assert_eq!(time(at), "1970-01-01T00:16:40Z");
        assert_eq!(micro_time(at), "1970-01-01T00:16:40.500000Z");
    }
}

//! Which replica renews the certificate. As client-go's leader election does it: a holder that has not renewed for the lease's own
//! duration, by the clock of whoever looks, is gone. No two clocks are compared.
use crate::clock::Timestamp;
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};

/// How long a silent holder is believed.
pub(super) const DURATION: Duration = Duration::from_secs(15);
/// How often the holder says that it is there.
pub(super) const RENEW: Duration = Duration::from_secs(5);

/// What a replica remembers of the lease, in its own monotonic time.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The record as it was last seen to change, and when.
    seen: Option<(Value, Duration)>,
    renewed: Option<Duration>,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is ours and fresh.
    Hold,
    /// Write it: it is ours and ages, or nobody's.
    Write,
    /// Somebody else's.
    Wait,
}

impl Watch {
    /// Whether there is something to find out by reading the lease.
    pub(super) fn is_fresh(&self, now: Duration) -> bool {
        self.renewed.is_some_and(|renewed| now.saturating_sub(renewed) < RENEW)
    }

    /// Judges the lease as it was read at `now`.
    pub(super) fn claim(&mut self, lease: &Value, me: &str, now: Duration) -> Claim {
        let spec = lease.get("spec").cloned().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => {
                self.seen = Some((spec.clone(), now));
                now
            }
        };
        let holder = spec.get("holderIdentity").and_then(Value::as_str).unwrap_or_default();
        let duration = spec.get("leaseDurationSeconds").and_then(Value::as_u64).map_or(DURATION, Duration::from_secs);
        if holder == me {
            if self.is_fresh(now) { Claim::Hold } else { Claim::Write }
        } else if holder.is_empty() || now.saturating_sub(since) >= duration {
            Claim::Write
        } else {
            Claim::Wait
        }
    }

    /// The lease was written at `now`.
    pub(super) fn wrote(&mut self, now: Duration) {
        self.renewed = Some(now);
    }

    /// Whether the lease that was last written still holds, whatever others do.
    pub(super) fn holds(&self, now: Duration) -> bool {
        self.renewed.is_some_and(|renewed| now.saturating_sub(renewed) < DURATION)
    }

    /// It is somebody else's.
    pub(super) fn lost(&mut self) {
        self.renewed = None;
    }
}

/// The lease, with us as its holder.
pub(super) fn taken(lease: &Value, me: &str, now: Timestamp) -> Value {
    let text = instant(now);
    let mut taken = lease.clone();
    let spec = lease.get("spec").cloned().unwrap_or_default();
    let holder = spec.get("holderIdentity").and_then(Value::as_str).unwrap_or_default();
    let transitions = spec.get("leaseTransitions").and_then(Value::as_u64).unwrap_or(0);
    let mut record = json!({"holderIdentity": me, "leaseDurationSeconds": DURATION.as_secs(), "renewTime": text});
    if holder == me {
        record["acquireTime"] = spec.get("acquireTime").cloned().unwrap_or(text.into());
        record["leaseTransitions"] = transitions.into();
    } else {
        record["acquireTime"] = text.into();
        record["leaseTransitions"] = transitions.saturating_add(1).into();
    }
    taken["spec"] = record;
    taken
}

/// The lease, with nobody as its holder, so that the next replica need not wait.
pub(super) fn released(lease: &Value) -> Value {
    let mut released = lease.clone();
    if let Some(spec) = released.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("holderIdentity".to_owned(), "".into());
    }
    released
}

/// A `MicroTime`.
pub(super) fn instant(at: Timestamp) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(at.unix_millis())).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_micros(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn empty() -> Value {
        json!({"metadata": {"name": "idjag-proxy-injector", "resourceVersion": "1"}})
    }

    #[test]
    fn an_empty_lease_is_taken_and_renewed() {
        let mut watch = Watch::default();
        assert_eq!(watch.claim(&empty(), "a", S), Claim::Write);
        let lease = taken(&empty(), "a", Timestamp::from_unix_millis(1_000_500));
        watch.wrote(S);
        assert_eq!(lease["metadata"]["resourceVersion"], "1", "so that a faster one wins");
        assert_eq!(lease["spec"]["renewTime"], "1970-01-01T00:16:40.500000Z");
        assert_eq!(watch.claim(&lease, "a", 2 * S), Claim::Hold);
        assert_eq!(watch.claim(&lease, "a", 6 * S), Claim::Write);
        let renewed = taken(&lease, "a", Timestamp::from_unix_seconds(2000));
        assert_eq!(renewed["spec"]["acquireTime"], lease["spec"]["acquireTime"]);
        assert_eq!(renewed["spec"]["leaseTransitions"], 1);
        assert!(watch.holds(15 * S) && !watch.holds(16 * S));
    }

    #[test]
    fn a_holder_is_believed_until_it_is_silent() {
        let lease = taken(&empty(), "a", Timestamp::from_unix_seconds(1));
        let mut watch = Watch::default();
        assert_eq!(watch.claim(&lease, "b", S), Claim::Wait);
        assert_eq!(watch.claim(&lease, "b", 15 * S), Claim::Wait);
        let renewed = taken(&lease, "a", Timestamp::from_unix_seconds(2));
        assert_eq!(watch.claim(&renewed, "b", 16 * S), Claim::Wait, "it has spoken");
        assert_eq!(watch.claim(&renewed, "b", 31 * S), Claim::Write);
        assert_eq!(taken(&renewed, "b", Timestamp::EPOCH)["spec"]["leaseTransitions"], 2);
    }

    #[test]
    fn a_lease_that_was_let_go_is_taken_at_once() {
        let lease = released(&taken(&empty(), "a", Timestamp::EPOCH));
        assert_eq!(Watch::default().claim(&lease, "b", S), Claim::Write);
    }

    #[test]
    fn a_lease_of_nonsense_is_nobodys() {
        for spec in [json!(null), json!([]), json!({"holderIdentity": 7}), json!({"leaseDurationSeconds": "x"})] {
            assert_eq!(Watch::default().claim(&json!({"spec": spec}), "b", S), Claim::Write, "{spec}");
        }
    }
}

//! The lease that decides which replica renews the certificate, as in client-go's leader election:
//! a holder that has not renewed the lease for its duration, by the observer's own clock, has lost
//! it. Clocks of two machines are never compared.
use super::timestamps::micro_time;
use crate::clock::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a holder keeps the lease without renewing it.
const DURATION: Duration = Duration::from_secs(15);
/// How often the holder renews the lease.
const RENEW: Duration = Duration::from_secs(5);

/// What a replica knows of the lease, in its own monotonic time.
#[derive(Debug, Default)]
pub(super) struct LeaseView {
    last_change: Option<LeaseRecord>,
    /// The time of this replica's last write.
    renewed: Option<Duration>,
}

/// The lease's spec, and when this replica first saw it so.
#[derive(Debug)]
struct LeaseRecord {
    spec: Value,
    since: Duration,
}

/// The next action of a replica on the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseAction {
    /// Nothing: this replica holds it and need not renew it yet.
    Hold,
    /// Write it: this replica must renew it, or nobody holds it.
    Write,
    /// Wait: another replica holds it.
    Wait,
}

impl LeaseView {
    /// Whether this replica renewed the lease so recently that reading it tells nothing new.
    pub(super) fn is_fresh(&self, now: Duration) -> bool {
        self.renewed.is_some_and(|renewed| now.saturating_sub(renewed) < RENEW)
    }

    /// Decides what to do about the lease, which was read at `now`.
    pub(super) fn claim(&mut self, lease: &Value, me: &str, now: Duration) -> LeaseAction {
        let spec = lease.get("spec").cloned().unwrap_or_default();
        let since = match &self.last_change {
            Some(record) if record.spec == spec => record.since,
            _ => {
                self.last_change = Some(LeaseRecord { spec: spec.clone(), since: now });
                now
            }
        };
        let holder = spec.get("holderIdentity").and_then(Value::as_str).unwrap_or_default();
        let duration = spec.get("leaseDurationSeconds").and_then(Value::as_u64).map_or(DURATION, Duration::from_secs);
        if holder == me {
            if self.is_fresh(now) { LeaseAction::Hold } else { LeaseAction::Write }
        } else if holder.is_empty() || now.saturating_sub(since) >= duration {
            LeaseAction::Write
        } else {
            LeaseAction::Wait
        }
    }

    /// Records that this replica wrote the lease at `now`.
    pub(super) fn renewed_at(&mut self, now: Duration) {
        self.renewed = Some(now);
    }

    /// Whether this replica holds the lease: no other replica may take it before it expires.
    pub(super) fn holds(&self, now: Duration) -> bool {
        self.renewed.is_some_and(|renewed| now.saturating_sub(renewed) < DURATION)
    }

    /// Records that another replica holds the lease.
    pub(super) fn record_loss(&mut self) {
        self.renewed = None;
    }
}

/// Returns the lease with `me` as its holder.
pub(super) fn acquired(lease: &Value, me: &str, now: Timestamp) -> Value {
    let text = micro_time(now);
    let mut acquired = lease.clone();
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
    acquired["spec"] = record;
    acquired
}

/// Returns the lease without a holder, so that the next replica need not wait.
pub(super) fn released(lease: &Value) -> Value {
    let mut released = lease.clone();
    if let Some(spec) = released.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("holderIdentity".to_owned(), "".into());
    }
    released
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn empty() -> Value {
        json!({"metadata": {"name": "idjag-proxy-injector", "resourceVersion": "1"}})
    }

    #[test]
    fn empty_lease_is_acquired_and_renewed() {
        let mut view = LeaseView::default();
        assert_eq!(view.claim(&empty(), "a", S), LeaseAction::Write);
        let lease = acquired(&empty(), "a", Timestamp::from_unix_millis(1_000_500));
        view.renewed_at(S);
        assert_eq!(lease["metadata"]["resourceVersion"], "1", "a concurrent write is a conflict");
        assert_eq!(lease["spec"]["renewTime"], "1970-01-01T00:16:40.500000Z");
        assert_eq!(view.claim(&lease, "a", 2 * S), LeaseAction::Hold);
        assert_eq!(view.claim(&lease, "a", 6 * S), LeaseAction::Write);
        let renewed = acquired(&lease, "a", Timestamp::from_unix_seconds(2000));
        assert_eq!(renewed["spec"]["acquireTime"], lease["spec"]["acquireTime"]);
        assert_eq!(renewed["spec"]["leaseTransitions"], 1);
        assert!(view.holds(15 * S) && !view.holds(16 * S));
    }

    #[test]
    fn lease_is_acquired_when_its_holder_stops_renewing() {
        let lease = acquired(&empty(), "a", Timestamp::from_unix_seconds(1));
        let mut view = LeaseView::default();
        assert_eq!(view.claim(&lease, "b", S), LeaseAction::Wait);
        assert_eq!(view.claim(&lease, "b", 15 * S), LeaseAction::Wait);
        let renewed = acquired(&lease, "a", Timestamp::from_unix_seconds(2));
        assert_eq!(view.claim(&renewed, "b", 16 * S), LeaseAction::Wait, "the holder has renewed it");
        assert_eq!(view.claim(&renewed, "b", 31 * S), LeaseAction::Write);
        assert_eq!(acquired(&renewed, "b", Timestamp::EPOCH)["spec"]["leaseTransitions"], 2);
    }

    #[test]
    fn released_lease_is_acquired_at_once() {
        let lease = released(&acquired(&empty(), "a", Timestamp::EPOCH));
        assert_eq!(LeaseView::default().claim(&lease, "b", S), LeaseAction::Write);
    }

    #[test]
    fn malformed_lease_has_no_holder() {
        for spec in [json!(null), json!([]), json!({"holderIdentity": 7}), json!({"leaseDurationSeconds": "x"})] {
            assert_eq!(LeaseView::default().claim(&json!({"spec": spec}), "b", S), LeaseAction::Write, "{spec}");
        }
    }
}

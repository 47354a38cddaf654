//! What the machine grants: how many threads the data plane gets where the configuration does not say, and how many descriptors.
use std::path::Path;

/// How the file descriptors are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// The first number that the agent's traffic does not get: the last ones are for probes, the identity and tokens, so that an
    /// agent that opens everything it can does not have the process restarted for silence.
    pub(super) end: u64,
    /// Connections of the agent's, each of which may take another descriptor for one to an upstream.
    pub(super) connections: usize,
}

impl Descriptors {
    /// Of a process that may open so many.
    pub(super) fn of(limit: u64) -> Self {
        let kept = (limit / 4).min(64);
        // As many again are open from the start.
        let connections = limit.saturating_sub(2 * kept) / 2;
        Self { end: limit - kept, connections: usize::try_from(connections).unwrap_or(usize::MAX).max(1) }
    }
}

/// The CPU quota rounded up; without one at most 2, because a sidecar is a guest on its node.
pub(super) fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let quota = quota_v2(&read("/sys/fs/cgroup/cpu.max")).or_else(|| {
        quota_v1(&read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), &read("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
    });
    quota.map_or(cores.min(2), |quota| quota.clamp(1, 64))
}

fn read(path: &str) -> String {
    // Not on Linux, or not in a cgroup: then there is no quota.
    std::fs::read_to_string(Path::new(path)).unwrap_or_default()
}

/// `cpu.max`: `$QUOTA $PERIOD`, or `max $PERIOD`.
fn quota_v2(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    rounded_up(quota.parse().ok()?, period.parse().ok()?)
}

fn quota_v1(quota: &str, period: &str) -> Option<usize> {
    rounded_up(quota.trim().parse().ok()?, period.trim().parse().ok()?)
}

fn rounded_up(quota: usize, period: usize) -> Option<usize> {
    (quota > 0 && period > 0).then(|| quota.div_ceil(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_kept_whatever_there_is() {
        for (limit, end, connections) in [(1024, 960, 448), (64, 48, 16), (1, 1, 1), (0, 0, 1)] {
            assert_eq!(Descriptors::of(limit), Descriptors { end, connections }, "{limit}");
        }
    }

    #[test]
    fn quotas_round_up() {
        assert_eq!(quota_v2("150000 100000\n"), Some(2));
        assert_eq!(quota_v2("50000 100000"), Some(1));
        assert_eq!(quota_v2("max 100000"), None);
        assert_eq!(quota_v1("-1\n", "100000\n"), None);
        assert_eq!(quota_v1("250000", "100000"), Some(3));
        assert_eq!(quota_v2(""), None);
    }
}

//! What the machine grants: how many threads the data plane gets where the configuration does not say, how many descriptors, and how
//! much memory.
use crate::config::ProcessLimits;
use crate::proxy::Limits;
use crate::telemetry::gauge_value;
use std::num::NonZeroUsize;
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

/// The limits of the data plane: those of the configuration, as far as the machine has room for them.
pub(super) fn limits(given: &ProcessLimits, descriptors: Option<Descriptors>) -> Limits {
    let defaults = Limits::default();
    let by_memory = busy_connections().unwrap_or(usize::MAX);
    let possible = descriptors.map_or(usize::MAX, |descriptors| descriptors.connections).min(by_memory);
    // A tunnel counts as a request, and has another one inside.
    let requests = given.requests.min(by_memory.saturating_mul(2));
    if possible < given.connections || requests < given.requests {
        tracing::info!(
            connections = given.connections.min(possible),
            requests,
            "limits: there is room for fewer, by the limit of file descriptors (RLIMIT_NOFILE) or of memory (cgroup)"
        );
    }
    Limits {
        connections: given.connections.min(possible),
        requests: gauge_value(requests),
        head: given.request_headers,
        delegated: NonZeroUsize::new(given.delegated_tokens).unwrap_or(defaults.delegated).min(defaults.delegated),
        ..defaults
    }
}

/// How many connections of the agent's the memory limit has room for, each with a request under way and a connection to an upstream;
/// `None` without a limit. Beyond it connections wait for a place, where the kernel would kill the process.
fn busy_connections() -> Option<usize> {
    let limit = memory_limit(&read("/sys/fs/cgroup/memory.max"));
    limit.or_else(|| memory_limit(&read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))).map(room)
}

fn room(memory: u64) -> usize {
    // tests/perf/results.md: 12 MiB without any, 65 KiB for each. A quarter is for tokens, the log and what a moment brings.
    const NONE: u64 = 16 << 20;
    const EACH: u64 = 72 << 10;
    let connections = (memory - memory / 4).saturating_sub(NONE) / EACH;
    usize::try_from(connections).unwrap_or(usize::MAX).max(16)
}

/// `max`, or with the first version a number that no machine has, for no limit.
fn memory_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < 1 << 60)
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
    fn a_memory_limit_is_a_limit_of_connections() {
        assert_eq!(memory_limit("134217728\n").map(room), Some(1137));
        assert_eq!(memory_limit("max\n"), None);
        assert_eq!(memory_limit("9223372036854771712\n"), None);
        assert_eq!(memory_limit(""), None);
        assert_eq!(memory_limit("1").map(room), Some(16));
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

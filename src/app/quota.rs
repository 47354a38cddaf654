//! The limits that the machine sets: CPU for worker threads, file descriptors, and memory.
use crate::config::ProcessLimits;
use crate::proxy::{Limits, windows};
use std::num::NonZeroUsize;
use std::path::Path;

/// How the file descriptors are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// The first descriptor number that the agent's traffic does not get. Those above are for
    /// probes, the identity and tokens, so that an agent that opens as many connections as it can
    /// does not make probes fail and the process restart.
    pub(super) end: u64,
    /// How many connections the agent may open. Each may need a second descriptor for a connection
    /// to an upstream.
    pub(super) connections: usize,
}

impl Descriptors {
    /// Divides the descriptors of a process that may open `limit` of them.
    pub(super) fn of(limit: u64) -> Self {
        let reserved = (limit / 4).min(64);
        // About as many as are reserved are open from the start, so twice the number is subtracted.
        let connections = limit.saturating_sub(2 * reserved) / 2;
        Self { end: limit - reserved, connections: usize::try_from(connections).unwrap_or(usize::MAX).max(1) }
    }
}

/// The limits of the data plane: those of the configuration, as far as the machine has room for
/// them.
pub(super) fn limits(given: &ProcessLimits, descriptors: Option<Descriptors>) -> Limits {
    // Naming every field makes the compiler reject a limit that is not enforced.
    let ProcessLimits { connections, requests, request_headers, delegated_tokens } = *given;
    let defaults = Limits::default();
    let by_memory = busy_connections().unwrap_or(usize::MAX);
    let possible = descriptors.map_or(usize::MAX, |descriptors| descriptors.connections).min(by_memory);
    // A tunnel counts as one request and carries another.
    let requests = requests.min(by_memory.saturating_mul(2));
    if possible < connections || requests < given.requests {
        tracing::info!(
            connections = connections.min(possible),
            requests,
            "limits: lowered to what file descriptors (RLIMIT_NOFILE) or memory (cgroup) allow"
        );
    }
    Limits {
        connections: connections.min(possible),
        requests: i64::try_from(requests).unwrap_or(i64::MAX),
        head: request_headers,
        delegated: NonZeroUsize::new(delegated_tokens).unwrap_or(defaults.delegated).min(defaults.delegated),
        ..defaults
    }
}

/// How many of the agent's connections fit into the memory limit, each with a request in flight and
/// a connection to an upstream; `None` without a limit. Further connections wait for a permit.
/// Otherwise the kernel would kill the process.
fn busy_connections() -> Option<usize> {
    let limit = memory_limit(&read("/sys/fs/cgroup/memory.max"));
    limit.or_else(|| memory_limit(&read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))).map(connections_within)
}

/// What a process without connections takes: 12 MiB (tests/perf/results.md), rounded up.
const IDLE: u64 = 16 << 20;
/// What a busy connection of an agent takes, with its connection or stream to an upstream: 65 KiB
/// for buffers and TLS (tests/perf/results.md), rounded up to 72, and what an upstream over HTTP/2
/// has not read of an upload: 72 + 64 = 136 KiB.
const EACH: u64 = (72 << 10) + windows::SEND_BUFFER as u64;

/// The rest of the memory, a quarter, is for what does not grow with the agent's connections:
/// tokens, caches, the log, and the windows of shared HTTP/2 connections. However many requests
/// share one, and however slowly the agents read, it holds at most its window of 1 MiB. At 128 MiB
/// the quarter is 32 full windows, which is as many connections as one origin may have.
const fn reserved(memory: u64) -> u64 {
    memory / 4
}

fn connections_within(memory: u64) -> usize {
    let connections = (memory - reserved(memory)).saturating_sub(IDLE) / EACH;
    usize::try_from(connections).unwrap_or(usize::MAX).max(16)
}

/// Reads a limit in bytes. `max` means that there is none; version 1 of cgroups writes a number
/// that no machine has instead.
fn memory_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < 1 << 60)
}

/// The number of worker threads: the CPU quota rounded up. Without a quota it is at most 2, because
/// a sidecar is a guest on its node.
pub(super) fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let quota = quota_v2(&read("/sys/fs/cgroup/cpu.max")).or_else(|| {
        quota_v1(&read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), &read("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
    });
    quota.map_or(cores.min(2), |quota| quota.clamp(1, 64))
}

fn read(path: &str) -> String {
    // Outside of Linux and of a cgroup, nothing limits the process.
    std::fs::read_to_string(Path::new(path)).unwrap_or_default()
}

/// Reads `cpu.max`: `$QUOTA $PERIOD`, or `max $PERIOD`.
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
    fn descriptors_are_reserved_for_any_limit() {
        for (limit, end, connections) in [(1024, 960, 448), (64, 48, 16), (1, 1, 1), (0, 0, 1)] {
            assert_eq!(Descriptors::of(limit), Descriptors { end, connections }, "{limit}");
        }
    }

    #[test]
    fn memory_limit_limits_connections() {
        assert_eq!(memory_limit("134217728\n").map(connections_within), Some(602));
        assert_eq!(memory_limit("max\n"), None);
        for mebibytes in [64, 128, 512, 4096] {
            let memory = mebibytes << 20;
            let busy = IDLE + connections_within(memory) as u64 * EACH;
            assert!(busy + reserved(memory) <= memory, "{mebibytes} MiB");
        }
        let full_windows = reserved(128 << 20) / u64::from(windows::CONNECTION);
        assert_eq!(full_windows, 32);
        assert_eq!(memory_limit("9223372036854771712\n"), None);
        assert_eq!(memory_limit(""), None);
        assert_eq!(memory_limit("1").map(connections_within), Some(16));
    }

    #[test]
    fn cpu_quota_is_rounded_up() {
        assert_eq!(quota_v2("150000 100000\n"), Some(2));
        assert_eq!(quota_v2("50000 100000"), Some(1));
        assert_eq!(quota_v2("max 100000"), None);
        assert_eq!(quota_v1("-1\n", "100000\n"), None);
        assert_eq!(quota_v1("250000", "100000"), Some(3));
        assert_eq!(quota_v2(""), None);
    }
}

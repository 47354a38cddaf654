//! What a path of the node gives access to.

/// Where SPIRE agents put their sockets, in SPIRE's charts and by SPIRE's own default. A container
/// that reaches one of these has the Workload API, wherever the sidecar's own socket comes from.
const SOCKETS: [&str; 2] = ["/run/spire", "/tmp/spire-agent"];
/// Other paths of a node that expose the socket or what the sidecar holds: pods' volumes, container
/// runtimes, processes' memory.
const NODE: [&str; 16] = [
    "/var/lib/kubelet/pods",
    "/var/lib/kubelet/plugins",
    "/var/lib/k0s",
    "/var/snap/microk8s",
    "/run/containerd",
    "/run/crio",
    "/run/cri-dockerd.sock",
    "/run/docker",
    "/run/docker.sock",
    "/run/k3s",
    "/run/k0s",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/rancher",
    "/proc",
];

/// Directories of programs that root runs on a node, and of the configuration that decides which.
const PROGRAMS: [&str; 15] = [
    "/bin",
    "/boot",
    "/etc/cni",
    "/etc/cron.d",
    "/etc/kubernetes",
    "/etc/systemd",
    "/lib",
    "/lib64",
    "/opt/cni",
    "/root",
    "/sbin",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/usr/sbin",
];

/// What a mounted path of the node gives access to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposure {
    None,
    /// The Workload API's socket.
    WorkloadApi,
    /// A part of the node that leads to what the sidecar holds.
    Node,
}

/// Finds what a mount of `host_path` exposes: a protected path that is equal to it, above it or
/// below it. `own` are the directories of the pod's own socket.
pub(super) fn exposure(host_path: &str, own: &[&str]) -> Exposure {
    let path = normalize(host_path);
    let leads_to = |directory: &&str| overlap(&normalize(directory), &path);
    if own.iter().any(leads_to) || SOCKETS.iter().any(leads_to) {
        Exposure::WorkloadApi
    } else if NODE.iter().any(leads_to) {
        Exposure::Node
    } else {
        Exposure::None
    }
}

/// Whether a writable mount of `host_path` decides what root runs on the node.
pub(super) fn holds_programs(host_path: &str) -> bool {
    let path = normalize(host_path);
    PROGRAMS.iter().any(|directory| overlap(&normalize(directory), &path))
}

/// Splits a path into its parts and resolves `.` and `..`. `/var/run` becomes `/run`, which it
/// links to.
fn normalize(path: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    if parts.starts_with(&["var", "run"]) {
        parts.remove(0);
    }
    parts
}

fn overlap(one: &[&str], other: &[&str]) -> bool {
    one.iter().zip(other).all(|(one, other)| one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_classified_by_the_protected_path_above_or_below_it() {
        for path in [
            "/",
            "/run",
            "/var/run/",
            "/run/spire",
            "/run/spire/agent-sockets/",
            "/run/spire/other",
            "/var/run/spire/agent-sockets/api.sock",
            "/tmp",
            "/tmp/spire-agent/public",
            "/var/log/../../run/./spire",
        ] {
            assert_eq!(exposure(path, &[]), Exposure::WorkloadApi, "{path}");
        }
        for path in [
            "/var",
            "/var/lib",
            "/var/lib/kubelet",
            "/var/lib/kubelet/pods/1/volumes",
            "/run/containerd/containerd.sock",
            "/var/run/docker.sock",
            "/var/lib/k0s/kubelet/pods",
            "/var/snap/microk8s/common",
            "/proc/1",
        ] {
            assert_eq!(exposure(path, &[]), Exposure::Node, "{path}");
        }
        for path in ["/run/spire-logs", "/var/log", "/var/lib/kubelet/device-plugins", "/data", "/tmp/x", "/run/udev"] {
            assert_eq!(exposure(path, &[]), Exposure::None, "{path}");
        }
        assert_eq!(exposure("/opt", &["/opt/spire"]), Exposure::WorkloadApi);
        assert_eq!(
            exposure("/run/spire/agent-sockets", &["/opt/spire"]),
            Exposure::WorkloadApi,
            "SPIRE's own paths count, too"
        );
    }
}

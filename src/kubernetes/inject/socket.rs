//! Where a pod gets the Workload API's socket from.
use crate::kubernetes::names::{CSI_DRIVER, VOLUME_WORKLOAD_API};
use serde_json::{Value, json};
use std::fmt;
use std::str::FromStr;

/// By the SPIFFE CSI driver, or from a directory of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// A volume of `csi.spiffe.io`, which Restricted Pod Security admits.
    Csi {
        /// The socket's name in it.
        file: String,
    },
    /// A directory of the node, which only Privileged Pod Security admits.
    HostPath {
        /// Absolute.
        directory: String,
        /// The socket's name in it.
        file: String,
    },
}

/// A text that names no socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no socket: write `csi`, `csi:FILE`, or `hostPath:/DIRECTORY/FILE` such as hostPath:/run/spire/agent-sockets/api.sock"
)]
pub struct SocketError(String);

/// The name that SPIRE's charts give the socket in a CSI volume.
const CSI_FILE: &str = "spire-agent.sock";

impl Default for Socket {
    fn default() -> Self {
        Self::Csi { file: CSI_FILE.to_owned() }
    }
}

impl FromStr for Socket {
    type Err = SocketError;

    fn from_str(text: &str) -> Result<Self, SocketError> {
        let refuse = || SocketError(text.to_owned());
        match text.split_once(':') {
            None if text == "csi" => Ok(Self::default()),
            Some(("csi", file)) if is_file_name(file) => Ok(Self::Csi { file: file.to_owned() }),
            Some(("hostPath", path)) => {
                let (directory, file) = path.rsplit_once('/').ok_or_else(refuse)?;
                if is_directory(directory) && is_file_name(file) {
                    Ok(Self::HostPath { directory: directory.to_owned(), file: file.to_owned() })
                } else {
                    Err(refuse())
                }
            }
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Csi { file } if file == CSI_FILE => f.write_str("csi"),
            Self::Csi { file } => write!(f, "csi:{file}"),
            Self::HostPath { directory, file } => write!(f, "hostPath:{directory}/{file}"),
        }
    }
}

impl Socket {
    pub(super) fn file(&self) -> &str {
        match self {
            Self::Csi { file } | Self::HostPath { file, .. } => file,
        }
    }

    pub(super) fn volume(&self) -> Value {
        match self {
            Self::Csi { .. } => json!({"name": VOLUME_WORKLOAD_API, "csi": {"driver": CSI_DRIVER, "readOnly": true}}),
            Self::HostPath { directory, .. } => {
                json!({"name": VOLUME_WORKLOAD_API, "hostPath": {"path": directory, "type": "Directory"}})
            }
        }
    }

    /// The directory of the node, if that is where it comes from.
    pub(super) fn directory(&self) -> Option<&str> {
        match self {
            Self::Csi { .. } => None,
            Self::HostPath { directory, .. } => Some(directory),
        }
    }
}

/// Where SPIRE's agents have their sockets: by its charts, and by its own default. Whatever the sidecar's own comes by, an agent that
/// gets at one of these has it too.
const SOCKETS: [&str; 2] = ["/run/spire", "/tmp/spire-agent"];
/// What else of a node shows the socket or what the sidecar holds: the volumes of pods, a container runtime, processes' memory.
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

/// From where a node's root takes programs, and what it runs of them.
const COMMANDS: [&str; 15] = [
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

/// What a path of the node leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Nothing,
    /// The Workload API's socket.
    Socket,
    /// A part of the node that leads to it.
    Node,
}

/// What this path leads to, being it, above it or inside. `own` are the directories of the pod's own socket.
pub(super) fn reach(host_path: &str, own: &[&str]) -> Reach {
    let path = normal(host_path);
    let leads_to = |directory: &&str| overlap(&normal(directory), &path);
    if own.iter().any(leads_to) || SOCKETS.iter().any(leads_to) {
        Reach::Socket
    } else if NODE.iter().any(leads_to) {
        Reach::Node
    } else {
        Reach::Nothing
    }
}

/// Whether whoever writes below this path of the node decides what its root runs.
pub(super) fn holds_commands(host_path: &str) -> bool {
    let path = normal(host_path);
    COMMANDS.iter().any(|directory| overlap(&normal(directory), &path))
}

/// A path without empty parts and detours, and without the alias that `/var/run` is.
fn normal(path: &str) -> Vec<&str> {
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

fn is_file_name(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && text.chars().all(is_path_character)
}

fn is_directory(text: &str) -> bool {
    text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_file_name))
}

/// What needs no quoting in a URL, so that `unix:///DIRECTORY/FILE` is what it looks like.
fn is_path_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read_and_shown() {
        for text in ["csi", "csi:api.sock", "hostPath:/run/spire/agent-sockets/api.sock"] {
            assert_eq!(text.parse::<Socket>().expect(text).to_string(), text);
        }
        assert_eq!("csi:spire-agent.sock".parse(), Ok(Socket::default()));
        for text in ["", "CSI", "csi:", "csi:a/b", "csi:..", "hostPath", "hostPath:", "hostPath:/api.sock"] {
            assert!(text.parse::<Socket>().is_err(), "{text}");
        }
        for text in ["hostPath:run/a/b.sock", "hostPath:/run/../etc/a", "hostPath:/run//a.sock", "hostPath:/run/a/"] {
            assert!(text.parse::<Socket>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_reaches_the_socket_from_above_and_from_inside() {
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
            assert_eq!(reach(path, &[]), Reach::Socket, "{path}");
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
            assert_eq!(reach(path, &[]), Reach::Node, "{path}");
        }
        for path in ["/run/spire-logs", "/var/log", "/var/lib/kubelet/device-plugins", "/data", "/tmp/x", "/run/udev"] {
            assert_eq!(reach(path, &[]), Reach::Nothing, "{path}");
        }
        assert_eq!(reach("/opt", &["/opt/spire"]), Reach::Socket);
        assert_eq!(reach("/run/spire/agent-sockets", &["/opt/spire"]), Reach::Socket, "the usual place counts too");
    }
}

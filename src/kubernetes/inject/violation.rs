//! Reasons to refuse a pod: with the sidecar in it, the agent could reach what the sidecar holds,
//! or the pod would break.
use super::host_path::{Exposure, exposure, holds_programs};
use super::json::{list, name, text};
use super::pod::Pod;
use crate::kubernetes::names::{CONTAINER, CSI_DRIVER, METRICS_PORT, METRICS_PORT_NAME, OUTBOUND_PORT, UID, VOLUMES};
use crate::kubernetes::untrusted::truncate;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// A reason to refuse a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    HostNetwork,
    HostPid,
    SharedProcesses,
    Windows,
    /// The container mounts the Workload API's socket.
    Socket(String),
    /// The container mounts a path of the node that leads to what the sidecar holds.
    Node {
        container: String,
        path: String,
    },
    /// The container reads the sidecar's Secret.
    Secret {
        container: String,
        secret: String,
    },
    /// The container mounts a volume of the sidecar.
    ReservedVolume {
        container: String,
        volume: String,
    },
    /// The container runs as the sidecar's user.
    User(String),
    /// Another container has the sidecar's name.
    ContainerName,
    /// The container that has the sidecar's name and label differs from what we write.
    Foreign(&'static str),
    /// A volume has the name of a sidecar's volume.
    VolumeName(String),
    /// The container has a port of the name that the sidecar's metrics port needs.
    PortName(String),
    /// The container declares a port that the sidecar listens on.
    Port {
        container: String,
        port: u16,
    },
    /// The `inject` label has neither of its two values.
    Label(String),
}

/// Shows the problem, short enough for a warning that kubectl prints.
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostNetwork => f.write_str("hostNetwork is true"),
            Self::HostPid => f.write_str("hostPID is true"),
            Self::SharedProcesses => f.write_str("shareProcessNamespace is true"),
            Self::Windows => f.write_str("it runs on Windows"),
            Self::Socket(container) => write!(f, "container {container} mounts the Workload API socket"),
            Self::Node { container, path } => write!(f, "container {container} mounts {path} from its node"),
            Self::Secret { container, secret } => write!(f, "container {container} reads the Secret {secret}"),
            Self::ReservedVolume { container, volume } => {
                write!(f, "container {container} mounts the volume {volume}")
            }
            Self::User(container) => write!(f, "container {container} runs as user {UID}, which is the sidecar's"),
            Self::ContainerName => write!(f, "a container is named {CONTAINER}"),
            Self::Foreign(difference) => write!(f, "its init container {CONTAINER} is not the sidecar: {difference}"),
            Self::VolumeName(volume) => write!(f, "a volume is named {volume}"),
            Self::PortName(container) => write!(f, "container {container} has a port named {METRICS_PORT_NAME}"),
            Self::Port { container, port } => write!(f, "container {container} has port {port}"),
            Self::Label(value) => write!(f, "label idjag-proxy.io/inject is `{value}`"),
        }
    }
}

impl Violation {
    /// Says why the violation matters, and what to do about it.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::HostNetwork => "every process of the node could use this agent's identity; remove it",
            Self::HostPid | Self::SharedProcesses => {
                "the agent could read the sidecar's memory, where the tokens are; remove it"
            }
            Self::Windows => "the sidecar runs on Linux",
            Self::Socket(_) => "the agent would hold the identity itself; remove the mount, the sidecar has its own",
            Self::Node { .. } => "it gives access to what the sidecar holds; mount a narrower path",
            Self::Secret { .. } => "its keys belong to the sidecar; give the agent a Secret of its own",
            Self::ReservedVolume { .. } => "it belongs to the sidecar; mount another one",
            Self::User(_) => "it could read what the sidecar holds; use another user",
            Self::Foreign(_) => "remove it and the label idjag-proxy.io/injected, and the sidecar is injected anew",
            Self::ContainerName | Self::VolumeName(_) => "the sidecar needs this name; use another",
            Self::PortName(_) => "the sidecar needs this name; rename the port",
            Self::Port { .. } => "the sidecar listens there; use another port",
            Self::Label(_) => "write enabled or disabled",
        }
    }
}

/// What no agent may reach, in addition to what has one of our names.
pub(super) struct Protected<'p> {
    /// The node's directories that may contain the sidecar's socket.
    pub(super) directories: Vec<&'p str>,
    /// The Secret that the sidecar mounts.
    pub(super) secret: &'p str,
}

/// How many violations are reported. Nobody reads more, and a hostile pod may have thousands.
const MAX_VIOLATIONS: usize = 16;

/// Finds the reasons to refuse `pod`, each once, in the order of the spec's fields.
pub(super) fn violations(pod: &Pod<'_>, protected: &Protected<'_>) -> Vec<Violation> {
    let mut inspection = Inspection { pod, protected, sources: HashMap::new(), found: Vec::new() };
    inspection.pod_settings();
    inspection.volumes();
    for agent in pod.agents() {
        inspection.container(agent.value);
    }
    inspection.found
}

/// What a volume gives access to, as far as it matters here.
enum VolumeSource<'v> {
    WorkloadApi,
    Secret,
    HostPath(&'v str),
    Other,
}

impl<'v> VolumeSource<'v> {
    fn of(volume: &'v Value, secret: &str) -> Self {
        let text = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str);
        if text("/csi/driver") == Some(CSI_DRIVER) {
            return Self::WorkloadApi;
        }
        let mut projected = volume.get("projected").into_iter().flat_map(|projected| list(projected, "sources"));
        if text("/secret/secretName") == Some(secret) || projected.any(|source| refers(source, "secret", secret)) {
            return Self::Secret;
        }
        text("/hostPath/path").map_or(Self::Other, Self::HostPath)
    }
}

/// Whether the reference `key` of `value` names `object`.
fn refers(value: &Value, key: &str, object: &str) -> bool {
    value.get(key).is_some_and(|reference| name(reference) == object)
}

/// The search for violations in one pod.
struct Inspection<'p> {
    pod: &'p Pod<'p>,
    protected: &'p Protected<'p>,
    /// The sources of the volumes by name, so that the search takes linear time with any number of
    /// mounts and volumes.
    sources: HashMap<&'p str, VolumeSource<'p>>,
    found: Vec<Violation>,
}

impl Inspection<'_> {
    fn add(&mut self, violation: Violation) {
        if self.found.len() < MAX_VIOLATIONS && !self.found.contains(&violation) {
            self.found.push(violation);
        }
    }

    fn pod_settings(&mut self) {
        let spec = self.pod.spec;
        let is_on = |key: &str| spec.get(key).and_then(Value::as_bool) == Some(true);
        for (is_there, violation) in [
            (is_on("hostNetwork"), Violation::HostNetwork),
            (is_on("hostPID"), Violation::HostPid),
            (is_on("shareProcessNamespace"), Violation::SharedProcesses),
            (is_windows(spec), Violation::Windows),
        ] {
            if is_there {
                self.add(violation);
            }
        }
    }

    fn volumes(&mut self) {
        for volume in list(self.pod.spec, "volumes") {
            let volume_name = name(volume);
            if !self.pod.has_sidecar() && VOLUMES.contains(&volume_name) {
                self.add(Violation::VolumeName(volume_name.to_owned()));
            }
            let secret = self.protected.secret;
            self.sources.entry(volume_name).or_insert_with(|| VolumeSource::of(volume, secret));
        }
    }

    fn container(&mut self, container: &Value) {
        if name(container) == CONTAINER {
            self.add(Violation::ContainerName);
        }
        self.mounts(container);
        if reads_secret(container, self.protected.secret) {
            self.add(self.secret_violation(container));
        }
        if user(container, self.pod.spec) == Some(UID) {
            self.add(Violation::User(quoted_name(container)));
        }
        self.ports(container);
    }

    fn mounts(&mut self, container: &Value) {
        for mount in list(container, "volumeMounts") {
            let volume = name(mount);
            if VOLUMES.contains(&volume) {
                let container = quoted_name(container);
                self.add(Violation::ReservedVolume { container, volume: volume.to_owned() });
                continue;
            }
            let violation = match self.sources.get(volume) {
                Some(VolumeSource::WorkloadApi) => Some(Violation::Socket(quoted_name(container))),
                Some(VolumeSource::Secret) => Some(self.secret_violation(container)),
                Some(VolumeSource::HostPath(path)) => {
                    let path = mounted_path(path, mount);
                    match exposure(&path, &self.protected.directories) {
                        Exposure::None => None,
                        Exposure::WorkloadApi => Some(Violation::Socket(quoted_name(container))),
                        Exposure::Node => {
                            Some(Violation::Node { container: quoted_name(container), path: truncate(&path) })
                        }
                    }
                }
                Some(VolumeSource::Other) | None => None,
            };
            violation.into_iter().for_each(|violation| self.add(violation));
        }
    }

    fn ports(&mut self, container: &Value) {
        for port in list(container, "ports") {
            if name(port) == METRICS_PORT_NAME {
                self.add(Violation::PortName(quoted_name(container)));
            }
            let number = port.get("containerPort").and_then(Value::as_u64);
            let is_tcp = text(port, "protocol").is_none_or(|protocol| protocol == "TCP");
            let taken = [OUTBOUND_PORT, METRICS_PORT].into_iter().find(|taken| Some(u64::from(*taken)) == number);
            if let Some(port) = taken.filter(|_| is_tcp) {
                self.add(Violation::Port { container: quoted_name(container), port });
            }
        }
    }

    fn secret_violation(&self, container: &Value) -> Violation {
        Violation::Secret { container: quoted_name(container), secret: self.protected.secret.to_owned() }
    }
}

fn quoted_name(container: &Value) -> String {
    truncate(name(container))
}

/// Whether an environment variable of the container comes from this Secret.
fn reads_secret(container: &Value, secret: &str) -> bool {
    let reads_key = |entry: &Value| entry.get("valueFrom").is_some_and(|from| refers(from, "secretKeyRef", secret));
    list(container, "envFrom").any(|entry| refers(entry, "secretRef", secret)) || list(container, "env").any(reads_key)
}

/// Returns the path of the node that the container sees, given the volume's path.
fn mounted_path<'p>(path: &'p str, mount: &Value) -> Cow<'p, str> {
    match text(mount, "subPath") {
        Some(below) => Cow::Owned(format!("{path}/{below}")),
        None => Cow::Borrowed(path),
    }
}

/// Returns the user that the container runs as: its own, or else the pod's.
fn user(container: &Value, spec: &Value) -> Option<i64> {
    let run_as_user = |value: &Value| value.pointer("/securityContext/runAsUser").and_then(Value::as_i64);
    run_as_user(container).or_else(|| run_as_user(spec))
}

fn is_windows(spec: &Value) -> bool {
    let is = |value: Option<&Value>| value.and_then(Value::as_str) == Some("windows");
    let terms = spec
        .pointer("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution")
        .into_iter()
        .flat_map(|required| list(required, "nodeSelectorTerms"));
    let mut terms = terms.map(term_is_windows).peekable();
    // The terms are alternatives: the pod runs on Windows only if each of them demands it.
    let by_affinity = terms.peek().is_some() && terms.all(|is_windows| is_windows);
    is(spec.pointer("/os/name")) || is(spec.pointer("/nodeSelector/kubernetes.io~1os")) || by_affinity
}

fn term_is_windows(term: &Value) -> bool {
    list(term, "matchExpressions").any(|expression| {
        let mut values = list(expression, "values").peekable();
        let is_windows = values.peek().is_some() && values.all(|value| value == "windows");
        text(expression, "key") == Some("kubernetes.io/os") && text(expression, "operator") == Some("In") && is_windows
    })
}

/// Capabilities that give access to the node's memory or files, whatever is mounted.
const CAPABILITIES: [&str; 7] = ["ALL", "BPF", "DAC_READ_SEARCH", "PERFMON", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO"];

/// Returns a warning for each container that is risky but not refused, about its greatest risk.
pub(super) fn risks(pod: &Pod<'_>) -> Vec<String> {
    let host_paths: HashMap<&str, &str> = list(pod.spec, "volumes")
        .filter_map(|volume| Some((name(volume), volume.pointer("/hostPath/path")?.as_str()?)))
        .collect();
    let risks = pod.agents().filter_map(|agent| Some((agent.value, risk(agent.value, &host_paths)?)));
    risks.map(|(container, risk)| format!("container {} {risk}", quoted_name(container))).collect()
}

fn risk(container: &Value, host_paths: &HashMap<&str, &str>) -> Option<String> {
    if container.pointer("/securityContext/privileged").and_then(Value::as_bool) == Some(true) {
        return Some("is privileged: nothing on its node is hidden from it".to_owned());
    }
    let capabilities = container.pointer("/securityContext/capabilities");
    let mut added = capabilities.into_iter().flat_map(|capabilities| list(capabilities, "add"));
    let dangerous =
        |given: &str| CAPABILITIES.into_iter().find(|capability| given.trim_start_matches("CAP_") == *capability);
    if let Some(capability) = added.find_map(|given| given.as_str().and_then(dangerous)) {
        return Some(format!("has the capability {capability}: nothing on its node is hidden from it"));
    }
    let is_writable = |mount: &&Value| mount.get("readOnly").and_then(Value::as_bool) != Some(true);
    let mounts = list(container, "volumeMounts").filter(is_writable);
    let mut paths = mounts.filter_map(|mount| Some(mounted_path(host_paths.get(name(mount))?, mount)));
    let path = paths.find(|path| holds_programs(path))?;
    Some(format!("can write {} of its node, which holds programs that root runs", truncate(&path)))
}

#[cfg(test)]
mod tests;

//! What makes a sidecar no boundary, or breaks the pod: such a pod is refused.
use super::socket::{Reach, holds_commands, reach};
use crate::kubernetes::names::{CONTAINER, CSI_DRIVER, METRICS_PORT, METRICS_PORT_NAME, OUTBOUND_PORT, UID, VOLUMES};
use crate::kubernetes::words::shortened;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// A reason to refuse a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hazard {
    HostNetwork,
    HostPid,
    SharedProcesses,
    Windows,
    /// The container mounts the Workload API's socket.
    Socket(String),
    /// The container mounts a part of the node that leads to what the sidecar holds.
    Node {
        container: String,
        path: String,
    },
    /// The container reads the Secret that is the sidecar's.
    Secret {
        container: String,
        secret: String,
    },
    /// The container mounts a volume that is the sidecar's.
    Reserved {
        container: String,
        volume: String,
    },
    /// The container has the sidecar's user.
    User(String),
    /// A container, not ours, has the sidecar's name.
    ContainerName,
    /// What is there as the sidecar is not what we write.
    Foreign(&'static str),
    VolumeName(String),
    PortName(String),
    Port {
        container: String,
        port: u16,
    },
    /// `inject` says neither.
    Label(String),
}

/// The problem, short enough for a warning of kubectl.
impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostNetwork => f.write_str("hostNetwork is true"),
            Self::HostPid => f.write_str("hostPID is true"),
            Self::SharedProcesses => f.write_str("shareProcessNamespace is true"),
            Self::Windows => f.write_str("it runs on Windows"),
            Self::Socket(container) => write!(f, "container {container} mounts the Workload API socket"),
            Self::Node { container, path } => write!(f, "container {container} mounts {path} of its node"),
            Self::Secret { container, secret } => write!(f, "container {container} reads the Secret {secret}"),
            Self::Reserved { container, volume } => write!(f, "container {container} mounts the volume {volume}"),
            Self::User(container) => write!(f, "container {container} runs as user {UID}, which is the sidecar's"),
            Self::ContainerName => write!(f, "a container is named {CONTAINER}"),
            Self::Foreign(what) => write!(f, "its init container {CONTAINER} is not the sidecar: {what}"),
            Self::VolumeName(volume) => write!(f, "a volume is named {volume}"),
            Self::PortName(container) => write!(f, "container {container} has a port named {METRICS_PORT_NAME}"),
            Self::Port { container, port } => write!(f, "container {container} has port {port}"),
            Self::Label(value) => write!(f, "label idjag-proxy.io/inject is `{value}`"),
        }
    }
}

impl Hazard {
    /// Why, and what to do.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::HostNetwork => "every process of the node could use this agent's identity; remove it",
            Self::HostPid | Self::SharedProcesses => {
                "the agent could read the sidecar's memory, where the tokens are; remove it"
            }
            Self::Windows => "the sidecar runs on Linux",
            Self::Socket(_) => "the agent would hold the identity itself; remove the mount, the sidecar has its own",
            Self::Node { .. } => "what the sidecar holds can be got at through it; mount a narrower path",
            Self::Secret { .. } => "its keys are the sidecar's; give the agent a Secret of its own",
            Self::Reserved { .. } => "it is the sidecar's; mount another one",
            Self::User(_) => "it could read what the sidecar holds; use another user",
            Self::Foreign(_) => "remove it and the label idjag-proxy.io/injected, and it is written anew",
            Self::ContainerName | Self::VolumeName(_) => "the sidecar needs this name; use another",
            Self::PortName(_) => "the sidecar needs this name; name the port otherwise",
            Self::Port { .. } => "the sidecar listens there; use another port",
            Self::Label(_) => "write enabled or disabled",
        }
    }
}

/// What no agent may get at, besides what bears our names.
pub(super) struct Guarded<'p> {
    /// The directories of the node that the sidecar's socket comes from.
    pub(super) directories: Vec<&'p str>,
    /// The Secret that the sidecar mounts.
    pub(super) secret: &'p str,
    /// The pod has the sidecar already.
    pub(super) has_sidecar: bool,
}

/// Nobody reads more of them, and a stranger's pod may have thousands.
const MOST: usize = 16;

/// Reasons to refuse, each once.
#[derive(Default)]
struct Found(Vec<Hazard>);

impl Found {
    fn add(&mut self, hazard: Hazard) {
        if self.0.len() < MOST && !self.0.contains(&hazard) {
            self.0.push(hazard);
        }
    }
}

/// The reasons to refuse the pod of this `spec`, in the order of the spec's own fields.
pub(super) fn hazards(spec: &Value, guarded: &Guarded<'_>) -> Vec<Hazard> {
    let mut found = Found::default();
    let on = |key: &str| spec.get(key).and_then(Value::as_bool) == Some(true);
    for (is_there, hazard) in [
        (on("hostNetwork"), Hazard::HostNetwork),
        (on("hostPID"), Hazard::HostPid),
        (on("shareProcessNamespace"), Hazard::SharedProcesses),
        (is_windows(spec), Hazard::Windows),
    ] {
        if is_there {
            found.add(hazard);
        }
    }
    // By name, so that a pod of many mounts and many volumes takes no longer than it is long.
    let mut sources = HashMap::new();
    for volume in list(spec, "volumes") {
        let volume_name = name(volume);
        if !guarded.has_sidecar && VOLUMES.contains(&volume_name) {
            found.add(Hazard::VolumeName(volume_name.to_owned()));
        }
        sources.entry(volume_name).or_insert_with(|| source(volume, guarded.secret));
    }
    for container in agents(spec, guarded.has_sidecar) {
        of_container(container, spec, (&sources, guarded), &mut found);
    }
    found.0
}

/// The containers that are not the sidecar, of which there is one.
pub(super) fn agents(spec: &Value, has_sidecar: bool) -> impl Iterator<Item = &Value> {
    let sidecar = list(spec, "initContainers").position(|container| has_sidecar && name(container) == CONTAINER);
    let initial = list(spec, "initContainers").enumerate().filter(move |(index, _)| Some(*index) != sidecar);
    let initial = initial.map(|(_, container)| container);
    initial.chain(list(spec, "containers")).chain(list(spec, "ephemeralContainers"))
}

/// What a volume shows, as far as it matters here.
enum Source<'v> {
    WorkloadApi,
    Secret,
    HostPath(&'v str),
    Other,
}

fn source<'v>(volume: &'v Value, secret: &str) -> Source<'v> {
    let text = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str);
    if text("/csi/driver") == Some(CSI_DRIVER) {
        return Source::WorkloadApi;
    }
    let mut projected = volume.get("projected").into_iter().flat_map(|projected| list(projected, "sources"));
    if text("/secret/secretName") == Some(secret) || projected.any(|source| refers(source, "secret", secret)) {
        return Source::Secret;
    }
    text("/hostPath/path").map_or(Source::Other, Source::HostPath)
}

/// Whether `value` has a reference of this key to the object of this name.
fn refers(value: &Value, key: &str, object: &str) -> bool {
    value.get(key).is_some_and(|reference| name(reference) == object)
}

fn of_container(
    container: &Value,
    spec: &Value,
    (sources, guarded): (&HashMap<&str, Source<'_>>, &Guarded<'_>),
    found: &mut Found,
) {
    let who = || shortened(name(container));
    if name(container) == CONTAINER {
        found.add(Hazard::ContainerName);
    }
    for mount in list(container, "volumeMounts") {
        let volume = name(mount);
        if VOLUMES.contains(&volume) {
            found.add(Hazard::Reserved { container: who(), volume: volume.to_owned() });
            continue;
        }
        match sources.get(volume) {
            Some(Source::WorkloadApi) => found.add(Hazard::Socket(who())),
            Some(Source::Secret) => found.add(secret(who(), guarded)),
            Some(Source::HostPath(path)) => {
                let path = mounted(path, mount);
                match reach(&path, &guarded.directories) {
                    Reach::Nothing => {}
                    Reach::Socket => found.add(Hazard::Socket(who())),
                    Reach::Node => found.add(Hazard::Node { container: who(), path: shortened(&path) }),
                }
            }
            Some(Source::Other) | None => {}
        }
    }
    let from_secret = |entry: &Value| refers(entry, "secretRef", guarded.secret);
    let of_secret = |entry: &Value| entry.get("valueFrom").is_some_and(|f| refers(f, "secretKeyRef", guarded.secret));
    if list(container, "envFrom").any(from_secret) || list(container, "env").any(of_secret) {
        found.add(secret(who(), guarded));
    }
    if user(container, spec) == Some(UID) {
        found.add(Hazard::User(who()));
    }
    for port in list(container, "ports") {
        if name(port) == METRICS_PORT_NAME {
            found.add(Hazard::PortName(who()));
        }
        let number = port.get("containerPort").and_then(Value::as_u64);
        let is_tcp = port.get("protocol").and_then(Value::as_str).is_none_or(|protocol| protocol == "TCP");
        let ours = [OUTBOUND_PORT, METRICS_PORT].into_iter().find(|ours| Some(u64::from(*ours)) == number);
        if let Some(port) = ours.filter(|_| is_tcp) {
            found.add(Hazard::Port { container: who(), port });
        }
    }
}

/// What of this path of the node the container has.
fn mounted<'p>(path: &'p str, mount: &Value) -> Cow<'p, str> {
    match mount.get("subPath").and_then(Value::as_str) {
        Some(below) => Cow::Owned(format!("{path}/{below}")),
        None => Cow::Borrowed(path),
    }
}

fn secret(container: String, guarded: &Guarded<'_>) -> Hazard {
    Hazard::Secret { container, secret: guarded.secret.to_owned() }
}

/// The container's own user, else the pod's.
fn user(container: &Value, spec: &Value) -> Option<i64> {
    let of = |value: &Value| value.pointer("/securityContext/runAsUser").and_then(Value::as_i64);
    of(container).or_else(|| of(spec))
}

fn is_windows(spec: &Value) -> bool {
    let is = |value: Option<&Value>| value.and_then(Value::as_str) == Some("windows");
    let terms = spec
        .pointer("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution")
        .into_iter()
        .flat_map(|required| list(required, "nodeSelectorTerms"));
    let mut terms = terms.map(term_is_windows).peekable();
    // The terms are alternatives: only if each of them leads to Windows does the pod.
    let by_affinity = terms.peek().is_some() && terms.all(|is_windows| is_windows);
    is(spec.pointer("/os/name")) || is(spec.pointer("/nodeSelector/kubernetes.io~1os")) || by_affinity
}

fn term_is_windows(term: &Value) -> bool {
    list(term, "matchExpressions").any(|expression| {
        let text = |key: &str| expression.get(key).and_then(Value::as_str);
        let mut values = list(expression, "values").peekable();
        let is_windows = values.peek().is_some() && values.all(|value| value == "windows");
        text("key") == Some("kubernetes.io/os") && text("operator") == Some("In") && is_windows
    })
}

/// What leads from a container to its node's memory or files, whatever is mounted.
const CAPABILITIES: [&str; 7] = ["ALL", "BPF", "DAC_READ_SEARCH", "PERFMON", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO"];

/// What is risky without being a reason to refuse: said as a warning, the worst for each container.
pub(super) fn risks(spec: &Value, has_sidecar: bool) -> Vec<String> {
    let host_paths: HashMap<&str, &str> = list(spec, "volumes")
        .filter_map(|volume| Some((name(volume), volume.pointer("/hostPath/path")?.as_str()?)))
        .collect();
    let risk = |container: &Value| {
        if container.pointer("/securityContext/privileged").and_then(Value::as_bool) == Some(true) {
            return Some("is privileged: nothing on its node is hidden from it".to_owned());
        }
        let capabilities = container.pointer("/securityContext/capabilities");
        let mut added = capabilities.into_iter().flat_map(|capabilities| list(capabilities, "add"));
        let known = |given: &str| CAPABILITIES.into_iter().find(|known| given.trim_start_matches("CAP_") == *known);
        if let Some(capability) = added.find_map(|given| given.as_str().and_then(known)) {
            return Some(format!("has the capability {capability}: nothing on its node is hidden from it"));
        }
        let is_writable = |mount: &&Value| mount.get("readOnly").and_then(Value::as_bool) != Some(true);
        let mounts = list(container, "volumeMounts").filter(is_writable);
        let mut paths = mounts.filter_map(|mount| Some(mounted(host_paths.get(name(mount))?, mount)));
        let path = paths.find(|path| holds_commands(path))?;
        Some(format!("writes {} of its node, from where its root takes programs", shortened(&path)))
    };
    let risks = agents(spec, has_sidecar).filter_map(|container| Some((container, risk(container)?)));
    risks.map(|(container, risk)| format!("container {} {risk}", shortened(name(container)))).collect()
}

pub(super) fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn name(value: &Value) -> &str {
    value.get("name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! What makes a sidecar no boundary, or breaks the pod: such a pod is refused.
use super::socket::Socket;
use crate::kubernetes::names::{CONTAINER, CSI_DRIVER, METRICS_PORT, METRICS_PORT_NAME, OUTBOUND_PORT, UID, VOLUMES};
use serde_json::Value;
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
    /// The container mounts a volume that is the sidecar's.
    Reserved {
        container: String,
        volume: String,
    },
    /// The container has the sidecar's user.
    User(String),
    /// A container, not ours, has the sidecar's name.
    ContainerName,
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
            Self::Reserved { container, volume } => write!(f, "container {container} mounts the volume {volume}"),
            Self::User(container) => write!(f, "container {container} runs as user {UID}, which is the sidecar's"),
            Self::ContainerName => write!(f, "a container is named {CONTAINER}"),
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
            Self::Reserved { .. } => "it is the sidecar's; mount another one",
            Self::User(_) => "it could read what the sidecar holds; use another user",
            Self::ContainerName | Self::VolumeName(_) => "the sidecar needs this name; use another",
            Self::PortName(_) => "the sidecar needs this name; name the port otherwise",
            Self::Port { .. } => "the sidecar listens there; use another port",
            Self::Label(_) => "write enabled or disabled",
        }
    }
}

/// Every reason to refuse the pod of this `spec`, in the order of the spec's own fields. `ours` is the sidecar where the pod has one.
pub(super) fn hazards(spec: &Value, socket: &Socket, has_sidecar: bool) -> Vec<Hazard> {
    let mut found = Vec::new();
    let on = |key: &str| spec.get(key).and_then(Value::as_bool) == Some(true);
    for (is_there, hazard) in [
        (on("hostNetwork"), Hazard::HostNetwork),
        (on("hostPID"), Hazard::HostPid),
        (on("shareProcessNamespace"), Hazard::SharedProcesses),
        (is_windows(spec), Hazard::Windows),
    ] {
        if is_there {
            found.push(hazard);
        }
    }
    let volumes: Vec<&Value> = list(spec, "volumes").collect();
    if !has_sidecar {
        let taken = volumes.iter().map(|volume| name(volume)).filter(|name| VOLUMES.contains(name));
        found.extend(taken.map(|name| Hazard::VolumeName(name.to_owned())));
    }
    for container in agents(spec, has_sidecar) {
        of_container(container, spec, (&volumes, socket), &mut found);
    }
    found
}

/// The containers that are not the sidecar.
pub(super) fn agents(spec: &Value, has_sidecar: bool) -> impl Iterator<Item = &Value> {
    let initial = list(spec, "initContainers").filter(move |container| !(has_sidecar && name(container) == CONTAINER));
    initial.chain(list(spec, "containers")).chain(list(spec, "ephemeralContainers"))
}

fn of_container(container: &Value, spec: &Value, (volumes, socket): (&[&Value], &Socket), found: &mut Vec<Hazard>) {
    let who = || name(container).to_owned();
    if name(container) == CONTAINER {
        found.push(Hazard::ContainerName);
    }
    for mount in list(container, "volumeMounts") {
        let volume = name(mount);
        if VOLUMES.contains(&volume) {
            found.push(Hazard::Reserved { container: who(), volume: volume.to_owned() });
        } else if volumes.iter().any(|known| name(known) == volume && is_socket(known, mount, socket)) {
            found.push(Hazard::Socket(who()));
        }
    }
    if user(container, spec) == Some(UID) {
        found.push(Hazard::User(who()));
    }
    for port in list(container, "ports") {
        if name(port) == METRICS_PORT_NAME {
            found.push(Hazard::PortName(who()));
        }
        let number = port.get("containerPort").and_then(Value::as_u64);
        let is_tcp = port.get("protocol").and_then(Value::as_str).is_none_or(|protocol| protocol == "TCP");
        let ours = [OUTBOUND_PORT, METRICS_PORT].into_iter().find(|ours| Some(u64::from(*ours)) == number);
        found.extend(ours.filter(|_| is_tcp).map(|port| Hazard::Port { container: who(), port }));
    }
}

/// Whether this mount of this volume shows the Workload API's socket.
fn is_socket(volume: &Value, mount: &Value, socket: &Socket) -> bool {
    if volume.pointer("/csi/driver").and_then(Value::as_str) == Some(CSI_DRIVER) {
        return true;
    }
    let Some(path) = volume.pointer("/hostPath/path").and_then(Value::as_str) else { return false };
    match mount.get("subPath").and_then(Value::as_str) {
        Some(below) => socket.is_reached_by(&format!("{path}/{below}")),
        None => socket.is_reached_by(path),
    }
}

/// The container's own user, else the pod's.
fn user(container: &Value, spec: &Value) -> Option<i64> {
    let of = |value: &Value| value.pointer("/securityContext/runAsUser").and_then(Value::as_i64);
    of(container).or_else(|| of(spec))
}

fn is_windows(spec: &Value) -> bool {
    let is = |value: Option<&Value>| value.and_then(Value::as_str) == Some("windows");
    is(spec.pointer("/os/name")) || is(spec.pointer("/nodeSelector/kubernetes.io~1os"))
}

/// What is risky without being a reason to refuse: said as a warning.
pub(super) fn risks(spec: &Value, has_sidecar: bool) -> Vec<String> {
    let is_privileged =
        |container: &&Value| container.pointer("/securityContext/privileged").and_then(Value::as_bool) == Some(true);
    let privileged = agents(spec, has_sidecar).filter(is_privileged);
    privileged
        .map(|container| format!("container {} is privileged: nothing on its node is hidden from it", name(container)))
        .collect()
}

pub(super) fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn name(value: &Value) -> &str {
    value.get("name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(spec: &Value) -> Vec<String> {
        hazards(spec, &Socket::default(), false).iter().map(ToString::to_string).collect()
    }

    fn with_agent(agent: &Value) -> Value {
        let mut agent = agent.clone();
        agent["name"] = json!("agent");
        json!({"containers": [agent]})
    }

    #[test]
    fn an_ordinary_pod_has_none() {
        let ordinary = json!({
            "hostNetwork": false, "os": {"name": "linux"}, "securityContext": {"runAsUser": 1000},
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "logs", "hostPath": {"path": "/var/log"}}],
            "initContainers": [{"name": "wait"}],
            "containers": [{
                "name": "agent", "ports": [{"containerPort": 8080}, {"containerPort": 17090, "protocol": "UDP"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "logs", "mountPath": "/logs"}],
            }],
        });
        assert_eq!(of(&ordinary), Vec::<String>::new());
        assert_eq!(
            of(&json!({"containers": "none", "volumes": {}, "initContainers": [1, null, "x"]})),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_the_pod_shares() {
        assert_eq!(of(&json!({"hostNetwork": true})), ["hostNetwork is true"]);
        assert_eq!(of(&json!({"hostPID": true})), ["hostPID is true"]);
        assert_eq!(of(&json!({"shareProcessNamespace": true})), ["shareProcessNamespace is true"]);
        assert_eq!(of(&json!({"os": {"name": "windows"}})), ["it runs on Windows"]);
        assert_eq!(of(&json!({"nodeSelector": {"kubernetes.io/os": "windows"}})), ["it runs on Windows"]);
    }

    #[test]
    fn an_agent_with_the_socket() {
        for volume in [
            json!({"name": "v", "csi": {"driver": "csi.spiffe.io", "readOnly": true}}),
            json!({"name": "v", "hostPath": {"path": "/run/spire/agent-sockets"}}),
            json!({"name": "v", "hostPath": {"path": "/var/run/spire/"}}),
            json!({"name": "v", "hostPath": {"path": "/"}}),
        ] {
            let mut spec = with_agent(&json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]}));
            spec["volumes"] = json!([volume]);
            assert_eq!(of(&spec), ["container agent mounts the Workload API socket"], "{volume}");
            spec["initContainers"] = spec["containers"].take();
            assert_eq!(of(&spec), ["container agent mounts the Workload API socket"], "as an init container");
        }
        let mut elsewhere = with_agent(&json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "log"}]}));
        elsewhere["volumes"] =
            json!([{"name": "v", "hostPath": {"path": "/run"}}, {"name": "w", "csi": {"driver": "csi.spiffe.io"}}]);
        assert_eq!(
            of(&elsewhere),
            Vec::<String>::new(),
            "neither the other part of it nor a volume that nobody mounts"
        );
    }

    #[test]
    fn an_agent_with_the_sidecars_user() {
        assert_eq!(of(&with_agent(&json!({"securityContext": {"runAsUser": 17080}}))).len(), 1);
        let mut pod = with_agent(&json!({}));
        pod["securityContext"] = json!({"runAsUser": 17080});
        assert_eq!(of(&pod), ["container agent runs as user 17080, which is the sidecar's"]);
        pod["containers"][0]["securityContext"] = json!({"runAsUser": 1000});
        assert_eq!(of(&pod), Vec::<String>::new(), "the container's own wins");
    }

    #[test]
    fn names_and_ports_that_clash() {
        assert_eq!(of(&json!({"initContainers": [{"name": "idjag-proxy"}]})), ["a container is named idjag-proxy"]);
        assert_eq!(of(&json!({"volumes": [{"name": "idjag-proxy-admin"}]})), ["a volume is named idjag-proxy-admin"]);
        let ports = json!({"ports": [{"name": "idjag-metrics", "containerPort": 17080}, {"containerPort": 17090}]});
        let expected = [
            "container agent has a port named idjag-metrics",
            "container agent has port 17080",
            "container agent has port 17090",
        ];
        assert_eq!(of(&with_agent(&ports)), expected);
    }

    #[test]
    fn a_mount_of_what_will_be_the_sidecars() {
        let spec = with_agent(&json!({"volumeMounts": [{"name": "idjag-proxy-secrets", "mountPath": "/s"}]}));
        assert_eq!(of(&spec), ["container agent mounts the volume idjag-proxy-secrets"]);
        assert_eq!(hazards(&spec, &Socket::default(), true).len(), 1, "once it is injected too");
    }
}

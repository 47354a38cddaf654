use super::*;
use serde_json::json;

fn pod(spec: &Value) -> Pod<'_> {
    Pod { object: spec, spec, sidecar_index: None }
}

fn problems(spec: &Value) -> Vec<String> {
    found(&pod(spec)).iter().map(ToString::to_string).collect()
}

fn found(pod: &Pod<'_>) -> Vec<Violation> {
    violations(pod, &Protected { directories: vec!["/opt/spire"], secret: "idjag-proxy" })
}

fn with_agent(agent: &Value) -> Value {
    let mut agent = agent.clone();
    agent["name"] = json!("agent");
    json!({"containers": [agent]})
}

#[test]
fn ordinary_pod_has_no_violation() {
    let ordinary = json!({
        "hostNetwork": false, "os": {"name": "linux"}, "securityContext": {"runAsUser": 1000},
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "logs", "hostPath": {"path": "/var/log"}}],
        "initContainers": [{"name": "wait"}],
        "containers": [{
            "name": "agent", "ports": [{"containerPort": 8080}, {"containerPort": 17090, "protocol": "UDP"}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "logs", "mountPath": "/logs"}],
        }],
    });
    assert_eq!(problems(&ordinary), Vec::<String>::new());
    assert_eq!(
        problems(&json!({"containers": "none", "volumes": {}, "initContainers": [1, null, "x"]})),
        Vec::<String>::new()
    );
}

#[test]
fn shared_namespaces_and_windows_are_violations() {
    assert_eq!(problems(&json!({"hostNetwork": true})), ["hostNetwork is true"]);
    assert_eq!(problems(&json!({"hostPID": true})), ["hostPID is true"]);
    assert_eq!(problems(&json!({"shareProcessNamespace": true})), ["shareProcessNamespace is true"]);
    assert_eq!(problems(&json!({"os": {"name": "windows"}})), ["it runs on Windows"]);
    assert_eq!(problems(&json!({"nodeSelector": {"kubernetes.io/os": "windows"}})), ["it runs on Windows"]);
    let affinity = |terms: &Value| {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        problems(&json!({"affinity": {"nodeAffinity": required}}))
    };
    let term = |operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": "kubernetes.io/os", "operator": operator, "values": values}]});
    assert_eq!(affinity(&json!([term("In", &["windows"])])), ["it runs on Windows"]);
    for linux in [
        json!([term("In", &["windows"]), term("In", &["linux"])]),
        json!([term("NotIn", &["windows"])]),
        json!([term("In", &["windows", "linux"])]),
        json!([]),
    ] {
        assert_eq!(affinity(&linux), Vec::<String>::new(), "{linux}");
    }
}

#[test]
fn agent_that_mounts_the_socket_is_a_violation() {
    for volume in [
        json!({"name": "v", "csi": {"driver": "csi.spiffe.io", "readOnly": true}}),
        json!({"name": "v", "hostPath": {"path": "/run/spire/agent-sockets"}}),
        json!({"name": "v", "hostPath": {"path": "/var/run/spire/"}}),
        json!({"name": "v", "hostPath": {"path": "/"}}),
        json!({"name": "v", "hostPath": {"path": "/opt/spire"}}),
        json!({"name": "v", "hostPath": {"path": "/tmp/spire-agent/public"}}),
    ] {
        let mut spec = with_agent(&json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]}));
        spec["volumes"] = json!([volume]);
        assert_eq!(problems(&spec), ["container agent mounts the Workload API socket"], "{volume}");
        spec["initContainers"] = spec["containers"].take();
        assert_eq!(problems(&spec), ["container agent mounts the Workload API socket"], "as an init container");
    }
    let mut elsewhere = with_agent(&json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "log"}]}));
    elsewhere["volumes"] =
        json!([{"name": "v", "hostPath": {"path": "/run"}}, {"name": "w", "csi": {"driver": "csi.spiffe.io"}}]);
    assert_eq!(problems(&elsewhere), Vec::<String>::new(), "another subPath, and a volume that is not mounted");
}

#[test]
fn agent_that_mounts_a_revealing_node_path_is_a_violation() {
    for path in ["/var/lib/kubelet", "/var", "/run/containerd", "/proc"] {
        let mut spec = with_agent(&json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]}));
        spec["volumes"] = json!([{"name": "v", "hostPath": {"path": path}}]);
        assert_eq!(problems(&spec), [format!("container agent mounts {path} from its node")]);
    }
}

#[test]
fn agent_that_reads_the_sidecars_secret_is_a_violation() {
    let volumes = [
        json!({"name": "v", "secret": {"secretName": "idjag-proxy"}}),
        json!({"name": "v", "projected": {"sources": [{"configMap": {"name": "a"}}, {"secret": {"name": "idjag-proxy"}}]}}),
    ];
    let mut specs: Vec<Value> = volumes
        .into_iter()
        .map(|volume| {
            let mut spec = with_agent(&json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]}));
            spec["volumes"] = json!([volume]);
            spec
        })
        .collect();
    specs.push(with_agent(&json!({"envFrom": [{"secretRef": {"name": "idjag-proxy"}}]})));
    specs.push(with_agent(
        &json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "idjag-proxy", "key": "k"}}}]}),
    ));
    for spec in specs {
        assert_eq!(problems(&spec), ["container agent reads the Secret idjag-proxy"], "{spec}");
        let other = spec.to_string().replace("\"idjag-proxy\"", "\"another\"");
        assert_eq!(problems(&serde_json::from_str(&other).expect("JSON")), Vec::<String>::new());
    }
}

/// Returns the CPU time of this thread, which does not depend on how busy the machine is.
#[cfg(target_os = "linux")]
fn cpu_milliseconds() -> i64 {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    getrusage(UsageWho::RUSAGE_THREAD).expect("the usage").user_time().num_milliseconds()
}

/// In quadratic time, 10,000 mounts would take several seconds.
#[cfg(target_os = "linux")]
#[test]
fn many_mounts_of_many_volumes_take_linear_time() {
    let named = |index: usize| format!("v{index}");
    let volumes: Vec<Value> =
        (0..10_000).map(|index| json!({"name": named(index), "hostPath": {"path": "/proc"}})).collect();
    let mounts: Vec<Value> =
        (0..10_000).map(|index| json!({"name": named(10_000 - index), "mountPath": "/x"})).collect();
    let mut spec = with_agent(&json!({"volumeMounts": mounts}));
    spec["volumes"] = volumes.into();
    let before = cpu_milliseconds();
    assert_eq!(problems(&spec), ["container agent mounts /proc from its node"], "reported once");
    let taken = cpu_milliseconds() - before;
    assert!(taken < 2000, "{taken} ms");
}

#[test]
fn hostile_pod_gets_a_bounded_answer() {
    let container = |index: usize| json!({"name": format!("{index}{}", "x".repeat(10_000)), "securityContext": {"runAsUser": 17080}});
    let violations = problems(&json!({"containers": (0..100).map(container).collect::<Vec<_>>()}));
    assert_eq!(violations.len(), MAX_VIOLATIONS);
    assert!(violations.iter().all(|violation| violation.len() < 200), "{violations:?}");
}

#[test]
fn agent_that_runs_as_the_sidecars_user_is_a_violation() {
    assert_eq!(problems(&with_agent(&json!({"securityContext": {"runAsUser": 17080}}))).len(), 1);
    let mut pod = with_agent(&json!({}));
    pod["securityContext"] = json!({"runAsUser": 17080});
    assert_eq!(problems(&pod), ["container agent runs as user 17080, which is the sidecar's"]);
    pod["containers"][0]["securityContext"] = json!({"runAsUser": 1000});
    assert_eq!(problems(&pod), Vec::<String>::new(), "the container's own user takes precedence");
}

#[test]
fn names_and_ports_of_the_sidecar_are_violations() {
    assert_eq!(problems(&json!({"initContainers": [{"name": "idjag-proxy"}]})), ["a container is named idjag-proxy"]);
    assert_eq!(problems(&json!({"volumes": [{"name": "idjag-proxy-admin"}]})), ["a volume is named idjag-proxy-admin"]);
    let ports = json!({"ports": [{"name": "idjag-metrics", "containerPort": 17080}, {"containerPort": 17090}]});
    let expected = [
        "container agent has a port named idjag-metrics",
        "container agent has port 17080",
        "container agent has port 17090",
    ];
    assert_eq!(problems(&with_agent(&ports)), expected);
}

#[test]
fn mount_of_a_sidecars_volume_is_a_violation() {
    let spec = with_agent(&json!({"volumeMounts": [{"name": "idjag-proxy-secrets", "mountPath": "/s"}]}));
    assert_eq!(problems(&spec), ["container agent mounts the volume idjag-proxy-secrets"]);
    assert_eq!(found(&Pod { sidecar_index: Some(0), ..pod(&spec) }).len(), 1, "also once it is injected");
}

#[test]
fn access_to_the_node_is_warned_about() {
    let risk = |agent: Value, path: &str| {
        let mut spec = with_agent(&agent);
        spec["volumes"] = json!([{"name": "node", "hostPath": {"path": path}}]);
        spec["containers"][0]["volumeMounts"].as_array_mut().into_iter().flatten().for_each(|mount| {
            mount["name"] = json!("node");
        });
        risks(&pod(&spec))
    };
    let with = |capability: &str| json!({"securityContext": {"capabilities": {"add": ["CHOWN", capability]}}});
    for (agent, path, expected) in [
        (
            json!({"securityContext": {"privileged": true}}),
            "/data",
            "is privileged: nothing on its node is hidden from it",
        ),
        (with("SYS_ADMIN"), "/data", "has the capability SYS_ADMIN: nothing on its node is hidden from it"),
        (with("CAP_ALL"), "/data", "has the capability ALL: nothing on its node is hidden from it"),
        (json!({"volumeMounts": [{}]}), "/etc", "can write /etc of its node, which holds programs that root runs"),
        (
            json!({"volumeMounts": [{"subPath": "bin"}]}),
            "/usr",
            "can write /usr/bin of its node, which holds programs that root runs",
        ),
        (
            json!({"volumeMounts": [{"readOnly": false}]}),
            "/usr/local/bin",
            "can write /usr/local/bin of its node, which holds programs that root runs",
        ),
    ] {
        assert_eq!(risk(agent, path), [format!("container agent {expected}")]);
    }
    for (agent, path) in [
        (with("NET_BIND_SERVICE"), "/data"),
        (json!({"volumeMounts": [{}]}), "/etc/localtime"),
        (json!({"volumeMounts": [{"subPath": "localtime"}]}), "/etc"),
        (json!({"volumeMounts": [{}]}), "/data"),
        (json!({"volumeMounts": [{"readOnly": true}]}), "/etc"),
        (json!({}), "/etc"),
    ] {
        assert_eq!(risk(agent, path), Vec::<String>::new(), "{path}");
    }
}

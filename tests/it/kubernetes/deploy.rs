//! Compares the handwritten manifests in `deploy/` with what `inject` writes.
use idjag_proxy::kubernetes::{Defaults, inject_manifests};
use serde_json::Value;
use std::path::Path;

const WORKLOADS: [(&str, &str); 3] = [
    ("deployment.yaml", "/spec/template"),
    ("job.yaml", "/spec/template"),
    ("cronjob.yaml", "/spec/jobTemplate/spec/template"),
];

fn read(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Removes the sidecar from a workload, and adds the annotation that asks for the variables.
fn bare(workload: &Value, template: &str) -> Value {
    let mut bare = workload.clone();
    let pod = bare.pointer_mut(template).expect("a template");
    let spec = pod["spec"].as_object_mut().expect("a spec");
    for key in ["initContainers", "volumes", "terminationGracePeriodSeconds"] {
        spec.remove(key).unwrap_or_else(|| panic!("{key} is there"));
    }
    for container in spec["containers"].as_array_mut().expect("containers") {
        container.as_object_mut().expect("a container").remove("env").expect("the variables are there");
    }
    pod["metadata"]["labels"]
        .as_object_mut()
        .expect("labels")
        .remove("idjag-proxy.io/injected")
        .expect("the label is there");
    pod["metadata"]["annotations"] = serde_json::json!({"idjag-proxy.io/http-proxy": "true"});
    bare
}

fn injected(workload: &Value, template: &str, defaults: &Defaults) -> Value {
    let injected = inject_manifests(&workload.to_string(), defaults).expect("manifests");
    assert_eq!(injected.skipped(), 0);
    let mut injected: Value = serde_json::from_str(&injected.text).expect("JSON");
    injected.pointer_mut(template).expect("a template")["metadata"]
        .as_object_mut()
        .expect("metadata")
        .remove("annotations");
    injected
}

#[test]
fn kustomize_base_equals_what_inject_writes() {
    for (file, template) in WORKLOADS {
        let written = read(&format!("base/{file}"));
        assert_eq!(injected(&bare(&written, template), template, &Defaults::default()), written, "{file}");
    }
}

#[test]
fn kustomize_overlay_equals_what_inject_writes_for_a_host_path() {
    let overlay = read("overlays/host-path/kustomization.yaml");
    let defaults = Defaults {
        socket: "hostPath:/run/spire/agent-sockets/spire-agent.sock".parse().expect("a socket"),
        ..Defaults::default()
    };
    for (file, template) in WORKLOADS {
        let written = read(&format!("base/{file}"));
        let patches = overlay["patches"].as_array().expect("patches").iter();
        let patch = patches
            .filter(|patch| patch["target"]["kind"] == written["kind"])
            .map(|patch| patch["patch"].as_str().expect("a patch"));
        let mut patched = written.clone();
        for patch in patch {
            let patch: json_patch::Patch = serde_yaml::from_str(patch).expect("a patch");
            json_patch::patch(&mut patched, &patch).expect("it applies");
        }
        assert_ne!(patched, written, "{file} is patched");
        assert_eq!(injected(&bare(&written, template), template, &defaults), patched, "{file}");
    }
}

#[test]
fn configuration_of_the_base_is_valid() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base/proxy.yaml");
    let socket = |name: &str| (name == "SPIFFE_ENDPOINT_SOCKET").then(|| "unix:///s".to_owned());
    let loaded = idjag_proxy::config::load(&file, &socket, &idjag_proxy::config::Overrides::default());
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
    assert!(loaded.warnings.is_empty());
    let grace = read("base/deployment.yaml")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64();
    assert!(grace.is_some_and(|grace| grace > loaded.config.process.drain_deadline.as_secs()));
}

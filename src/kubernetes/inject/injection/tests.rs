use super::*;

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "unknown": 1.5,
        "metadata": {"name": "calendar", "labels": {"app": "calendar"}},
        "spec": {
            "futureField": {"kept": [1, 2]},
            "initContainers": [{"name": "wait", "image": "busybox"}],
            "containers": [{"name": "agent", "image": "agent:1", "new": true}],
        },
    })
}

fn injected(mut pod: Value, existing: OnExisting) -> (Value, Injection) {
    let done = inject(&pod, &Defaults::default(), existing).expect("injected");
    json_patch::patch(&mut pod, &done.patch).expect("it applies");
    (pod, done)
}

fn problems(pod: &Value) -> Vec<String> {
    inject(pod, &Defaults::default(), OnExisting::Keep).expect_err("refused").problems()
}

#[test]
fn sidecar_comes_first_and_nothing_is_lost() {
    let (pod, done) = injected(pod(), OnExisting::Keep);
    assert_eq!(pod["spec"]["initContainers"][0]["name"], "idjag-proxy");
    assert_eq!(pod["spec"]["initContainers"][1]["name"], "wait");
    assert_eq!(pod["spec"]["volumes"].as_array().expect("volumes").len(), 5);
    assert_eq!(pod["metadata"]["labels"]["idjag-proxy.io/injected"], "true");
    assert_eq!(pod["metadata"]["labels"]["app"], "calendar");
    assert_eq!((&pod["unknown"], &pod["spec"]["futureField"]), (&json!(1.5), &json!({"kept": [1, 2]})));
    assert_eq!(pod["spec"]["containers"][0], json!({"name": "agent", "image": "agent:1", "new": true}));
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 30);
    assert_eq!((done.config.as_str(), done.had_sidecar, done.warnings), ("idjag-proxy", false, vec![]));
}

#[test]
fn annotations_set_image_log_level_and_resources_of_the_container() {
    let bare = injected(pod(), OnExisting::Keep).0["spec"]["initContainers"][0].clone();
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({
        "idjag-proxy.io/image": "mirror.example/idjag-proxy:2",
        "idjag-proxy.io/log-level": "debug",
        "idjag-proxy.io/resources": "cpu=50m,cpu-limit=1,memory-limit=256Mi",
    });
    let (pod, _) = injected(pod, OnExisting::Keep);
    let mut expected = bare;
    expected["image"] = json!("mirror.example/idjag-proxy:2");
    expected["args"].as_array_mut().expect("arguments").push(json!("--log-level=debug"));
    expected["resources"] =
        json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}});
    assert_eq!(pod["spec"]["initContainers"][0], expected, "nothing else of it changes");
}

#[test]
fn injecting_twice_changes_nothing() {
    let (once, _) = injected(pod(), OnExisting::Keep);
    for existing in [OnExisting::Keep, OnExisting::Renew] {
        let (twice, done) = injected(once.clone(), existing);
        assert_eq!(twice, once);
        assert!(done.had_sidecar);
    }
}

#[test]
fn sidecar_changed_by_another_webhook_is_kept() {
    let (mut once, _) = injected(pod(), OnExisting::Keep);
    once["spec"]["initContainers"][0]["image"] = json!("mirror.example/idjag-proxy:1");
    let kept = once["spec"]["initContainers"][0]["image"].clone();
    let (twice, _) = injected(once.clone(), OnExisting::Keep);
    assert_eq!(twice["spec"]["initContainers"][0]["image"], kept);
    once["metadata"]["annotations"]["idjag-proxy.io/config"] = json!("other");
    let (renewed, _) = injected(once, OnExisting::Renew);
    assert_eq!(renewed["spec"]["volumes"][0]["configMap"]["name"], "other");
    assert_eq!(renewed["spec"]["volumes"].as_array().expect("volumes").len(), 5);
}

#[test]
fn container_added_after_injection_gets_the_variables_and_is_checked() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({"idjag-proxy.io/http-proxy": "true"});
    let (mut once, _) = injected(pod, OnExisting::Keep);
    assert_eq!(once["spec"]["initContainers"][0].get("env"), None, "the sidecar does not get them");
    once["spec"]["containers"].as_array_mut().expect("containers").push(json!({"name": "late"}));
    let (twice, _) = injected(once.clone(), OnExisting::Keep);
    assert_eq!(twice["spec"]["containers"][1]["env"].as_array().expect("variables").len(), 4);
    once["spec"]["containers"][1]["volumeMounts"] = json!([{"name": "idjag-proxy-workload-api", "mountPath": "/x"}]);
    assert_eq!(problems(&once), ["container late mounts the volume idjag-proxy-workload-api"]);
}

#[test]
fn refusal_lists_every_problem() {
    let mut pod = pod();
    pod["spec"]["hostNetwork"] = json!(true);
    pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 17080});
    pod["metadata"]["annotations"] = json!({"idjag-proxy.io/log-levle": "debug"});
    pod["metadata"]["labels"]["idjag-proxy.io/inject"] = json!("true");
    let refusal = inject(&pod, &Defaults::default(), OnExisting::Keep).expect_err("refused");
    let expected = "hostNetwork is true: every process of the node could use this agent's identity; remove it; \
        container agent runs as user 17080, which is the sidecar's: it could read what the sidecar holds; use another user; \
        label idjag-proxy.io/inject is `true`: write enabled or disabled; \
        annotation idjag-proxy.io/log-levle: unknown annotation; did you mean `idjag-proxy.io/log-level`?";
    assert_eq!(refusal.to_string(), expected);
}

#[test]
fn value_without_the_shape_of_a_pod_is_refused() {
    for (pod, problem) in [
        (json!({}), "it has no spec"),
        (json!({"spec": []}), "it has no spec"),
        (json!({"spec": {"containers": []}}), "its spec has no containers"),
        (json!({"spec": {"containers": [{}], "volumes": 1}}), "containers and volumes must be lists"),
        (
            json!({"metadata": 7, "spec": {"containers": [{}]}}),
            "metadata, spec, labels and annotations must be mappings",
        ),
    ] {
        assert_eq!(problems(&pod), [problem]);
    }
}

#[test]
fn excessive_counts_are_refused() {
    let many = |count: usize| (0..count).map(|index| json!({"name": format!("n{index}")})).collect::<Vec<_>>();
    let mut large = pod();
    large["spec"]["containers"] = many(255).into();
    large["spec"]["volumes"] = many(1024).into();
    assert!(inject(&large, &Defaults::default(), OnExisting::Keep).is_ok());
    large["spec"]["volumes"] = many(1025).into();
    assert_eq!(problems(&large), ["it has more than 1024 volumes"]);
    large["spec"]["containers"] = many(256).into();
    assert_eq!(problems(&large), ["it has more than 256 containers"]);
}

#[test]
fn container_that_only_looks_like_the_sidecar_is_refused() {
    let (ours, _) = injected(pod(), OnExisting::Keep);
    let sidecar = "/spec/initContainers/0";
    for (place, value, problem) in [
        ("restartPolicy", Value::Null, "its restartPolicy is not Always"),
        ("securityContext/runAsUser", json!(0), "it runs as another user"),
        ("securityContext/privileged", json!(true), "it is privileged"),
        ("command", json!(["/bin/sh"]), "it has a command"),
        ("args", json!(["-c", "spy"]), "its args differ"),
        ("args/7", json!("--listen-outbound=0.0.0.0:17080"), "its args differ"),
        ("volumeMounts", json!([]), "its volumeMounts differ"),
    ] {
        let mut forged = ours.clone();
        let patch = json!([{"op": "add", "path": format!("{sidecar}/{place}"), "value": value}]);
        json_patch::patch(&mut forged, &serde_json::from_value::<Patch>(patch).expect("a patch")).expect("it applies");
        let expected = format!("its init container idjag-proxy is not the sidecar: {problem}");
        assert_eq!(problems(&forged), [expected]);
        let (renewed, _) = injected(forged, OnExisting::Renew);
        assert_eq!(renewed, ours, "a manifest's sidecar is replaced");
    }
    let mut forged = ours.clone();
    forged["spec"]["volumes"][0] = json!({"name": "idjag-proxy-config", "secret": {"secretName": "other"}});
    assert_eq!(problems(&forged), ["its init container idjag-proxy is not the sidecar: its volumes differ"]);
    let mut two = ours.clone();
    let copy = two.pointer(sidecar).cloned().expect("the sidecar");
    two["spec"]["initContainers"].as_array_mut().expect("a list").push(copy);
    assert!(problems(&two).contains(&"a container is named idjag-proxy".to_owned()));
}

#[test]
fn sidecar_with_allowed_changes_is_recognized() {
    let mut settled = pod();
    settled["metadata"]["annotations"] = json!({"idjag-proxy.io/log-level": "debug", "idjag-proxy.io/config": "a.b"});
    let (mut settled, _) = injected(settled, OnExisting::Keep);
    let sidecar = &mut settled["spec"]["initContainers"][0];
    sidecar["image"] = json!("mirror.example/idjag-proxy:0");
    sidecar["resources"] = json!({});
    sidecar["env"] = json!([{"name": "A", "value": "1"}]);
    sidecar["volumeMounts"].as_array_mut().expect("mounts").push(json!({"name": "ca", "mountPath": "/ca"}));
    settled["spec"]["volumes"][0]["configMap"]["defaultMode"] = json!(420);
    let (again, done) = injected(settled.clone(), OnExisting::Keep);
    assert_eq!((again, done.config.as_str(), done.patch.is_empty()), (settled, "a.b", true));
}

#[test]
fn socket_and_secret_of_a_kept_sidecar_are_protected() {
    let mut by_path = pod();
    by_path["metadata"]["annotations"] =
        json!({"idjag-proxy.io/socket": "hostPath:/opt/spire/api.sock", "idjag-proxy.io/config": "own"});
    let (mut by_path, _) = injected(by_path, OnExisting::Keep);
    let annotations = by_path["metadata"]["annotations"].as_object_mut().expect("annotations");
    annotations.retain(|key, _| key == "idjag-proxy.io/status");
    by_path["spec"]["volumes"].as_array_mut().expect("a list").push(json!({"name": "v", "hostPath": {"path": "/opt"}}));
    by_path["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/x"}]);
    by_path["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "own"}}]);
    let expected = ["container agent mounts the Workload API socket", "container agent reads the Secret own"];
    assert_eq!(problems(&by_path), expected);
}

#[test]
fn default_socket_is_protected_when_the_pod_names_another() {
    let defaults =
        Defaults { socket: "hostPath:/opt/spire/api.sock".parse().expect("a socket"), ..Defaults::default() };
    for socket in ["hostPath:/srv/api.sock", "csi"] {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({"idjag-proxy.io/socket": socket});
        pod["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": "/opt/spire"}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/x"}]);
        let refused = inject(&pod, &defaults, OnExisting::Keep).expect_err(socket);
        assert_eq!(refused.problems(), ["container agent mounts the Workload API socket"], "{socket}");
    }
}

#[test]
fn changed_annotation_changes_the_variables() {
    for existing in [OnExisting::Keep, OnExisting::Renew] {
        let mut pod = pod();
        let bare = injected(pod.clone(), existing).0;
        pod["metadata"]["annotations"] =
            json!({"idjag-proxy.io/http-proxy": "true", "idjag-proxy.io/no-proxy": "a.example"});
        let (mut once, _) = injected(pod, existing);
        once["metadata"]["annotations"]["idjag-proxy.io/no-proxy"] = json!("b.example");
        let (mut twice, done) = injected(once, existing);
        assert_eq!(twice["spec"]["containers"][0]["env"][3]["value"], "localhost,127.0.0.1,::1,b.example");
        assert_eq!(done.warnings, Vec::<String>::new());
        let annotations = twice["metadata"]["annotations"].as_object_mut().expect("annotations");
        annotations.retain(|key, _| key == "idjag-proxy.io/status");
        let (thrice, _) = injected(twice, existing);
        assert_eq!(thrice, bare, "all variables are removed");
    }
}

#[test]
fn null_field_counts_as_absent() {
    let pod = json!({"metadata": {"labels": null}, "spec": {"volumes": null, "initContainers": null, "containers": [{"name": "a"}]}});
    let (pod, _) = injected(pod, OnExisting::Keep);
    assert_eq!(pod["spec"]["initContainers"].as_array().expect("one").len(), 1);
}

#[test]
fn short_grace_period_is_warned_about() {
    let mut pod = pod();
    pod["spec"]["terminationGracePeriodSeconds"] = json!(5);
    let (_, done) = injected(pod, OnExisting::Keep);
    assert_eq!(done.warnings, ["terminationGracePeriodSeconds is 5: calls may be cut off when the pod stops; use 30"]);
}

#[test]
fn inject_label_is_read() {
    let with = |value: &str| inject_label(&json!({"metadata": {"labels": {"idjag-proxy.io/inject": value}}}));
    assert_eq!((with("enabled"), with("disabled")), (Ok(InjectLabel::Enabled), Ok(InjectLabel::Disabled)));
    assert_eq!(with("yes"), Err(Violation::Label("yes".into())));
    assert_eq!(inject_label(&json!({})), Ok(InjectLabel::Absent));
}

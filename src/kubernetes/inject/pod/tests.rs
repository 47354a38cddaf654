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

fn injected(mut pod: Value, existing: Existing) -> (Value, Done) {
    let done = inject(&pod, &Defaults::default(), existing).expect("injected");
    json_patch::patch(&mut pod, &done.patch).expect("it applies");
    (pod, done)
}

fn problems(pod: &Value) -> Vec<String> {
    inject(pod, &Defaults::default(), Existing::Keep).expect_err("refused").problems()
}

#[test]
fn the_sidecar_comes_first_and_nothing_is_lost() {
    let (pod, done) = injected(pod(), Existing::Keep);
    assert_eq!(pod["spec"]["initContainers"][0]["name"], "idjag-proxy");
    assert_eq!(pod["spec"]["initContainers"][1]["name"], "wait");
    assert_eq!(pod["spec"]["volumes"].as_array().expect("volumes").len(), 5);
    assert_eq!(pod["metadata"]["labels"]["idjag-proxy.io/injected"], "true");
    assert_eq!(pod["metadata"]["labels"]["app"], "calendar");
    assert_eq!((&pod["unknown"], &pod["spec"]["futureField"]), (&json!(1.5), &json!({"kept": [1, 2]})));
    assert_eq!(pod["spec"]["containers"][0], json!({"name": "agent", "image": "agent:1", "new": true}));
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 30);
    assert_eq!((done.config.as_str(), done.existed, done.warnings), ("idjag-proxy", false, vec![]));
}

#[test]
fn what_the_annotations_say_is_in_the_container() {
    let bare = injected(pod(), Existing::Keep).0["spec"]["initContainers"][0].clone();
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({
        "idjag-proxy.io/image": "mirror.example/idjag-proxy:2",
        "idjag-proxy.io/log-level": "debug",
        "idjag-proxy.io/resources": "cpu=50m,cpu-limit=1,memory-limit=256Mi",
    });
    let (pod, _) = injected(pod, Existing::Keep);
    let mut expected = bare;
    expected["image"] = json!("mirror.example/idjag-proxy:2");
    expected["args"].as_array_mut().expect("arguments").push(json!("--log-level=debug"));
    expected["resources"] =
        json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}});
    assert_eq!(pod["spec"]["initContainers"][0], expected, "and nothing else of it changes");
}

#[test]
fn a_second_time_changes_nothing() {
    let (once, _) = injected(pod(), Existing::Keep);
    for existing in [Existing::Keep, Existing::Renew] {
        let (twice, done) = injected(once.clone(), existing);
        assert_eq!(twice, once);
        assert!(done.existed);
    }
}

#[test]
fn a_sidecar_that_another_webhook_changed_stays_so() {
    let (mut once, _) = injected(pod(), Existing::Keep);
    once["spec"]["initContainers"][0]["image"] = json!("mirror.example/idjag-proxy:1");
    let kept = once["spec"]["initContainers"][0]["image"].clone();
    let (twice, _) = injected(once.clone(), Existing::Keep);
    assert_eq!(twice["spec"]["initContainers"][0]["image"], kept);
    once["metadata"]["annotations"]["idjag-proxy.io/config"] = json!("other");
    let (renewed, _) = injected(once, Existing::Renew);
    assert_eq!(renewed["spec"]["volumes"][0]["configMap"]["name"], "other");
    assert_eq!(renewed["spec"]["volumes"].as_array().expect("volumes").len(), 5);
}

#[test]
fn a_container_that_came_between_gets_the_variables_and_is_looked_at() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({"idjag-proxy.io/http-proxy": "true"});
    let (mut once, _) = injected(pod, Existing::Keep);
    assert_eq!(once["spec"]["initContainers"][0].get("env"), None, "not the sidecar itself");
    once["spec"]["containers"].as_array_mut().expect("containers").push(json!({"name": "late"}));
    let (twice, _) = injected(once.clone(), Existing::Keep);
    assert_eq!(twice["spec"]["containers"][1]["env"].as_array().expect("variables").len(), 4);
    once["spec"]["containers"][1]["volumeMounts"] = json!([{"name": "idjag-proxy-workload-api", "mountPath": "/x"}]);
    assert_eq!(problems(&once), ["container late mounts the volume idjag-proxy-workload-api"]);
}

#[test]
fn everything_is_in_the_refusal() {
    let mut pod = pod();
    pod["spec"]["hostNetwork"] = json!(true);
    pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 17080});
    pod["metadata"]["annotations"] = json!({"idjag-proxy.io/log-levle": "debug"});
    pod["metadata"]["labels"]["idjag-proxy.io/inject"] = json!("true");
    let refusal = inject(&pod, &Defaults::default(), Existing::Keep).expect_err("refused");
    let expected = "hostNetwork is true: every process of the node could use this agent's identity; remove it; \
        container agent runs as user 17080, which is the sidecar's: it could read what the sidecar holds; use another user; \
        label idjag-proxy.io/inject is `true`: write enabled or disabled; \
        annotation idjag-proxy.io/log-levle: there is none of this name; did you mean `idjag-proxy.io/log-level`?";
    assert_eq!(refusal.to_string(), expected);
}

#[test]
fn what_is_no_pod_is_refused() {
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
fn absurd_counts_are_refused() {
    let many = |count: usize| (0..count).map(|index| json!({"name": format!("n{index}")})).collect::<Vec<_>>();
    let mut large = pod();
    large["spec"]["containers"] = many(255).into();
    large["spec"]["volumes"] = many(1024).into();
    assert!(inject(&large, &Defaults::default(), Existing::Keep).is_ok());
    large["spec"]["volumes"] = many(1025).into();
    assert_eq!(problems(&large), ["it has more than 1024 volumes"]);
    large["spec"]["containers"] = many(256).into();
    assert_eq!(problems(&large), ["it has more than 256 containers"]);
}

#[test]
fn a_label_does_not_make_a_sidecar() {
    let (ours, _) = injected(pod(), Existing::Keep);
    let sidecar = "/spec/initContainers/0";
    for (place, value, problem) in [
        ("restartPolicy", Value::Null, "its restartPolicy is not Always"),
        ("securityContext/runAsUser", json!(0), "its user is another"),
        ("securityContext/privileged", json!(true), "it is privileged"),
        ("command", json!(["/bin/sh"]), "it has a command"),
        ("args", json!(["-c", "spy"]), "its args are others"),
        ("args/7", json!("--listen-outbound=0.0.0.0:17080"), "its args are others"),
        ("volumeMounts", json!([]), "its volumeMounts are others"),
    ] {
        let mut forged = ours.clone();
        let patch = json!([{"op": "add", "path": format!("{sidecar}/{place}"), "value": value}]);
        json_patch::patch(&mut forged, &serde_json::from_value::<Patch>(patch).expect("a patch")).expect("it applies");
        let expected = format!("its init container idjag-proxy is not the sidecar: {problem}");
        assert_eq!(problems(&forged), [expected]);
        let (renewed, _) = injected(forged, Existing::Renew);
        assert_eq!(renewed, ours, "a file is made anew");
    }
    let mut forged = ours.clone();
    forged["spec"]["volumes"][0] = json!({"name": "idjag-proxy-config", "secret": {"secretName": "other"}});
    assert_eq!(problems(&forged), ["its init container idjag-proxy is not the sidecar: its volumes are others"]);
    let mut two = ours.clone();
    let copy = two.pointer(sidecar).cloned().expect("the sidecar");
    two["spec"]["initContainers"].as_array_mut().expect("a list").push(copy);
    assert!(problems(&two).contains(&"a container is named idjag-proxy".to_owned()));
}

#[test]
fn what_others_change_of_a_sidecar_leaves_it_ours() {
    let mut settled = pod();
    settled["metadata"]["annotations"] = json!({"idjag-proxy.io/log-level": "debug", "idjag-proxy.io/config": "a.b"});
    let (mut settled, _) = injected(settled, Existing::Keep);
    let sidecar = &mut settled["spec"]["initContainers"][0];
    sidecar["image"] = json!("mirror.example/idjag-proxy:0");
    sidecar["resources"] = json!({});
    sidecar["env"] = json!([{"name": "A", "value": "1"}]);
    sidecar["volumeMounts"].as_array_mut().expect("mounts").push(json!({"name": "ca", "mountPath": "/ca"}));
    settled["spec"]["volumes"][0]["configMap"]["defaultMode"] = json!(420);
    let (again, done) = injected(settled.clone(), Existing::Keep);
    assert_eq!((again, done.config.as_str(), done.patch.is_empty()), (settled, "a.b", true));
}

#[test]
fn the_kept_sidecars_own_socket_and_secret_count() {
    let mut by_path = pod();
    by_path["metadata"]["annotations"] =
        json!({"idjag-proxy.io/socket": "hostPath:/opt/spire/api.sock", "idjag-proxy.io/config": "own"});
    let (mut by_path, _) = injected(by_path, Existing::Keep);
    let annotations = by_path["metadata"]["annotations"].as_object_mut().expect("annotations");
    annotations.retain(|key, _| key == "idjag-proxy.io/status");
    by_path["spec"]["volumes"].as_array_mut().expect("a list").push(json!({"name": "v", "hostPath": {"path": "/opt"}}));
    by_path["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/x"}]);
    by_path["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "own"}}]);
    let expected = ["container agent mounts the Workload API socket", "container agent reads the Secret own"];
    assert_eq!(problems(&by_path), expected);
}

#[test]
fn the_clusters_own_socket_counts_where_the_pod_names_another() {
    let defaults =
        Defaults { socket: "hostPath:/opt/spire/api.sock".parse().expect("a socket"), ..Defaults::default() };
    for socket in ["hostPath:/srv/api.sock", "csi"] {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({"idjag-proxy.io/socket": socket});
        pod["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": "/opt/spire"}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/x"}]);
        let refused = inject(&pod, &defaults, Existing::Keep).expect_err(socket);
        assert_eq!(refused.problems(), ["container agent mounts the Workload API socket"], "{socket}");
    }
}

#[test]
fn an_annotation_that_changes_changes_the_variables() {
    for existing in [Existing::Keep, Existing::Renew] {
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
        assert_eq!(thrice, bare, "as if they had never been set");
    }
}

#[test]
fn null_is_absent() {
    let pod = json!({"metadata": {"labels": null}, "spec": {"volumes": null, "initContainers": null, "containers": [{"name": "a"}]}});
    let (pod, _) = injected(pod, Existing::Keep);
    assert_eq!(pod["spec"]["initContainers"].as_array().expect("one").len(), 1);
}

#[test]
fn a_short_grace_period_is_said() {
    let mut pod = pod();
    pod["spec"]["terminationGracePeriodSeconds"] = json!(5);
    let (_, done) = injected(pod, Existing::Keep);
    assert_eq!(done.warnings, ["terminationGracePeriodSeconds is 5: calls of a stopping pod may be cut; use 30"]);
}

#[test]
fn the_label_says() {
    let with = |value: &str| opt(&json!({"metadata": {"labels": {"idjag-proxy.io/inject": value}}}));
    assert_eq!((with("enabled"), with("disabled")), (Ok(Opt::In), Ok(Opt::Out)));
    assert_eq!(with("yes"), Err(Hazard::Label("yes".into())));
    assert_eq!(opt(&json!({})), Ok(Opt::Unsaid));
}

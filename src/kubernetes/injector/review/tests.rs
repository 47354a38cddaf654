use super::*;
use proptest::prelude::*;

fn policy() -> ReviewPolicy {
    ReviewPolicy { defaults: Defaults::default(), namespace: "idjag-proxy".into() }
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "calendar-7d4f-",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "calendar-7d4f", "uid": "u1", "controller": true}],
        },
        "spec": {"terminationGracePeriodSeconds": 30, "containers": [{"name": "agent", "image": "agent:1"}]},
    })
}

fn of_pod(object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "agents", "operation": "CREATE", "userInfo": {"username": "x"},
            "object": object, "oldObject": null, "dryRun": false, "options": {},
        },
    })
}

fn of_workload(resource: &str, object: &Value) -> Value {
    let mut review = of_pod(object);
    review["request"]["resource"] = json!({"group": "apps", "version": "v1", "resource": resource});
    review["request"]["name"] = "calendar".into();
    review
}

fn deployment(pod: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "calendar", "uid": "u2"}, "spec": {"template": pod}})
}

fn answered(review: &Value, lookup: &Lookup) -> ReviewAnswer {
    let review = Review::parse(review.to_string().as_bytes()).expect("a review");
    review.verdict(&policy()).answer(&review, lookup)
}

fn patched(object: &Value, answer: &ReviewAnswer) -> Value {
    let patch = answer.body["response"]["patch"].as_str().expect("a patch");
    let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch).expect("base64")).expect("a patch");
    let mut object = object.clone();
    json_patch::patch(&mut object, &patch).expect("it applies");
    object
}

fn message(answer: &ReviewAnswer) -> &str {
    assert_eq!(answer.body["response"]["allowed"], false);
    answer.body["response"]["status"]["message"].as_str().expect("a message")
}

#[test]
fn pod_gets_the_sidecar_by_a_patch() {
    let answer = answered(&of_pod(&pod()), &Lookup::Found);
    let response = &answer.body["response"];
    assert_eq!(
        (&response["uid"], &response["allowed"], &response["patchType"]),
        (&json!("705ab4f5"), &json!(true), &json!("JSONPatch"))
    );
    assert_eq!(answer.body["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer.outcome, ReviewOutcome::Injected);
    let injected = patched(&pod(), &answer);
    assert_eq!(injected["spec"]["initContainers"][0]["name"], "idjag-proxy");
    let again = answered(&of_pod(&injected), &Lookup::Found);
    assert_eq!((again.outcome, again.body["response"].get("patch")), (ReviewOutcome::Unchanged, None));
}

#[test]
fn pod_without_its_config_map_is_refused_with_the_command_to_create_it() {
    let answer = answered(&of_pod(&pod()), &Lookup::Missing);
    let expected = "pod calendar-7d4f-…: ConfigMap agents/idjag-proxy is missing; it configures the idjag-proxy sidecar. \
        Create it: kubectl -n agents create configmap idjag-proxy --from-file=proxy.yaml";
    assert_eq!(message(&answer), expected);
    assert_eq!(answer.outcome, ReviewOutcome::Refused);
    let answer = answered(&of_pod(&pod()), &Lookup::NoFile);
    assert!(message(&answer).contains("has no key proxy.yaml"), "{}", message(&answer));
}

#[test]
fn pod_is_admitted_when_its_config_map_cannot_be_looked_up() {
    let answer = answered(&of_pod(&pod()), &Lookup::Unknown("refused".into()));
    assert_eq!(answer.outcome, ReviewOutcome::Injected);
    let expected = json!(["idjag-proxy: could not check whether ConfigMap agents/idjag-proxy exists"]);
    assert_eq!(answer.body["response"]["warnings"], expected);
}

#[test]
fn violation_is_refused_with_advice() {
    let mut bad = pod();
    bad["spec"]["hostNetwork"] = json!(true);
    let answer = answered(&of_pod(&bad), &Lookup::Found);
    let expected = "pod calendar-7d4f-… cannot have the idjag-proxy sidecar: hostNetwork is true: every process of the node could use \
        this agent's identity; remove it. To run the pod without the sidecar, label it idjag-proxy.io/inject: disabled";
    assert_eq!(message(&answer), expected);
    assert_eq!(answer.body["response"]["status"]["code"], 403);
}

#[test]
fn workload_with_violations_is_admitted_with_warnings() {
    let mut bad = pod();
    bad["spec"]["hostPID"] = json!(true);
    bad["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 17080});
    let answer = answered(&of_workload("deployments", &deployment(&bad)), &Lookup::Found);
    assert_eq!(answer.body["response"]["allowed"], true);
    let expected = json!([
        "idjag-proxy: its pods will be refused: hostPID is true",
        "idjag-proxy: its pods will be refused: container agent runs as user 17080, which is the sidecar's",
    ]);
    assert_eq!(answer.body["response"]["warnings"], expected);
    assert!(answer.problems.iter().all(|warning| warning.len() <= 120), "Kubernetes recommends at most 120 characters");
    assert_eq!(answer.outcome, ReviewOutcome::Warned);
    let answer = answered(&of_workload("deployments", &deployment(&pod())), &Lookup::Missing);
    let expected = json!(["idjag-proxy: its pods will be refused: ConfigMap agents/idjag-proxy is missing"]);
    assert_eq!(answer.body["response"]["warnings"], expected);
    let answer = answered(&of_workload("deployments", &deployment(&pod())), &Lookup::Found);
    assert_eq!(
        (answer.outcome, answer.body["response"].get("warnings"), answer.body["response"].get("patch")),
        (ReviewOutcome::Unchanged, None, None)
    );
}

#[test]
fn excluded_objects_are_admitted_unchanged() {
    let unchanged = |review: &Value| {
        let answer = answered(review, &Lookup::Missing);
        assert_eq!(answer.body["response"], json!({"uid": "705ab4f5", "allowed": true}), "{review}");
    };
    for namespace in ["kube-system", "idjag-proxy"] {
        let mut review = of_pod(&pod());
        review["request"]["namespace"] = namespace.into();
        unchanged(&review);
    }
    let mut out = pod();
    out["metadata"]["labels"] = json!({"idjag-proxy.io/inject": "disabled"});
    unchanged(&of_pod(&out));
    unchanged(&of_workload("statefulsets", &deployment(&out)));
    let mut mirror = pod();
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    unchanged(&of_pod(&mirror));
    for operation in ["UPDATE", "DELETE", "CONNECT"] {
        let mut review = of_pod(&pod());
        review["request"]["operation"] = operation.into();
        unchanged(&review);
    }
}

#[test]
fn resource_that_is_not_handled_is_admitted_with_a_warning_that_names_it() {
    let mut service = of_pod(&json!({"kind": "Service"}));
    service["request"]["resource"]["resource"] = "services".into();
    let mut subresource = of_pod(&pod());
    subresource["request"]["subResource"] = "ephemeralcontainers".into();
    for (review, resource) in [(service, "services"), (subresource, "pods/ephemeralcontainers")] {
        let answer = answered(&review, &Lookup::Missing);
        assert_eq!(answer.body["response"]["allowed"], true);
        let expected =
            json!([format!("idjag-proxy: {resource} are not handled; the rules of its webhook are too broad")]);
        assert_eq!(answer.body["response"]["warnings"], expected);
    }
}

#[test]
fn malformed_review_is_rejected_with_the_reason() {
    let old = of_pod(&pod()).to_string().replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1");
    let mut elsewhere = of_pod(&pod());
    elsewhere["request"]["namespace"] = "../../secrets".into();
    let deep = format!("{{\"apiVersion\": {}", "[".repeat(100_000));
    for (body, problem) in [
        ("", "the body is not an AdmissionReview: EOF"),
        ("\u{0}\u{1}", "the body is not an AdmissionReview: expected value"),
        ("[]", "the body is not an AdmissionReview: "),
        ("{}", "the body is not an AdmissionReview of admission.k8s.io/v1, but kind `` of ``"),
        (
            &old,
            "the body is not an AdmissionReview of admission.k8s.io/v1, but kind `AdmissionReview` of `admission.k8s.io/v1beta1`",
        ),
        (r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#, "the AdmissionReview has no request"),
        (&elsewhere.to_string(), "the namespace is not a valid name"),
        (&deep, "the body is not an AdmissionReview: "),
    ] {
        let error = Review::parse(body.as_bytes()).expect_err(problem).to_string();
        assert!(error.starts_with(problem), "{error}");
    }
}

#[test]
fn event_is_about_the_pods_controller() {
    let involved = |review: &Value| Review::parse(review.to_string().as_bytes()).expect("a review").involved;
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "namespace": "agents", "name": "calendar-7d4f", "uid": "u1"});
    assert_eq!(involved(&of_pod(&pod())), Some(owner));
    let workload =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "agents", "name": "calendar", "uid": "u2"});
    assert_eq!(involved(&of_workload("deployments", &deployment(&pod()))), Some(workload));
    assert_eq!(involved(&of_pod(&json!({"metadata": {"generateName": "a-"}}))), None);
}

#[test]
fn event_is_only_about_known_kinds_in_the_reviews_namespace() {
    let involved = |object: &Value| Review::parse(of_pod(object).to_string().as_bytes()).expect("a review").involved;
    let owned =
        |owner: Value| json!({"metadata": {"name": "a", "namespace": "kube-system", "ownerReferences": [owner]}});
    let node = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "controller": true});
    assert_eq!(involved(&owned(node)), None);
    let mut long =
        json!({"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "x".repeat(65), "controller": true});
    let expected = json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": "agents", "name": "j"});
    assert_eq!(involved(&owned(long.clone())), Some(expected));
    long["name"] = "a\nb".into();
    assert_eq!(involved(&owned(long)), None);
}

#[test]
fn untrusted_text_is_truncated_in_answers() {
    let mut bad = pod();
    let long = "x".repeat(100_000);
    bad["metadata"]["generateName"] = long.clone().into();
    bad["metadata"]["labels"] = json!({"idjag-proxy.io/inject": long});
    bad["metadata"]["annotations"] = json!({"idjag-proxy.io/config": long});
    for index in 0..1000 {
        bad["metadata"]["annotations"][format!("idjag-proxy.io/{index}{long}").get(..1000).expect("long")] = "".into();
    }
    bad["spec"]["containers"][0] = json!({"name": long, "securityContext": {"runAsUser": 17080}});
    let answer = answered(&of_pod(&bad), &Lookup::Found);
    assert!(message(&answer).len() < 8000, "{}", message(&answer).len());
    let mut privileged = pod();
    privileged["spec"]["containers"] =
        (0..100).map(|_| json!({"name": long, "securityContext": {"privileged": true}})).collect();
    let answer = answered(&of_pod(&privileged), &Lookup::Found);
    let warnings = answer.body["response"]["warnings"].as_array().expect("warnings");
    assert_eq!(warnings.len(), 17);
    assert_eq!(warnings[16], "idjag-proxy: and 84 more");
    assert!(warnings.iter().all(|warning| warning.to_string().len() < 200));
}

#[test]
fn object_with_too_many_parts_is_not_parsed() {
    let many = |part: &str, count: usize| format!("[{}]", vec![part; count].join(","));
    for parts in [many("0", 200_000), many(r#"{"name":"a"}"#, 60_000), many("[0]", 100_000)] {
        let body = of_pod(&json!("PARTS")).to_string().replace("\"PARTS\"", &parts);
        assert!(body.len() < 2 * 1024 * 1024);
        let error = Review::parse(body.as_bytes()).expect_err("heavy").to_string();
        assert_eq!(error, "the object has more parts than Kubernetes would store");
        let old = of_pod(&json!("PARTS")).to_string().replace("\"oldObject\":null", &format!("\"oldObject\":{parts}"));
        assert!(Review::parse(old.as_bytes()).is_ok(), "fields that are not read do not count");
    }
    let mut large = pod();
    let variable = |index: usize| json!({"name": format!("VARIABLE_{index}"), "value": "x".repeat(1000)});
    large["spec"]["containers"][0]["env"] = (0..1000).map(variable).collect();
    let fields: serde_json::Map<String, Value> = (0..1000)
        .map(|index| (format!("k:{{\"name\":\"VARIABLE_{index}\"}}"), json!({".": {}, "f:name": {}, "f:value": {}})))
        .collect();
    large["metadata"]["managedFields"] = json!([{"fieldsV1": {"f:spec": {"f:env": fields}}}]);
    assert_eq!(
        answered(&of_pod(&large), &Lookup::Found).outcome,
        ReviewOutcome::Injected,
        "a large real pod is far below the limit"
    );
}

/// Generates JSON whose objects often have the keys that `inject` reads.
fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "",
        "agent",
        "idjag-proxy",
        "idjag-metrics",
        "true",
        "enabled",
        "disabled",
        "CREATE",
        "/run/spire",
        "csi.spiffe.io",
        "windows",
        "cpu=1,memory=9",
        "hostPath:/a/b",
        "ü\u{0}",
    ];
    let keys = [
        "metadata",
        "labels",
        "annotations",
        "spec",
        "containers",
        "initContainers",
        "volumes",
        "volumeMounts",
        "name",
        "ports",
        "env",
        "envFrom",
        "securityContext",
        "runAsUser",
        "hostNetwork",
        "csi",
        "driver",
        "hostPath",
        "path",
        "template",
        "containerPort",
        "idjag-proxy.io/inject",
        "idjag-proxy.io/injected",
        "idjag-proxy.io/config",
        "idjag-proxy.io/resources",
        "idjag-proxy.io/http-proxy",
        "idjag-proxy.io/socket",
        "terminationGracePeriodSeconds",
        "generateName",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        proptest::sample::select(vec![-1_i64, 0, 5, 17080, 17090, i64::MAX]).prop_map(Value::from),
        proptest::sample::select(words.to_vec()).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(7, 96, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(proptest::sample::select(keys.to_vec()), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())),
        ]
    })
}

/// Generates pods whose parts are arbitrary JSON.
fn any_pod() -> impl Strategy<Value = Value> {
    (any_json(), any_json(), any_json(), any_json()).prop_map(|(metadata, container, initial, volumes)| {
        json!({"metadata": metadata, "spec": {"containers": [container], "initContainers": initial, "volumes": volumes}})
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_rejected_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        prop_assert!(Review::parse(&bytes).is_err());
    }

    #[test]
    fn any_object_gets_an_answer(object in any_json(), resource in proptest::sample::select(vec!["deployments", "daemonsets"])) {
        for review in [of_pod(&object), of_workload(resource, &object)] {
            let answer = answered(&review, &Lookup::Missing);
            prop_assert_eq!(&answer.body["response"]["uid"], "705ab4f5");
            prop_assert!(answer.body["response"]["allowed"].is_boolean());
        }
    }

    #[test]
    fn injected_pod_is_unchanged_by_a_second_review(object in any_pod()) {
        let answer = answered(&of_pod(&object), &Lookup::Found);
        if answer.outcome == ReviewOutcome::Injected {
            let injected = patched(&object, &answer);
            prop_assert_eq!(&injected["spec"]["initContainers"][0]["name"], "idjag-proxy");
            let again = answered(&of_pod(&injected), &Lookup::Found);
            prop_assert_eq!(again.outcome, ReviewOutcome::Unchanged);
        }
    }

    #[test]
    fn truncated_review_never_panics(cut in 0_usize..700) {
        let whole = of_pod(&pod()).to_string();
        let cut = cut.min(whole.len());
        let _ = Review::parse(&whole.as_bytes()[..cut]);
    }
}

//! The mutation: a pod, or the template of one, gets the sidecar first of its init containers.
use super::environment;
use super::hazard::{Hazard, hazards, list, name, risks};
use super::settings::{Defaults, SettingError, Settings};
use super::sidecar::{container, status, volumes};
use crate::kubernetes::names::{
    ANNOTATION_STATUS, CONTAINER, LABEL_INJECT, LABEL_INJECTED, METRICS_PORT_NAME, VOLUMES,
};
use serde_json::{Map, Value, json};
use std::fmt;

/// What the pod's own label says, which wins over the namespace's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opt {
    In,
    Out,
    Unsaid,
}

/// What happens to a sidecar that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays: another webhook may have changed it since, and wins.
    Keep,
    /// It is made anew, by what annotations and flags say now.
    Renew,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// The `ConfigMap` that the pod needs.
    pub(crate) config: String,
    /// Whether the sidecar was there already.
    pub(crate) existed: bool,
    /// What the agent's people should know, a line each.
    pub(crate) warnings: Vec<String>,
}

/// Why a pod gets no sidecar. Everything is in it, not only the first thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Hazards(Vec<Hazard>, Vec<SettingError>),
    /// It is not what a pod is.
    Shape(&'static str),
}

impl Refusal {
    /// The problems alone, each short enough for a warning of kubectl.
    pub(crate) fn problems(&self) -> Vec<String> {
        match self {
            Self::Hazards(hazards, settings) => {
                hazards.iter().map(ToString::to_string).chain(settings.iter().map(ToString::to_string)).collect()
            }
            Self::Shape(problem) => vec![(*problem).to_owned()],
        }
    }
}

/// The problems, with what to do about each.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = match self {
            Self::Hazards(hazards, settings) => {
                let hazards = hazards.iter().map(|hazard| format!("{hazard}: {}", hazard.advice()));
                hazards.chain(settings.iter().map(ToString::to_string)).collect()
            }
            Self::Shape(problem) => vec![(*problem).to_owned()],
        };
        f.write_str(&texts.join("; "))
    }
}

/// What the label of this pod says.
pub(crate) fn opt(pod: &Value) -> Result<Opt, Hazard> {
    match label(pod, LABEL_INJECT) {
        None => Ok(Opt::Unsaid),
        Some("enabled") => Ok(Opt::In),
        Some("disabled") => Ok(Opt::Out),
        Some(other) => Err(Hazard::Label(other.to_owned())),
    }
}

/// Gives the pod the sidecar. On a refusal it is as it was.
pub(crate) fn inject(pod: &mut Value, defaults: &Defaults, existing: Existing) -> Result<Done, Refusal> {
    let spec = pod.get("spec").filter(|spec| spec.is_object()).ok_or(Refusal::Shape("it has no spec"))?;
    if list(spec, "containers").next().is_none() {
        return Err(Refusal::Shape("its spec has no containers"));
    }
    let existed = has_sidecar(pod, spec);
    let settings = Settings::read(pod.pointer("/metadata/annotations"), defaults);
    let socket = settings.as_ref().map_or(&defaults.socket, |settings| &settings.socket);
    let mut found = hazards(spec, socket, existed);
    found.extend(opt(pod).err());
    let settings = match settings {
        Ok(settings) if found.is_empty() => settings,
        settings => return Err(Refusal::Hazards(found, settings.err().unwrap_or_default())),
    };
    let mut warnings = risks(spec, existed);
    let mut changed = pod.clone();
    if !existed || existing == Existing::Renew {
        place(&mut changed, &settings, existed)?;
    }
    if let Some(proxy) = &settings.http_proxy {
        for container in agents_mut(&mut changed) {
            warnings.extend(environment::set(container, proxy));
        }
    }
    warnings.extend(grace(&mut changed));
    *pod = changed;
    Ok(Done { config: settings.config, existed, warnings })
}

/// Whether this is a pod that was injected, here or by hand: the label, and a container that is one of ours by its port.
fn has_sidecar(pod: &Value, spec: &Value) -> bool {
    let is_ours = |container: &Value| {
        name(container) == CONTAINER && list(container, "ports").any(|port| name(port) == METRICS_PORT_NAME)
    };
    label(pod, LABEL_INJECTED) == Some("true") && list(spec, "initContainers").any(is_ours)
}

fn label<'p>(pod: &'p Value, key: &str) -> Option<&'p str> {
    pod.get("metadata")?.get("labels")?.get(key)?.as_str()
}

fn place(pod: &mut Value, settings: &Settings, existed: bool) -> Result<(), Refusal> {
    let spec = map(pod, "spec")?;
    let initial = array(spec, "initContainers")?;
    if existed {
        initial.retain(|container| name(container) != CONTAINER);
    }
    initial.insert(0, container(settings));
    let present = array(spec, "volumes")?;
    if existed {
        present.retain(|volume| !VOLUMES.contains(&name(volume)));
    }
    present.extend(volumes(settings));
    let metadata = map(pod, "metadata")?;
    map_in(metadata, "labels")?.insert(LABEL_INJECTED.to_owned(), "true".into());
    map_in(metadata, "annotations")?.insert(ANNOTATION_STATUS.to_owned(), status(settings).into());
    Ok(())
}

/// Seconds; the drain's own deadline is 25.
const GRACE: u64 = 30;

/// A file may leave it out; the API server never does.
fn grace(pod: &mut Value) -> Option<String> {
    let spec = pod.get_mut("spec")?.as_object_mut()?;
    let given = spec.get("terminationGracePeriodSeconds").filter(|given| !given.is_null());
    match given {
        None => {
            spec.insert("terminationGracePeriodSeconds".to_owned(), json!(GRACE));
            None
        }
        Some(given) => (given.as_u64()? < GRACE).then(|| {
            format!("terminationGracePeriodSeconds is {given}: calls of a stopping pod may be cut; use {GRACE}")
        }),
    }
}

fn agents_mut(pod: &mut Value) -> impl Iterator<Item = &mut Value> {
    let lists = pod.get_mut("spec").and_then(Value::as_object_mut).into_iter().flat_map(Map::iter_mut);
    let lists = lists.filter(|(key, _)| *key == "initContainers" || *key == "containers");
    let containers = lists.filter_map(|(_, list)| list.as_array_mut()).flatten();
    containers.filter(|container| name(container) != CONTAINER && container.is_object())
}

fn map<'v>(value: &'v mut Value, key: &'static str) -> Result<&'v mut Map<String, Value>, Refusal> {
    map_in(value.as_object_mut().ok_or(Refusal::Shape("it is no mapping"))?, key)
}

/// The mapping of this key, made where it is absent or null.
fn map_in<'m>(map: &'m mut Map<String, Value>, key: &'static str) -> Result<&'m mut Map<String, Value>, Refusal> {
    let value = map.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut().ok_or(Refusal::Shape("metadata, spec, labels and annotations must be mappings"))
}

fn array<'m>(map: &'m mut Map<String, Value>, key: &'static str) -> Result<&'m mut Vec<Value>, Refusal> {
    let value = map.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut().ok_or(Refusal::Shape("containers and volumes must be lists"))
}

#[cfg(test)]
mod tests {
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
        let done = inject(&mut pod, &Defaults::default(), existing).expect("injected");
        (pod, done)
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
        assert_eq!(done, Done { config: "idjag-proxy".into(), existed: false, warnings: vec![] });
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
        once["spec"]["containers"][1]["volumeMounts"] =
            json!([{"name": "idjag-proxy-workload-api", "mountPath": "/x"}]);
        let refusal = inject(&mut once, &Defaults::default(), Existing::Keep).expect_err("refused");
        assert_eq!(refusal.problems(), ["container late mounts the volume idjag-proxy-workload-api"]);
    }

    #[test]
    fn everything_is_in_the_refusal_and_the_pod_is_as_it_was() {
        let mut pod = pod();
        pod["spec"]["hostNetwork"] = json!(true);
        pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 17080});
        pod["metadata"]["annotations"] = json!({"idjag-proxy.io/log-levle": "debug"});
        pod["metadata"]["labels"]["idjag-proxy.io/inject"] = json!("true");
        let before = pod.clone();
        let refusal = inject(&mut pod, &Defaults::default(), Existing::Keep).expect_err("refused");
        assert_eq!(pod, before);
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
            let mut pod = pod;
            let before = pod.clone();
            let refusal = inject(&mut pod, &Defaults::default(), Existing::Keep).expect_err("refused");
            assert_eq!((refusal.problems(), pod), (vec![problem.to_owned()], before));
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
}

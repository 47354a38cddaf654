//! The mutation: a pod, or the template of one, gets the sidecar first of its init containers.
use super::edits::Edits;
use super::environment::{self, Variables};
use super::hazard::{Guarded, Hazard, hazards, list, name, risks};
use super::settings::{Defaults, SettingError, Settings};
use super::sidecar::{VARIABLES, container, kept, status, volumes};
use super::socket::Socket;
use crate::kubernetes::names::{ANNOTATION_STATUS, CONFIG, CONTAINER, LABEL_INJECT, LABEL_INJECTED, VOLUMES};
use crate::kubernetes::words::shortened;
use json_patch::Patch;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
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

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// It makes the pod what it is to be.
    pub(crate) patch: Patch,
    /// The `ConfigMap` that the pod needs.
    pub(crate) config: String,
    /// Whether the sidecar was there already.
    pub(crate) existed: bool,
    /// What the agent's people should know, a line each.
    pub(crate) warnings: Vec<String>,
}

/// Why a pod gets no sidecar. Everything is in it, not only the first thing; of a great many things, the first ones.
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
        Some(other) => Err(Hazard::Label(shortened(other))),
    }
}

/// Containers of all sorts, and volumes. Real pods have tens; a stranger's may have as many as fit into a review.
const MOST_CONTAINERS: usize = 256;
const MOST_VOLUMES: usize = 1024;

/// What gives the pod the sidecar.
pub(crate) fn inject(pod: &Value, defaults: &Defaults, existing: Existing) -> Result<Done, Refusal> {
    let spec = check_shape(pod)?;
    let existed = has_sidecar(pod, spec);
    let settings = Settings::read(pod.pointer("/metadata/annotations"), defaults);
    let (kept, foreign) = match existing {
        Existing::Keep if existed => split(kept(spec)),
        _ => (None, None),
    };
    let socket = settings.as_ref().map_or(&defaults.socket, |settings| &settings.socket);
    let own = settings.as_ref().map_or(CONFIG, |settings| &settings.config);
    let guarded = Guarded {
        // The default's too where the pod names another socket: what is in it is the same Workload API.
        directories: [socket, &defaults.socket]
            .into_iter()
            .filter_map(Socket::directory)
            .chain(kept.as_ref().and_then(|kept| kept.directory))
            .collect(),
        secret: kept.as_ref().map_or(own, |kept| kept.config),
        has_sidecar: existed,
    };
    let mut found: Vec<Hazard> = foreign.map(Hazard::Foreign).into_iter().collect();
    found.extend(hazards(spec, &guarded));
    found.extend(opt(pod).err());
    let settings = match &settings {
        Ok(settings) if found.is_empty() => settings,
        settings => return Err(Refusal::Hazards(found, settings.as_ref().err().cloned().unwrap_or_default())),
    };
    let (mut edits, mut warnings) = (Edits::default(), risks(spec, existed));
    let recorded = Recorded::read(pod);
    let mut variables = BTreeMap::new();
    for (container, place) in agents_of(spec, existed) {
        let place = ["spec", place.0, &place.1.to_string()];
        let before = recorded.variables.get(name(container));
        let done = environment::edit(container, place, settings.http_proxy.as_ref(), before, &mut edits);
        warnings.extend(done.left);
        if !done.variables.is_empty() {
            variables.insert(name(container).to_owned(), done.variables);
        }
    }
    if !existed || existing == Existing::Renew {
        place(pod, spec, (settings, &variables, existed), &mut edits);
    } else if variables != recorded.variables {
        edits.add(&["metadata", "annotations", ANNOTATION_STATUS], recorded.with(&variables).into());
    }
    warnings.extend(grace(spec, &mut edits));
    let config = guarded.secret.to_owned();
    Ok(Done { patch: edits.finish(), config, existed, warnings })
}

fn split<T, E>(result: Result<T, E>) -> (Option<T>, Option<E>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    }
}

/// The spec of what is a pod as far as the patch relies on it.
fn check_shape(pod: &Value) -> Result<&Value, Refusal> {
    let spec = pod.get("spec").filter(|spec| spec.is_object()).ok_or(Refusal::Shape("it has no spec"))?;
    if list(spec, "containers").next().is_none() {
        return Err(Refusal::Shape("its spec has no containers"));
    }
    let is_list = |key: &str| spec.get(key).is_none_or(|value| value.is_null() || value.is_array());
    if !is_list("initContainers") || !is_list("volumes") {
        return Err(Refusal::Shape("containers and volumes must be lists"));
    }
    let metadata = pod.get("metadata").filter(|metadata| !metadata.is_null());
    let is_map = |key: &str| metadata.and_then(|m| m.get(key)).is_none_or(|value| value.is_null() || value.is_object());
    if !metadata.is_none_or(Value::is_object) || !is_map("labels") || !is_map("annotations") {
        return Err(Refusal::Shape("metadata, spec, labels and annotations must be mappings"));
    }
    let count = |key: &str| list(spec, key).count();
    if count("containers") + count("initContainers") + count("ephemeralContainers") > MOST_CONTAINERS {
        return Err(Refusal::Shape("it has more than 256 containers"));
    }
    if count("volumes") > MOST_VOLUMES {
        return Err(Refusal::Shape("it has more than 1024 volumes"));
    }
    Ok(spec)
}

/// Whether this pod says that it was injected, here or by hand.
fn has_sidecar(pod: &Value, spec: &Value) -> bool {
    let is_named = |container: &Value| name(container) == CONTAINER;
    label(pod, LABEL_INJECTED) == Some("true") && list(spec, "initContainers").any(is_named)
}

fn label<'p>(pod: &'p Value, key: &str) -> Option<&'p str> {
    pod.get("metadata")?.get("labels")?.get(key)?.as_str()
}

/// What the status annotation says of an earlier injection.
struct Recorded {
    status: Map<String, Value>,
    variables: BTreeMap<String, Variables>,
}

/// The annotation is as long as what was set in a few hundred containers.
const LONGEST_STATUS: usize = 256 * 1024;

impl Recorded {
    fn read(pod: &Value) -> Self {
        let text =
            pod.pointer("/metadata/annotations").and_then(|all| all.get(ANNOTATION_STATUS)).and_then(Value::as_str);
        let text = text.filter(|text| text.len() <= LONGEST_STATUS).unwrap_or_default();
        // A status that somebody else wrote records nothing.
        let status: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        let variables = status.get(VARIABLES).cloned().and_then(|variables| serde_json::from_value(variables).ok());
        Self { status, variables: variables.unwrap_or_default() }
    }

    /// The same with other variables.
    fn with(mut self, variables: &BTreeMap<String, Variables>) -> String {
        if variables.is_empty() {
            self.status.remove(VARIABLES);
        } else {
            self.status.insert(VARIABLES.to_owned(), json!(variables));
        }
        Value::from(self.status).to_string()
    }
}

/// The agent's containers, each with where it is.
fn agents_of(spec: &Value, existed: bool) -> impl Iterator<Item = (&Value, (&'static str, usize))> {
    let is_agent = move |key: &str, container: &Value| {
        container.is_object() && !(existed && key == "initContainers" && name(container) == CONTAINER)
    };
    let of = move |key: &'static str| {
        let containers = list(spec, key).enumerate().filter(move |(_, container)| is_agent(key, container));
        containers.map(move |(index, container)| (container, (key, index)))
    };
    of("initContainers").chain(of("containers"))
}

fn place(
    pod: &Value,
    spec: &Value,
    (settings, variables, existed): (&Settings, &BTreeMap<String, Variables>, bool),
    edits: &mut Edits,
) {
    let ours = |key: &str, is_ours: &dyn Fn(&str) -> bool| -> Vec<String> {
        let ours = list(spec, key).enumerate().filter(|(_, value)| existed && is_ours(name(value)));
        ours.map(|(index, _)| index.to_string()).collect()
    };
    let is_list = |key: &str| spec.get(key).is_some_and(Value::is_array);
    for index in ours("initContainers", &|name| name == CONTAINER).iter().rev() {
        edits.remove(&["spec", "initContainers", index]);
    }
    if is_list("initContainers") {
        edits.add(&["spec", "initContainers", "0"], container(settings));
    } else {
        edits.add(&["spec", "initContainers"], json!([container(settings)]));
    }
    for index in ours("volumes", &|name| VOLUMES.contains(&name)).iter().rev() {
        edits.remove(&["spec", "volumes", index]);
    }
    if is_list("volumes") {
        volumes(settings).into_iter().for_each(|volume| edits.add(&["spec", "volumes", "-"], volume));
    } else {
        edits.add(&["spec", "volumes"], Vec::from(volumes(settings)).into());
    }
    let metadata = pod.get("metadata");
    if !metadata.is_some_and(Value::is_object) {
        edits.add(&["metadata"], json!({}));
    }
    let entries = [
        ("labels", LABEL_INJECTED, "true".to_owned()),
        ("annotations", ANNOTATION_STATUS, status(settings, variables)),
    ];
    for (key, entry, value) in entries {
        if !metadata.and_then(|metadata| metadata.get(key)).is_some_and(Value::is_object) {
            edits.add(&["metadata", key], json!({}));
        }
        edits.add(&["metadata", key, entry], value.into());
    }
}

/// Seconds; the drain's own deadline is 25.
const GRACE: u64 = 30;

/// A file may leave it out; the API server never does.
fn grace(spec: &Value, edits: &mut Edits) -> Option<String> {
    match spec.get("terminationGracePeriodSeconds").filter(|given| !given.is_null()) {
        None => {
            edits.add(&["spec", "terminationGracePeriodSeconds"], json!(GRACE));
            None
        }
        Some(given) => (given.as_u64()? < GRACE).then(|| {
            format!("terminationGracePeriodSeconds is {given}: calls of a stopping pod may be cut; use {GRACE}")
        }),
    }
}

#[cfg(test)]
mod tests;

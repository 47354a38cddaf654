//! The injection itself: a patch that adds the sidecar, as the first init container, to a pod or to
//! a pod template.
use super::edits::Edits;
use super::environment::{self, Variables};
use super::json::{list, name};
use super::pod::{Pod, label};
use super::settings::{AnnotationError, Defaults, SidecarSettings};
use super::sidecar::{VARIABLES, container, recognize, status, volumes};
use super::socket::Socket;
use super::violation::{Protected, Violation, risks, violations};
use crate::kubernetes::names::{ANNOTATION_STATUS, CONFIG, LABEL_INJECT, LABEL_INJECTED, VOLUMES};
use crate::kubernetes::untrusted::truncate;
use json_patch::Patch;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;

/// The pod's own `inject` label, which takes precedence over its namespace's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InjectLabel {
    Enabled,
    Disabled,
    Absent,
}

/// What to do with a sidecar that the pod already has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnExisting {
    /// Keep it: another webhook may have changed it since it was injected, and that change stands.
    Keep,
    /// Replace it by one that follows the current annotations and flags.
    Renew,
}

/// The result of a successful injection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Injection {
    /// The patch to apply to the pod; empty if nothing changes.
    pub(crate) patch: Patch,
    /// The name of the `ConfigMap` that the pod needs.
    pub(crate) config: String,
    /// Whether the pod had the sidecar before.
    pub(crate) had_sidecar: bool,
    /// What the pod's authors should know, one line each.
    pub(crate) warnings: Vec<String>,
}

/// Why a pod gets no sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InjectError {
    /// Every problem that was found, up to a bound.
    Rejected { violations: Vec<Violation>, annotations: Vec<AnnotationError> },
    /// The value does not have the shape of a pod.
    Shape(&'static str),
}

impl InjectError {
    /// Lists the problems without advice, each short enough for a warning that kubectl prints.
    pub(crate) fn problems(&self) -> Vec<String> {
        match self {
            Self::Rejected { violations, annotations } => {
                let violations = violations.iter().map(ToString::to_string);
                violations.chain(annotations.iter().map(ToString::to_string)).collect()
            }
            Self::Shape(problem) => vec![(*problem).to_owned()],
        }
    }
}

/// Shows every problem, with what to do about it.
impl fmt::Display for InjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = match self {
            Self::Rejected { violations, annotations } => {
                let violations = violations.iter().map(|violation| format!("{violation}: {}", violation.advice()));
                violations.chain(annotations.iter().map(ToString::to_string)).collect()
            }
            Self::Shape(problem) => vec![(*problem).to_owned()],
        };
        f.write_str(&texts.join("; "))
    }
}

/// Reads the pod's `inject` label.
///
/// # Errors
/// The label has another value than `enabled` and `disabled`.
pub(crate) fn inject_label(pod: &Value) -> Result<InjectLabel, Violation> {
    match label(pod, LABEL_INJECT) {
        None => Ok(InjectLabel::Absent),
        Some("enabled") => Ok(InjectLabel::Enabled),
        Some("disabled") => Ok(InjectLabel::Disabled),
        Some(other) => Err(Violation::Label(truncate(other))),
    }
}

/// Computes the patch that gives `object`, a pod or pod template, the sidecar.
///
/// # Errors
/// The pod would be unsafe or broken with it, or its annotations are wrong.
pub(crate) fn inject(object: &Value, defaults: &Defaults, existing: OnExisting) -> Result<Injection, InjectError> {
    let pod = Pod::read(object).map_err(InjectError::Shape)?;
    let settings = SidecarSettings::read(object.pointer("/metadata/annotations"), defaults);
    let recognized = pod.sidecar().filter(|_| existing == OnExisting::Keep).map(|sidecar| recognize(sidecar, pod.spec));
    let (kept, violation) = match recognized {
        Some(Ok(kept)) => (Some(kept), None),
        Some(Err(difference)) => (None, Some(Violation::Foreign(difference))),
        None => (None, None),
    };
    let socket = settings.as_ref().map_or(&defaults.socket, |settings| &settings.socket);
    let own = settings.as_ref().map_or(CONFIG, |settings| &settings.config);
    let protected = Protected {
        // The default directory, too, if the pod names another: its socket is the same Workload
        // API.
        directories: [socket, &defaults.socket]
            .into_iter()
            .filter_map(Socket::directory)
            .chain(kept.as_ref().and_then(|kept| kept.directory))
            .collect(),
        secret: kept.as_ref().map_or(own, |kept| kept.config),
    };
    let mut found: Vec<Violation> = violation.into_iter().collect();
    found.extend(violations(&pod, &protected));
    found.extend(inject_label(object).err());
    let settings = match &settings {
        Ok(settings) if found.is_empty() => settings,
        settings => {
            let annotations = settings.as_ref().err().cloned().unwrap_or_default();
            return Err(InjectError::Rejected { violations: found, annotations });
        }
    };
    let (mut edits, mut warnings) = (Edits::default(), risks(&pod));
    let record = InjectionRecord::read(object);
    let mut variables = BTreeMap::new();
    // Ephemeral containers are not part of a pod that is being created.
    let agents = pod.agents().filter(|agent| agent.list != "ephemeralContainers" && agent.value.is_object());
    for agent in agents {
        let before = record.variables.get(name(agent.value));
        let edited = environment::edit(&agent, settings.http_proxy.as_ref(), before, &mut edits);
        warnings.extend(edited.warnings);
        if !edited.variables.is_empty() {
            variables.insert(name(agent.value).to_owned(), edited.variables);
        }
    }
    if !pod.has_sidecar() || existing == OnExisting::Renew {
        place_sidecar(&pod, settings, &mut edits);
        mark_injected(&pod, status(settings, &variables), &mut edits);
    } else if variables != record.variables {
        edits.add(&["metadata", "annotations", ANNOTATION_STATUS], record.with(&variables).into());
    }
    warnings.extend(ensure_grace_period(&pod, &mut edits));
    let config = protected.secret.to_owned();
    Ok(Injection { patch: edits.finish(), config, had_sidecar: pod.has_sidecar(), warnings })
}

/// What the status annotation records of an earlier injection.
struct InjectionRecord {
    status: Map<String, Value>,
    variables: BTreeMap<String, Variables>,
}

/// The longest status annotation that is read, in bytes. It holds the variables of a few hundred
/// containers.
const MAX_STATUS: usize = 256 * 1024;

impl InjectionRecord {
    /// Reads the annotation. One that somebody else wrote records nothing.
    fn read(pod: &Value) -> Self {
        let text =
            pod.pointer("/metadata/annotations").and_then(|all| all.get(ANNOTATION_STATUS)).and_then(Value::as_str);
        let text = text.filter(|text| text.len() <= MAX_STATUS).unwrap_or_default();
        let status: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        let variables = status.get(VARIABLES).cloned().and_then(|variables| serde_json::from_value(variables).ok());
        Self { status, variables: variables.unwrap_or_default() }
    }

    /// Returns the annotation's value with other variables.
    fn with(mut self, variables: &BTreeMap<String, Variables>) -> String {
        if variables.is_empty() {
            self.status.remove(VARIABLES);
        } else {
            self.status.insert(VARIABLES.to_owned(), json!(variables));
        }
        Value::from(self.status).to_string()
    }
}

/// Adds the sidecar and its volumes, and removes those that the pod has already.
fn place_sidecar(pod: &Pod<'_>, settings: &SidecarSettings, edits: &mut Edits) {
    let is_list = |key: &str| pod.spec.get(key).is_some_and(Value::is_array);
    if let Some(index) = pod.sidecar_index {
        edits.remove(&["spec", "initContainers", &index.to_string()]);
    }
    if is_list("initContainers") {
        edits.add(&["spec", "initContainers", "0"], container(settings));
    } else {
        edits.add(&["spec", "initContainers"], json!([container(settings)]));
    }
    let old = list(pod.spec, "volumes").enumerate().filter(|(_, volume)| VOLUMES.contains(&name(volume)));
    let old: Vec<String> = old.filter(|_| pod.has_sidecar()).map(|(index, _)| index.to_string()).collect();
    for index in old.iter().rev() {
        edits.remove(&["spec", "volumes", index]);
    }
    if is_list("volumes") {
        volumes(settings).into_iter().for_each(|volume| edits.add(&["spec", "volumes", "-"], volume));
    } else {
        edits.add(&["spec", "volumes"], Vec::from(volumes(settings)).into());
    }
}

/// Sets the label and the status annotation of an injected pod.
fn mark_injected(pod: &Pod<'_>, status: String, edits: &mut Edits) {
    let metadata = pod.object.get("metadata");
    if !metadata.is_some_and(Value::is_object) {
        edits.add(&["metadata"], json!({}));
    }
    let entries = [("labels", LABEL_INJECTED, "true".to_owned()), ("annotations", ANNOTATION_STATUS, status)];
    for (key, entry, value) in entries {
        if !metadata.and_then(|metadata| metadata.get(key)).is_some_and(Value::is_object) {
            edits.add(&["metadata", key], json!({}));
        }
        edits.add(&["metadata", key, entry], value.into());
    }
}

/// The least grace period, in seconds, that does not warn. The proxy's own drain deadline is 25.
const GRACE_PERIOD: u64 = 30;

/// Sets the grace period if it is missing, which it is only in files, and returns a warning if it
/// is too short.
fn ensure_grace_period(pod: &Pod<'_>, edits: &mut Edits) -> Option<String> {
    match pod.spec.get("terminationGracePeriodSeconds").filter(|given| !given.is_null()) {
        None => {
            edits.add(&["spec", "terminationGracePeriodSeconds"], json!(GRACE_PERIOD));
            None
        }
        Some(given) => (given.as_u64()? < GRACE_PERIOD).then(|| {
            format!(
                "terminationGracePeriodSeconds is {given}: calls may be cut off when the pod stops; use {GRACE_PERIOD}"
            )
        }),
    }
}

#[cfg(test)]
mod tests;

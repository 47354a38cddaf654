//! A pod as `inject` reads it.
use super::json::{list, name};
use crate::kubernetes::names::{CONTAINER, LABEL_INJECTED};
use serde_json::Value;

/// A pod or pod template, checked for the shape that a patch relies on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod<'p> {
    /// The value with `metadata` and `spec`.
    pub(super) object: &'p Value,
    pub(super) spec: &'p Value,
    /// The index of the sidecar among the init containers, if the pod says that it was injected.
    pub(super) sidecar_index: Option<usize>,
}

/// A container of a pod, and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Container<'p> {
    pub(super) value: &'p Value,
    /// The key of the list in the spec.
    pub(super) list: &'static str,
    pub(super) index: usize,
}

/// The largest number of containers of all kinds. Real pods have tens; a hostile one may have as
/// many as fit into a review.
const MAX_CONTAINERS: usize = 256;
const MAX_VOLUMES: usize = 1024;

impl<'p> Pod<'p> {
    /// Checks the shape of `object`.
    ///
    /// # Errors
    /// The object lacks what every pod has.
    pub(super) fn read(object: &'p Value) -> Result<Self, &'static str> {
        let spec = object.get("spec").filter(|spec| spec.is_object()).ok_or("it has no spec")?;
        if list(spec, "containers").next().is_none() {
            return Err("its spec has no containers");
        }
        let is_list = |key: &str| spec.get(key).is_none_or(|value| value.is_null() || value.is_array());
        if !is_list("initContainers") || !is_list("volumes") {
            return Err("containers and volumes must be lists");
        }
        let metadata = object.get("metadata").filter(|metadata| !metadata.is_null());
        let is_map =
            |key: &str| metadata.and_then(|m| m.get(key)).is_none_or(|value| value.is_null() || value.is_object());
        if !metadata.is_none_or(Value::is_object) || !is_map("labels") || !is_map("annotations") {
            return Err("metadata, spec, labels and annotations must be mappings");
        }
        let count = |key: &str| list(spec, key).count();
        if count("containers") + count("initContainers") + count("ephemeralContainers") > MAX_CONTAINERS {
            return Err("it has more than 256 containers");
        }
        if count("volumes") > MAX_VOLUMES {
            return Err("it has more than 1024 volumes");
        }
        let is_injected = label(object, LABEL_INJECTED) == Some("true");
        let sidecar = list(spec, "initContainers").position(|container| name(container) == CONTAINER);
        Ok(Self { object, spec, sidecar_index: sidecar.filter(|_| is_injected) })
    }

    /// Whether the pod says that it was injected, by the webhook or by hand.
    pub(super) fn has_sidecar(&self) -> bool {
        self.sidecar_index.is_some()
    }

    /// Returns the container that is there as the sidecar.
    pub(super) fn sidecar(&self) -> Option<&'p Value> {
        list(self.spec, "initContainers").nth(self.sidecar_index?)
    }

    /// Returns every container but the sidecar.
    pub(super) fn agents(&self) -> impl Iterator<Item = Container<'p>> + use<'p> {
        let Self { spec, sidecar_index, .. } = *self;
        let containers = move |key: &'static str| {
            list(spec, key).enumerate().map(move |(index, value)| Container { value, list: key, index })
        };
        let initial = containers("initContainers").filter(move |container| Some(container.index) != sidecar_index);
        initial.chain(containers("containers")).chain(containers("ephemeralContainers"))
    }
}

/// Returns the value of a label of the pod.
pub(super) fn label<'p>(pod: &'p Value, key: &str) -> Option<&'p str> {
    pod.get("metadata")?.get("labels")?.get(key)?.as_str()
}

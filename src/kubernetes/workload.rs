//! The kinds of object that are workloads, and where the pod is in each.
use serde_json::Value;

/// A kind of object that creates pods, or the pod itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkloadKind {
    /// The value of an object's `kind`.
    pub(crate) name: &'static str,
    /// The plural resource name that an admission review uses.
    pub(crate) resource: &'static str,
    group: &'static str,
    /// JSON pointer from the object to its pod template; empty for a pod itself.
    template: &'static str,
}

const TEMPLATE: &str = "/spec/template";

const KINDS: [WorkloadKind; 8] = [
    WorkloadKind { name: "Pod", resource: "pods", group: "", template: "" },
    WorkloadKind { name: "ReplicationController", resource: "replicationcontrollers", group: "", template: TEMPLATE },
    WorkloadKind { name: "Deployment", resource: "deployments", group: "apps", template: TEMPLATE },
    WorkloadKind { name: "ReplicaSet", resource: "replicasets", group: "apps", template: TEMPLATE },
    WorkloadKind { name: "StatefulSet", resource: "statefulsets", group: "apps", template: TEMPLATE },
    WorkloadKind { name: "DaemonSet", resource: "daemonsets", group: "apps", template: TEMPLATE },
    WorkloadKind { name: "Job", resource: "jobs", group: "batch", template: TEMPLATE },
    WorkloadKind { name: "CronJob", resource: "cronjobs", group: "batch", template: "/spec/jobTemplate/spec/template" },
];

impl WorkloadKind {
    /// Finds the kind of an object by its `apiVersion` and `kind`. Another group may have a kind of
    /// the same name and another shape.
    pub(crate) fn of(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        KINDS.into_iter().find(|known| known.name == kind && known.group == group)
    }

    /// Finds the kind of a resource by the names that an admission review gives.
    pub(crate) fn of_resource(group: &str, resource: &str) -> Option<Self> {
        KINDS.into_iter().find(|known| known.resource == resource && known.group == group)
    }

    /// Whether a workload kind of any group has this name.
    pub(crate) fn is_known_kind(kind: &str) -> bool {
        KINDS.iter().any(|known| known.name == kind)
    }

    /// Returns the `apiVersion`, such as `apps/v1`. All these kinds have the version `v1`.
    pub(crate) fn api_version(self) -> String {
        if self.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group) }
    }

    /// Whether this is the pod itself, and not a kind that creates pods.
    pub(crate) fn is_pod(self) -> bool {
        self.template.is_empty()
    }

    /// Returns the pod or pod template: the value with `metadata` and `spec`.
    pub(crate) fn pod(self, object: &Value) -> Option<&Value> {
        object.pointer(self.template)
    }

    /// Returns the pod or pod template for changing.
    pub(crate) fn pod_mut(self, object: &mut Value) -> Option<&mut Value> {
        object.pointer_mut(self.template)
    }

    /// Returns the path of the pod's metadata as people write it, such as `spec.template.metadata`.
    pub(crate) fn metadata_path(self) -> String {
        let mut path: String = self.template.split('/').skip(1).map(|part| format!("{part}.")).collect();
        path.push_str("metadata");
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_of_another_group_is_unknown() {
        assert!(WorkloadKind::of("apps/v1", "Deployment").is_some());
        assert!(WorkloadKind::of("v1", "Pod").is_some_and(WorkloadKind::is_pod));
        assert_eq!(WorkloadKind::of("batch.volcano.sh/v1alpha1", "Job"), None);
        assert_eq!(WorkloadKind::of("v1", "Deployment"), None);
        assert_eq!(WorkloadKind::of_resource("batch", "cronjobs"), WorkloadKind::of("batch/v1", "CronJob"));
    }

    #[test]
    fn pod_template_is_found_at_the_kinds_path() {
        let cron = serde_json::json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": 1}}}}});
        let kind = WorkloadKind::of("batch/v1", "CronJob").expect("known");
        assert_eq!(kind.pod(&cron).expect("a pod")["spec"], 1);
        assert_eq!(kind.metadata_path(), "spec.jobTemplate.spec.template.metadata");
        assert_eq!(WorkloadKind::of("v1", "Pod").expect("known").metadata_path(), "metadata");
    }
}

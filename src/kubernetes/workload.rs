//! Which objects are workloads, and where in each the pod is.
use serde_json::Value;

/// An object that makes pods, or is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// As in `kind`.
    pub(crate) name: &'static str,
    /// As in `resource`, plural.
    pub(crate) resource: &'static str,
    group: &'static str,
    /// From the object to the pod; empty for a pod itself.
    template: &'static str,
}

const TEMPLATE: &str = "/spec/template";

const KINDS: [Kind; 8] = [
    Kind { name: "Pod", resource: "pods", group: "", template: "" },
    Kind { name: "ReplicationController", resource: "replicationcontrollers", group: "", template: TEMPLATE },
    Kind { name: "Deployment", resource: "deployments", group: "apps", template: TEMPLATE },
    Kind { name: "ReplicaSet", resource: "replicasets", group: "apps", template: TEMPLATE },
    Kind { name: "StatefulSet", resource: "statefulsets", group: "apps", template: TEMPLATE },
    Kind { name: "DaemonSet", resource: "daemonsets", group: "apps", template: TEMPLATE },
    Kind { name: "Job", resource: "jobs", group: "batch", template: TEMPLATE },
    Kind { name: "CronJob", resource: "cronjobs", group: "batch", template: "/spec/jobTemplate/spec/template" },
];

impl Kind {
    /// Of an object by its `apiVersion` and `kind`. A kind of another group may have the same name and another shape.
    pub(crate) fn of(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        KINDS.into_iter().find(|known| known.name == kind && known.group == group)
    }

    /// Of a resource as an admission review names it.
    pub(crate) fn of_resource(group: &str, resource: &str) -> Option<Self> {
        KINDS.into_iter().find(|known| known.resource == resource && known.group == group)
    }

    /// Whether a kind of any group has this name.
    pub(crate) fn is_name(kind: &str) -> bool {
        KINDS.iter().any(|known| known.name == kind)
    }

    /// `apps/v1` and the like: each of them has the version `v1`.
    pub(crate) fn api_version(self) -> String {
        if self.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group) }
    }

    /// Whether it is a pod, and not something that makes pods.
    pub(crate) fn is_pod(self) -> bool {
        self.template.is_empty()
    }

    /// The pod in it: `metadata` and `spec`.
    pub(crate) fn pod(self, object: &Value) -> Option<&Value> {
        object.pointer(self.template)
    }

    /// The same, to change it.
    pub(crate) fn pod_mut(self, object: &mut Value) -> Option<&mut Value> {
        object.pointer_mut(self.template)
    }

    /// `spec.template.metadata` and the like, for people.
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
    fn a_kind_is_known_by_its_group_too() {
        assert!(Kind::of("apps/v1", "Deployment").is_some());
        assert!(Kind::of("v1", "Pod").is_some_and(Kind::is_pod));
        assert_eq!(Kind::of("batch.volcano.sh/v1alpha1", "Job"), None);
        assert_eq!(Kind::of("v1", "Deployment"), None);
        assert_eq!(Kind::of_resource("batch", "cronjobs"), Kind::of("batch/v1", "CronJob"));
    }

    #[test]
    fn the_pod_is_where_the_kind_has_it() {
        let cron = serde_json::json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": 1}}}}});
        let kind = Kind::of("batch/v1", "CronJob").expect("known");
        assert_eq!(kind.pod(&cron).expect("a pod")["spec"], 1);
        assert_eq!(kind.metadata_path(), "spec.jobTemplate.spec.template.metadata");
        assert_eq!(Kind::of("v1", "Pod").expect("known").metadata_path(), "metadata");
    }
}

//! `http_proxy` and the related variables in the agent's containers. Both spellings are set,
//! because curl reads one and other clients the other. A value that the container has itself is
//! never replaced. The status annotation records what was set, so that it can be changed and
//! removed later.
use super::edits::Edits;
use super::json::{list, name, text};
use super::pod::Container;
use super::settings::HttpProxy;
use crate::kubernetes::names::OUTBOUND_PORT;
use crate::kubernetes::untrusted::truncate;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const LOOPBACK: &str = "localhost,127.0.0.1,::1";
/// The sidecars of service meshes. Their own calls are not the agent's, and a proxy variable would
/// break them.
const MESH_SIDECARS: [&str; 2] = ["istio-proxy", "linkerd-proxy"];

/// The variables that were set in one container.
pub(super) type Variables = BTreeMap<String, String>;

/// The result of editing one container's variables.
pub(super) struct EnvironmentEdit {
    /// The variables that we have set, now or before.
    pub(super) variables: Variables,
    /// Says which variables the container keeps, and why that matters.
    pub(super) warnings: Vec<String>,
}

/// Sets the variables of `container`, or removes them if `proxy` is absent. `before` is what an
/// earlier injection set.
pub(super) fn edit(
    container: &Container<'_>,
    proxy: Option<&HttpProxy>,
    before: Option<&Variables>,
    edits: &mut Edits,
) -> EnvironmentEdit {
    let Container { value: container, list: key, index } = *container;
    let is_ours = |entry: &Value| {
        text(entry, "value").is_some_and(|v| before.and_then(|b| b.get(name(entry))).is_some_and(|b| b == v))
    };
    let proxy = proxy.filter(|_| !MESH_SIDECARS.contains(&name(container)));
    let Wanted { variables: mut missing, warnings } =
        proxy.map(|proxy| wanted(container, proxy, is_ours)).unwrap_or_default();
    let container_index = index.to_string();
    let env = ["spec", key, &container_index, "env"];
    let [spec, containers, container_index, _] = env;
    let (mut ours, mut kept, mut obsolete) = (Variables::new(), 0, Vec::new());
    for (index, entry) in list(container, "env").enumerate() {
        let wanted = missing.iter().position(|(variable, _)| *variable == name(entry));
        if wanted.is_none() && is_ours(entry) {
            obsolete.push(index.to_string());
            continue;
        }
        kept += 1;
        let Some(wanted) = wanted else { continue };
        let (variable, value) = missing.swap_remove(wanted);
        if !is_ours(entry) {
            continue;
        }
        if text(entry, "value") != Some(value.as_str()) {
            let path = [spec, containers, container_index, "env", &index.to_string(), "value"];
            edits.replace(&path, value.as_str().into());
        }
        ours.insert(variable.to_owned(), value);
    }
    missing.sort_by_key(|(variable, _)| ORDER.iter().position(|known| known == variable));
    let added: Vec<Value> = missing.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    ours.extend(missing.into_iter().map(|(variable, value)| (variable.to_owned(), value)));
    if kept == 0 && !added.is_empty() {
        edits.add(&env, added.into());
    } else if kept == 0 && !obsolete.is_empty() {
        edits.remove(&env);
    } else {
        for index in obsolete.iter().rev() {
            edits.remove(&[spec, containers, container_index, "env", index]);
        }
        for entry in added {
            edits.add(&[spec, containers, container_index, "env", "-"], entry);
        }
    }
    EnvironmentEdit { variables: ours, warnings }
}

/// The order in which variables are added.
const ORDER: [&str; 4] = ["http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"];

/// The variables that a container should have.
#[derive(Default)]
struct Wanted {
    variables: Vec<(&'static str, String)>,
    /// Which variables are left to the container, and why that matters.
    warnings: Vec<String>,
}

fn wanted(container: &Value, proxy: &HttpProxy, is_ours: impl Fn(&Value) -> bool) -> Wanted {
    let url = format!("http://127.0.0.1:{OUTBOUND_PORT}");
    let bypass = if proxy.no_proxy.is_empty() { LOOPBACK.to_owned() } else { format!("{LOOPBACK},{}", proxy.no_proxy) };
    let who = truncate(name(container));
    // Both spellings or neither, so that a container never has two proxies.
    let changed_by_others = |names: [&'static str; 2], value: &str| {
        let own = list(container, "env").filter(|entry| !is_ours(entry) && text(entry, "value") != Some(value));
        own.filter_map(|entry| names.into_iter().find(|known| *known == name(entry))).next()
    };
    if !container.get("env").is_none_or(|env| env.is_null() || env.is_array()) {
        return Wanted::default();
    }
    if let Some(variable) = changed_by_others(["http_proxy", "HTTP_PROXY"], &url) {
        let warning = format!("container {who} keeps its own {variable} and therefore does not use the proxy");
        return Wanted { variables: Vec::new(), warnings: vec![warning] };
    }
    let mut wanted = Wanted { variables: vec![("http_proxy", url.clone()), ("HTTP_PROXY", url)], warnings: Vec::new() };
    match changed_by_others(["no_proxy", "NO_PROXY"], &bypass) {
        Some(variable) => {
            wanted.warnings.push(format!("container {who} keeps its own {variable}; it should contain {LOOPBACK}"));
        }
        None => wanted.variables.extend([("no_proxy", bypass.clone()), ("NO_PROXY", bypass)]),
    }
    if list(container, "envFrom").next().is_some() {
        wanted.warnings.push(format!(
            "container {who} has envFrom: if it brings http_proxy or no_proxy, those set here override them"
        ));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "http://127.0.0.1:17080";

    fn edited(container: &mut Value, no_proxy: Option<&str>, before: Option<&Variables>) -> EnvironmentEdit {
        let proxy = no_proxy.map(|no_proxy| HttpProxy { no_proxy: no_proxy.to_owned() });
        let mut edits = Edits::default();
        let place = Container { value: container, list: "containers", index: 0 };
        let done = edit(&place, proxy.as_ref(), before, &mut edits);
        let mut pod = json!({"spec": {"containers": [container.take()]}});
        json_patch::patch(&mut pod, &edits.finish()).expect("it applies");
        *container = pod["spec"]["containers"][0].take();
        done
    }

    fn proxied(mut container: Value, no_proxy: &str) -> (Value, Vec<String>) {
        let done = edited(&mut container, Some(no_proxy), None);
        (container["env"].clone(), done.warnings)
    }

    #[test]
    fn both_spellings_are_added_after_the_existing_variables() {
        let (env, warnings) =
            proxied(json!({"name": "agent", "env": [{"name": "A", "value": "1"}]}), "metadata.internal");
        let bypass = "localhost,127.0.0.1,::1,metadata.internal";
        let expected = json!([
            {"name": "A", "value": "1"},
            {"name": "http_proxy", "value": OURS},
            {"name": "HTTP_PROXY", "value": OURS},
            {"name": "no_proxy", "value": bypass},
            {"name": "NO_PROXY", "value": bypass},
        ]);
        assert_eq!((env, warnings), (expected, vec![]));
        assert_eq!(proxied(json!({"name": "agent", "env": null}), "").0[2]["value"], LOOPBACK);
    }

    #[test]
    fn existing_value_stays_with_a_warning() {
        let own = json!([{"name": "HTTP_PROXY", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}]);
        let (env, warnings) = proxied(json!({"name": "agent", "env": own}), "");
        assert_eq!(env, own);
        assert_eq!(warnings, ["container agent keeps its own HTTP_PROXY and therefore does not use the proxy"]);
        let (env, warnings) = proxied(json!({"name": "agent", "env": [{"name": "no_proxy", "value": "*"}]}), "");
        assert_eq!(env.as_array().expect("a list").len(), 3);
        assert_eq!(warnings, ["container agent keeps its own no_proxy; it should contain localhost,127.0.0.1,::1"]);
    }

    #[test]
    fn editing_twice_changes_nothing() {
        let mut container = json!({"name": "agent", "env": [{"name": "http_proxy", "value": OURS}]});
        let first = edited(&mut container, Some(""), None);
        assert_eq!(first.warnings, Vec::<String>::new());
        assert_eq!(
            first.variables.keys().collect::<Vec<_>>(),
            ["HTTP_PROXY", "NO_PROXY", "no_proxy"],
            "the variable that it had is not recorded"
        );
        let once = container.clone();
        let second = edited(&mut container, Some(""), Some(&first.variables));
        assert_eq!((&container, &second.variables, second.warnings), (&once, &first.variables, vec![]));
    }

    #[test]
    fn set_variables_are_changed_and_removed() {
        let own = json!({"name": "agent", "env": [{"name": "A", "value": "1"}, {"name": "NO_PROXY", "value": "x"}]});
        for own in [own, json!({"name": "agent"})] {
            let mut container = own.clone();
            let first = edited(&mut container, Some("a.example"), None);
            container["env"].as_array_mut().expect("a list").push(json!({"name": "LATE", "value": "2"}));
            let second = edited(&mut container, Some("b.example"), Some(&first.variables));
            let values: Vec<&Value> = list(&container, "env").map(|entry| &entry["value"]).collect();
            assert!(!values.iter().any(|value| value.to_string().contains("a.example")), "{container}");
            assert_eq!(second.variables.contains_key("no_proxy"), own.get("env").is_none());
            assert_eq!(list(&container, "env").last().map(name), Some("LATE"), "the order is kept");
            container["env"].as_array_mut().expect("a list").pop();
            let third = edited(&mut container, None, Some(&second.variables));
            assert_eq!((container, third.variables), (own, Variables::new()));
        }
    }

    #[test]
    fn env_from_is_warned_about() {
        let (_, warnings) = proxied(json!({"name": "agent", "envFrom": [{"secretRef": {"name": "a"}}]}), "");
        let expected = "container agent has envFrom: if it brings http_proxy or no_proxy, those set here override them";
        assert_eq!(warnings, [expected]);
    }

    #[test]
    fn mesh_sidecar_is_not_edited() {
        for mesh in ["istio-proxy", "linkerd-proxy"] {
            assert_eq!(proxied(json!({"name": mesh}), ""), (Value::Null, vec![]));
        }
    }
}

//! `http_proxy` and its kin in the agent's containers: in both spellings, because curl reads one and others the other; never over a
//! value that is the container's own. What was set is recorded in the status annotation, so that it can be changed and taken back.
use super::edits::Edits;
use super::hazard::{list, name};
use super::settings::HttpProxy;
use crate::kubernetes::names::OUTBOUND_PORT;
use crate::kubernetes::words::shortened;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const LOOPBACK: &str = "localhost,127.0.0.1,::1";
/// Sidecars of meshes. What they call is not the agent's business, and a proxy in their way breaks them.
const MESHES: [&str; 2] = ["istio-proxy", "linkerd-proxy"];

/// What was set in one container, by variable.
pub(super) type Variables = BTreeMap<String, String>;

/// What the container's variables come to.
pub(super) struct Environment {
    /// Those that are ours.
    pub(super) variables: Variables,
    /// What was left as it was, in words.
    pub(super) left: Vec<String>,
}

/// Sets the variables in the container at this place, or takes back what was set `before`.
pub(super) fn edit(
    container: &Value,
    place: [&str; 3],
    proxy: Option<&HttpProxy>,
    before: Option<&Variables>,
    edits: &mut Edits,
) -> Environment {
    let is_ours = |entry: &Value| {
        text(entry, "value").is_some_and(|v| before.and_then(|b| b.get(name(entry))).is_some_and(|b| b == v))
    };
    let proxy = proxy.filter(|_| !MESHES.contains(&name(container)));
    let (wanted, left) = proxy.map(|proxy| wanted(container, proxy, is_ours)).unwrap_or_default();
    let [spec, containers, index] = place;
    let variables = [spec, containers, index, "env"];
    let (mut ours, mut kept, mut missing) = (Variables::new(), 0, wanted);
    let mut gone = Vec::new();
    for (index, entry) in list(container, "env").enumerate() {
        let wanted = missing.iter().position(|(variable, _)| *variable == name(entry));
        if wanted.is_none() && is_ours(entry) {
            gone.push(index.to_string());
            continue;
        }
        kept += 1;
        let Some(wanted) = wanted else { continue };
        let (variable, value) = missing.swap_remove(wanted);
        if !is_ours(entry) {
            continue;
        }
        if text(entry, "value") != Some(value.as_str()) {
            edits.replace(&[spec, containers, place[2], "env", &index.to_string(), "value"], value.as_str().into());
        }
        ours.insert(variable.to_owned(), value);
    }
    missing.sort_by_key(|(variable, _)| ORDER.iter().position(|known| known == variable));
    let added: Vec<Value> = missing.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    ours.extend(missing.into_iter().map(|(variable, value)| (variable.to_owned(), value)));
    if kept == 0 && !added.is_empty() {
        edits.add(&variables, added.into());
    } else if kept == 0 && !gone.is_empty() {
        edits.remove(&variables);
    } else {
        for index in gone.iter().rev() {
            edits.remove(&[spec, containers, place[2], "env", index]);
        }
        for entry in added {
            edits.add(&[spec, containers, place[2], "env", "-"], entry);
        }
    }
    Environment { variables: ours, left }
}

const ORDER: [&str; 4] = ["http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"];

/// The variables that the container is to have, and what is left as it is.
fn wanted(
    container: &Value,
    proxy: &HttpProxy,
    is_ours: impl Fn(&Value) -> bool,
) -> (Vec<(&'static str, String)>, Vec<String>) {
    let url = format!("http://127.0.0.1:{OUTBOUND_PORT}");
    let around = if proxy.no_proxy.is_empty() { LOOPBACK.to_owned() } else { format!("{LOOPBACK},{}", proxy.no_proxy) };
    let who = shortened(name(container));
    // Both spellings or neither, so that a container never has two proxies.
    let other = |names: [&'static str; 2], value: &str| {
        let own = list(container, "env").filter(|entry| !is_ours(entry) && text(entry, "value") != Some(value));
        own.filter_map(|entry| names.into_iter().find(|known| *known == name(entry))).next()
    };
    if !container.get("env").is_none_or(|env| env.is_null() || env.is_array()) {
        return Default::default();
    }
    if let Some(variable) = other(["http_proxy", "HTTP_PROXY"], &url) {
        let left = format!("container {who} keeps its own {variable}: it does not use the proxy by itself");
        return (Vec::new(), vec![left]);
    }
    let (mut wanted, mut left) = (vec![("http_proxy", url.clone()), ("HTTP_PROXY", url)], Vec::new());
    match other(["no_proxy", "NO_PROXY"], &around) {
        Some(variable) => left.push(format!("container {who} keeps its own {variable}; it should hold {LOOPBACK}")),
        None => wanted.extend([("no_proxy", around.clone()), ("NO_PROXY", around)]),
    }
    if list(container, "envFrom").next().is_some() {
        left.push(format!(
            "container {who} has envFrom: if http_proxy or no_proxy come by it, those set here win over them"
        ));
    }
    (wanted, left)
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "http://127.0.0.1:17080";

    fn edited(container: &mut Value, no_proxy: Option<&str>, before: Option<&Variables>) -> Environment {
        let proxy = no_proxy.map(|no_proxy| HttpProxy { no_proxy: no_proxy.to_owned() });
        let mut edits = Edits::default();
        let done = edit(container, ["spec", "containers", "0"], proxy.as_ref(), before, &mut edits);
        let mut pod = json!({"spec": {"containers": [container.take()]}});
        json_patch::patch(&mut pod, &edits.finish()).expect("it applies");
        *container = pod["spec"]["containers"][0].take();
        done
    }

    fn proxied(mut container: Value, no_proxy: &str) -> (Value, Vec<String>) {
        let done = edited(&mut container, Some(no_proxy), None);
        (container["env"].clone(), done.left)
    }

    #[test]
    fn both_spellings_behind_what_is_there() {
        let (env, left) = proxied(json!({"name": "agent", "env": [{"name": "A", "value": "1"}]}), "metadata.internal");
        let around = "localhost,127.0.0.1,::1,metadata.internal";
        let expected = json!([
            {"name": "A", "value": "1"},
            {"name": "http_proxy", "value": OURS},
            {"name": "HTTP_PROXY", "value": OURS},
            {"name": "no_proxy", "value": around},
            {"name": "NO_PROXY", "value": around},
        ]);
        assert_eq!((env, left), (expected, vec![]));
        assert_eq!(proxied(json!({"name": "agent", "env": null}), "").0[2]["value"], LOOPBACK);
    }

    #[test]
    fn a_value_that_is_there_stays_and_is_said() {
        let own = json!([{"name": "HTTP_PROXY", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}]);
        let (env, left) = proxied(json!({"name": "agent", "env": own}), "");
        assert_eq!(env, own);
        assert_eq!(left, ["container agent keeps its own HTTP_PROXY: it does not use the proxy by itself"]);
        let (env, left) = proxied(json!({"name": "agent", "env": [{"name": "no_proxy", "value": "*"}]}), "");
        assert_eq!(env.as_array().expect("a list").len(), 3);
        assert_eq!(left, ["container agent keeps its own no_proxy; it should hold localhost,127.0.0.1,::1"]);
    }

    #[test]
    fn a_second_time_changes_nothing() {
        let mut container = json!({"name": "agent", "env": [{"name": "http_proxy", "value": OURS}]});
        let first = edited(&mut container, Some(""), None);
        assert_eq!(first.left, Vec::<String>::new());
        assert_eq!(first.variables.keys().collect::<Vec<_>>(), ["HTTP_PROXY", "NO_PROXY", "no_proxy"], "not its own");
        let once = container.clone();
        let second = edited(&mut container, Some(""), Some(&first.variables));
        assert_eq!((&container, &second.variables, second.left), (&once, &first.variables, vec![]));
    }

    #[test]
    fn what_was_set_is_set_anew_and_taken_back() {
        let own = json!({"name": "agent", "env": [{"name": "A", "value": "1"}, {"name": "NO_PROXY", "value": "x"}]});
        for own in [own, json!({"name": "agent"})] {
            let mut container = own.clone();
            let first = edited(&mut container, Some("a.example"), None);
            container["env"].as_array_mut().expect("a list").push(json!({"name": "LATE", "value": "2"}));
            let second = edited(&mut container, Some("b.example"), Some(&first.variables));
            let values: Vec<&Value> = list(&container, "env").map(|entry| &entry["value"]).collect();
            assert!(!values.iter().any(|value| value.to_string().contains("a.example")), "{container}");
            assert_eq!(second.variables.contains_key("no_proxy"), own.get("env").is_none());
            assert_eq!(list(&container, "env").last().map(name), Some("LATE"), "each in its place");
            container["env"].as_array_mut().expect("a list").pop();
            let third = edited(&mut container, None, Some(&second.variables));
            assert_eq!((container, third.variables), (own, Variables::new()));
        }
    }

    #[test]
    fn what_cannot_be_seen_is_said() {
        let (_, left) = proxied(json!({"name": "agent", "envFrom": [{"secretRef": {"name": "a"}}]}), "");
        let expected =
            "container agent has envFrom: if http_proxy or no_proxy come by it, those set here win over them";
        assert_eq!(left, [expected]);
    }

    #[test]
    fn the_sidecar_of_a_mesh_is_left_alone() {
        for mesh in ["istio-proxy", "linkerd-proxy"] {
            assert_eq!(proxied(json!({"name": mesh}), ""), (Value::Null, vec![]));
        }
    }
}

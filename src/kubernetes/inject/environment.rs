//! `http_proxy` and its kin in the agent's containers: in both spellings, because curl reads one and others the other; never over a
//! value that is there.
use super::hazard::name;
use super::settings::HttpProxy;
use crate::kubernetes::names::OUTBOUND_PORT;
use serde_json::{Value, json};

const LOOPBACK: &str = "localhost,127.0.0.1,::1";

/// Sets them in one container. Returned is what was left as it was, in words.
pub(super) fn set(container: &mut Value, proxy: &HttpProxy) -> Vec<String> {
    let url = format!("http://127.0.0.1:{OUTBOUND_PORT}");
    let around = if proxy.no_proxy.is_empty() { LOOPBACK.to_owned() } else { format!("{LOOPBACK},{}", proxy.no_proxy) };
    let who = name(container).to_owned();
    let mut left = Vec::new();
    let (is_free, kept) = set_pair(container, ["http_proxy", "HTTP_PROXY"], &url);
    left.extend(
        kept.map(|variable| format!("container {who} keeps its own {variable}: it does not use the proxy by itself")),
    );
    if !is_free {
        return left;
    }
    let (_, kept) = set_pair(container, ["no_proxy", "NO_PROXY"], &around);
    left.extend(kept.map(|variable| format!("container {who} keeps its own {variable}; it should hold {LOOPBACK}")));
    if container.get("envFrom").and_then(Value::as_array).is_some_and(|sources| !sources.is_empty()) {
        left.push(format!("container {who}: http_proxy and no_proxy are set over what envFrom may bring"));
    }
    left
}

/// Both spellings or neither, so that a container never has two proxies. The second of the pair returned is the variable that
/// has another value already.
fn set_pair(container: &mut Value, names: [&'static str; 2], value: &str) -> (bool, Option<&'static str>) {
    let present: Vec<(&'static str, bool)> = {
        let variables = container.get("env").and_then(Value::as_array).into_iter().flatten();
        let variables = variables.filter_map(|variable| {
            let name = names.into_iter().find(|name| variable.get("name").and_then(Value::as_str) == Some(name))?;
            Some((name, variable.get("value").and_then(Value::as_str) == Some(value)))
        });
        variables.collect()
    };
    if let Some((name, _)) = present.iter().find(|(_, same)| !same) {
        return (false, Some(name));
    }
    let missing = names.into_iter().filter(|name| !present.iter().any(|(there, _)| there == name));
    let missing: Vec<Value> = missing.map(|name| json!({"name": name, "value": value})).collect();
    if missing.is_empty() {
        return (true, None);
    }
    let Some(fields) = container.as_object_mut() else { return (false, None) };
    let variables = fields.entry("env").or_insert_with(|| json!([]));
    if variables.is_null() {
        *variables = json!([]);
    }
    if let Some(variables) = variables.as_array_mut() {
        variables.extend(missing);
    }
    (true, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "http://127.0.0.1:17080";

    fn proxied(mut container: Value, no_proxy: &str) -> (Value, Vec<String>) {
        let left = set(&mut container, &HttpProxy { no_proxy: no_proxy.to_owned() });
        (container["env"].clone(), left)
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
        let proxy = HttpProxy { no_proxy: String::new() };
        assert_eq!(set(&mut container, &proxy), Vec::<String>::new());
        let once = container.clone();
        assert_eq!(set(&mut container, &proxy), Vec::<String>::new());
        assert_eq!(container, once);
    }

    #[test]
    fn what_cannot_be_seen_is_said() {
        let (_, left) = proxied(json!({"name": "agent", "envFrom": [{"secretRef": {"name": "a"}}]}), "");
        assert_eq!(left, ["container agent: http_proxy and no_proxy are set over what envFrom may bring"]);
    }
}

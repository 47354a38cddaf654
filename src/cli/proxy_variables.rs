//! The environment variables that name an egress proxy for other programs. This one reads its
//! configuration instead, because the agent's `HTTP_PROXY` names this proxy.
use crate::config::Config;

const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];

/// Says which variable is set although the configuration names no egress proxy. A variable that
/// names the proxy itself does not count.
pub(super) fn unused(config: &Config, environment: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    if config.egress_proxy.is_some() {
        return None;
    }
    let own: Vec<String> = config.listen.outbound.iter().map(|listen| listen.address.to_string()).collect();
    let is_foreign = |value: &String| !value.is_empty() && !own.iter().any(|own| value.contains(own));
    let name = VARIABLES.iter().find(|name| environment(name).as_ref().is_some_and(is_foreign))?;
    Some(format!("{name} is set and not used: connections are direct unless the configuration has `egress_proxy`"))
}

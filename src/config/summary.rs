//! Describes a configuration in sentences: which requests go where, and with whose authority.
use super::runtime::Config;
use crate::policy::{Unmatched, enumeration};

/// Returns one paragraph about the process, one about each route, and one about everything else.
pub fn summary(config: &Config) -> String {
    let mut text = format!("The agent connects to {}.", addresses(config));
    text.push_str(&match config.identity.as_ref().filter(|_| config.needs_identity) {
        Some(source) => format!(" Its identity comes from {source}.\n"),
        None => " No identity is needed.\n".to_owned(),
    });
    if let Some(proxy) = &config.egress_proxy {
        text.push_str(&format!(
            "Connections leave through the egress proxy {}:{}, except where a route or server says `egress_proxy: \
             none`. It resolves the names, so only hosts that are spelled as addresses can be checked.\n",
            proxy.host, proxy.port
        ));
    }
    for (index, route) in config.policy.routes().iter().enumerate() {
        text.push_str(&format!("\n{}\n  {}\n", route.name, route.description().sentences));
        if let Some(paths) = config.policy.describe_paths(index) {
            text.push_str(&format!("  {paths}\n"));
        }
    }
    text.push_str(match config.policy.unmatched() {
        Unmatched::Refuse => "\nEverything else is refused.\n",
        Unmatched::Pass => {
            "\nEverything else passes, without a credential from the proxy. The agent's own credentials are \
             removed as far as they are known by name: `cookie`, `x-api-key` and the like pass.\n"
        }
    });
    text
}

fn addresses(config: &Config) -> String {
    let addresses = config.listen.outbound.iter().map(|listen| listen.address.to_string());
    let sockets = config.listen.outbound_sockets.iter().map(|socket| {
        let path = socket.path.display();
        match &socket.uids {
            Some(uids) => {
                format!("unix://{path} (uid {})", enumeration(&uids.iter().map(u32::to_string).collect::<Vec<_>>()))
            }
            None => format!("unix://{path} (only the proxy's own uid)"),
        }
    });
    enumeration(&addresses.chain(sockets).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use crate::config::testing::ConfigDirectory;

    #[test]
    fn summary_describes_each_route_in_a_sentence() {
        let directory = ConfigDirectory::new();
        let loaded = directory.loaded(include_str!("../../config/examples/id-jag-user.yaml"));
        let expected = "The agent connects to 127.0.0.1:17080 and [::1]:17080. Its identity comes from the Workload API at unix:///run/spire/agent.sock.

calendar-read
  Requests that match `GET,HEAD api.calendar.example/v1/**` go there over https, in the name of the user whose ID token of `corp` is in the header `x-user-token`, with the agent as the actor, with the scope `calendar:read`.
  The token comes from `calendar` (https://as.calendar.example, private_key_jwt), in return for an ID-JAG that `corp` (https://idp.corp.example, spiffe_jwt) issues.
  A path that can be read in two ways, such as `/a%2Fb`, is refused: routes divide the host by path.

calendar-write
  Requests that match `POST,PUT,DELETE api.calendar.example/v1/**` go there over https, in the name of the user whose ID token of `corp` is in the header `x-user-token`, with the agent as the actor, with the scopes `calendar:read` and `calendar:write`.
  The token comes from `calendar` (https://as.calendar.example, private_key_jwt), in return for an ID-JAG that `corp` (https://idp.corp.example, spiffe_jwt) issues.
  A path that can be read in two ways, such as `/a%2Fb`, is refused: routes divide the host by path.

Everything else is refused.
";
        assert_eq!(super::summary(&loaded.config), expected);
    }

    #[test]
    fn refused_paths_of_a_wildcard_are_those_of_the_hosts_that_are_divided() {
        let directory = ConfigDirectory::new();
        let key = "legacy_secret: { file: keys/client-secret, header: x-k }";
        let summary = |host: &str| {
            let route = format!("{{ name: all, match: {{ host: '{host}' }}, {key} }}");
            let other = format!("{{ name: v1, match: {{ host: a.test, path: /v1/** }}, {key} }}");
            super::summary(&directory.loaded(&format!("routes: [{route}, {other}]\n")).config)
        };
        let of_wildcard = summary("*.test");
        assert!(of_wildcard.contains("is refused for the hosts that routes divide by path."), "{of_wildcard}");
        assert!(!summary("a.test").contains("for the hosts"));
    }

    #[test]
    fn summary_names_dangers_and_contains_no_secret() {
        let directory = ConfigDirectory::new();
        let summary = |example: &str| super::summary(&directory.loaded(example).config);
        let secret = summary(include_str!("../../config/examples/legacy-secret.yaml"));
        assert!(
            secret.contains("with a static key in `x-api-key`: an anti-pattern") && !secret.contains("canary"),
            "{secret}"
        );
        assert!(secret.contains("No identity is needed"));
        assert!(
            summary(include_str!("../../config/examples/no-credential.yaml"))
                .contains("with the agent's own credentials")
        );
        assert!(
            summary(include_str!("../../config/examples/spiffe-mtls.yaml"))
                .contains("to https://reports.svc:8443 over mutual TLS (it must be spiffe://example.org/reports)")
        );
        assert!(summary("unmatched: pass").contains("Everything else passes"));
    }
}

//! The examples and the reference of the configuration file are valid and complete.
use super::schema::tests::accepts;
use super::testing::ConfigDirectory;
use super::{problem::Report, schema, tree};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn config_path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(relative)
}

fn examples() -> Vec<(String, String)> {
    let files = std::fs::read_dir(config_path("examples")).expect("the examples");
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    paths.push(config_path("reference.yaml"));
    paths.sort();
    paths.iter().map(|path| (path.display().to_string(), std::fs::read_to_string(path).expect("text"))).collect()
}

#[test]
fn every_example_loads_and_matches_the_schema() {
    let directory = ConfigDirectory::new();
    let schema = schema();
    let examples = examples();
    assert!(examples.len() > 12);
    for (name, text) in &examples {
        if let Err(problems) = directory.load(text) {
            panic!("{name}\n{problems}");
        }
        let tree = tree::parse(text, &mut Report::new(Path::new("f"), text)).expect("YAML");
        assert!(accepts(&schema, &schema, &tree.to_json()), "{name}");
    }
}

#[test]
fn only_examples_of_unwise_settings_have_warnings() {
    let directory = ConfigDirectory::new();
    for (name, text) in examples() {
        let warnings = directory.warnings(&text);
        let unwise = ["legacy-secret", "no-credential", "reference"].iter().any(|unwise| name.contains(unwise));
        assert_eq!(!warnings.is_empty(), unwise, "{name}: {warnings:#?}");
    }
}

#[test]
fn reference_mentions_every_key_and_every_choice() {
    fn words(value: &serde_json::Value, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(map) => {
                let properties = map.get("properties").and_then(|properties| properties.as_object());
                found.extend(properties.into_iter().flatten().map(|(key, _)| key.clone()));
                found.extend(map.get("const").and_then(|name| name.as_str()).map(str::to_owned));
                map.values().for_each(|inner| words(inner, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| words(item, found)),
            _ => {}
        }
    }
    let text = std::fs::read_to_string(config_path("reference.yaml")).expect("the reference");
    let mentioned: BTreeSet<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let mut names = BTreeSet::new();
    words(&schema(), &mut names);
    assert!(names.len() > 90, "{names:?}");
    let missing: Vec<&String> = names.iter().filter(|word| !mentioned.contains(word.as_str())).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

#[test]
fn reference_shows_the_defaults() {
    fn defaults(schema: &serde_json::Value, found: &mut Vec<(String, String)>) {
        for (key, inner) in schema.as_object().into_iter().flatten() {
            for (name, property) in inner.as_object().into_iter().flatten().filter(|_| key == "properties") {
                if let Some(default) = property.get("default").filter(|default| !default.is_object()) {
                    found.push((name.clone(), default.to_string().replace('"', "")));
                }
            }
            defaults(inner, found);
        }
    }
    let text = std::fs::read_to_string(config_path("reference.yaml")).expect("the reference");
    let text = text.replace('"', "").replace(", ", ",");
    let mut found = Vec::new();
    defaults(&schema(), &mut found);
    assert!(found.len() > 20, "{found:?}");
    for (key, default) in found {
        let is_shown = text.lines().any(|line| {
            let says = |text: String| line.contains(&text);
            says(format!("{key}: {default}")) || (says(format!("{key}:")) && says(format!("default: {default}")))
        });
        // The reference has an example value for these, and describes their default in words.
        let is_in_words = ["methods", "headers", "subject", "routes"].contains(&key.as_str());
        assert!(is_shown || is_in_words, "{key}: {default}");
    }
}

/// The smallest file, and one that uses most of the format.
#[test]
fn smallest_and_full_files_load() {
    let directory = ConfigDirectory::new();
    let smallest = directory.loaded(include_str!("../../config/examples/smallest.yaml"));
    assert_eq!(smallest.config.policy.routes().len(), 1);
    assert_eq!(smallest.warnings, []);
    let full = directory.loaded(FULL);
    assert_eq!(full.config.policy.routes().len(), 6);
    assert_eq!(full.config.published_keys.len(), 2);
    assert_eq!(full.config.published_keys[0].kid(), "2026-11");
    assert_eq!(full.warnings.len(), 1, "{:?}", full.warnings);
    assert!(full.warnings[0].message.contains("anti-pattern"));
    let watched: Vec<String> = full.fingerprint.files().map(|file| file.display().to_string()).collect();
    for file in [
        "proxy.yaml",
        "keys/assertion.pem",
        "keys/assertion-2026-10.pem",
        "keys/client.pem",
        "keys/calendar-ca.pem",
        "keys/search-api-key",
    ] {
        assert!(watched.iter().any(|watched| watched.ends_with(file)), "{file}: {watched:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_edit_of_a_good_file_does_not_panic(from in 0..FULL.len(), length in 0_usize..60, text in TEXT) {
        let to = (from + length).min(FULL.len());
        if FULL.is_char_boundary(from) && FULL.is_char_boundary(to) {
            let edited = format!("{}{text}{}", &FULL[..from], &FULL[to..]);
            DIRECTORY.with(|directory| drop(directory.load(&edited)));
        }
    }
}

thread_local! {
    static DIRECTORY: ConfigDirectory = ConfigDirectory::new();
}

const TEXT: &str = r"[a-z:{}\[\], \n*&]{0,12}";

#[test]
fn hostile_file_gets_a_bounded_number_of_errors() {
    let directory = ConfigDirectory::new();
    let keys: String = (0..50_000).map(|key| format!("k{key}: 1, ")).collect();
    let errors = directory.errors(&format!("{{ {keys} }}"));
    assert_eq!(errors.len(), 200);
    let routes = "{match: {host: a}, token: none}, ".repeat(20_000);
    assert_eq!(directory.errors(&format!("routes: [{routes}]")).len(), 200);
}

const FULL: &str = r#"
version: 1
identity:
  workload_api: { socket: unix:///spiffe-workload-api/spire-agent.sock, hint: agent }
  assertion:                               # only where we sign with a key of our own instead of the SVID's
    issuer: https://agents.example.com/calendar
    key_file: keys/assertion.pem
    kid: 2026-11
    retired: [keys/assertion-2026-10.pem]  # still published
listen:
  outbound: ["127.0.0.1:17080", "[::1]:17080"]
  metrics: ["[::]:17090"]                  # /metrics /livez /readyz /startupz
  admin: unix:///run/idjag-proxy/admin.sock   # 0600; the agent shares the network, not this file

authorization_servers:
  corp:                                    # the enterprise identity provider
    issuer: https://idp.corp.example
    client_auth: spiffe_jwt
  calendar:                                # the resource's own authorization server
    issuer: https://as.calendar.example
    client_id: calendar-agent
    client_auth: { private_key_jwt: { key_file: keys/client.pem, kid: c1 } }
    tls: { ca_file: keys/calendar-ca.pem }
    quirks: { omit: [resource], extra_parameters: { tenant: acme } }

tokens:
  calendar:                                # alice's calendar, by this agent in her name
    flow: { id_jag: { idp: corp, server: calendar } }
    subject: { header: { name: x-user-token, server: corp, type: id_token } }
    actor: jwt_svid                        # sent as actor_token; the IdP decides what it writes into `act`
    resource: https://api.calendar.example/
    scopes: [calendar:read, calendar:write]    # the most that any route may ask for
  reports:                                 # the agent as itself
    flow: { self_issued: { server: corp, grant: token_exchange } }
    subject: self
    scopes: [reports:read]
    eager: true                            # readiness waits for it

routes:
  - name: calendar-read
    match: { host: api.calendar.example, path: /v1/**, methods: [GET, HEAD] }
    token: calendar
    scopes: [calendar:read]                # narrows the token's
  - name: calendar-write
    match: { host: api.calendar.example, path: /v1/**, methods: [POST, PUT, DELETE] }
    token: calendar
    scopes: [calendar:write]
    timeouts: { response: 30s }
  - name: reports
    match: { host: reports.internal }
    token: reports
    upstream: { url: https://reports.svc:8443, tls: { server: { spiffe_ids: [spiffe://example.org/reports] }, client_certificate: svid } }
  - name: search
    match: { host: api.search.example }
    legacy_secret: { file: keys/search-api-key, header: x-api-key }   # an anti-pattern: `check` and the metrics report it
  - name: collector
    match: { host: otel.observability.svc, port: 4318 }
    upstream: { url: http://otel.observability.svc:4318 }
    token: none                            # allowed, without a credential; `keep_credentials: true` would let the agent's own pass
  - name: updates
    match: { host: updates.internal, port: 443 }
    tunnel: true                           # opaque TLS by CONNECT
unmatched: refuse
allow_plain_http: loopback                 # loopback | listed hosts: upstreams that get a credential, authorization servers, JWKS, metadata
token_timeout: 10s                         # the longest that a request waits for a token
drain: { idle: 1s, deadline: 25s }
"#;

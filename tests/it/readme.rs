//! Checks that the documents and examples agree with the program: the configuration and the names
//! that they show, and the files and headings that they refer to.
use http::{HeaderMap, HeaderValue, Method};
use idjag_proxy::config::{Config, Overrides, load};
use idjag_proxy::policy::{CredentialRule, Decision, Scheme, Target};
use idjag_proxy::proxy::{Reason, Refusal};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const DOCUMENTS: [&str; 8] = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "deploy/README.md",
    "deploy/TROUBLESHOOTING.md",
    "charts/idjag-proxy/README.md",
    "tests/cluster/README.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the name and the text of each document.
fn documents() -> impl Iterator<Item = (&'static str, String)> {
    DOCUMENTS.into_iter().map(|name| (name, std::fs::read_to_string(root().join(name)).expect("a document")))
}

/// Returns the problems of a configuration, if there are any.
fn problems(text: &str) -> Option<String> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("readme.yaml");
    std::fs::write(&file, text).expect("written");
    load(&file, &environment, &Overrides::default()).err().map(|problems| problems.to_string())
}

fn environment(name: &str) -> Option<String> {
    (name == "SPIFFE_ENDPOINT_SOCKET").then(|| "unix:///run/spire/agent.sock".to_owned())
}

#[test]
fn every_configuration_in_a_document_loads() {
    let mut found = 0;
    for (name, text) in documents() {
        for block in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            found += 1;
            assert_eq!(problems(block), None, "in {name}:\n{block}");
        }
    }
    assert!(found > 0);
}

fn mcp_example() -> Config {
    let file = root().join("config/examples/mcp-tools.yaml");
    load(&file, &environment, &Overrides::default()).unwrap_or_else(|problems| panic!("{problems}")).config
}

/// Returns the route and the scopes of a call to the MCP server with these header fields.
fn mcp_call(config: &Config, fields: &[(&'static str, &'static str)]) -> (String, Vec<String>) {
    let target = Target { scheme: Scheme::Http, host: "mcp.calendar.example", port: 80 };
    let headers: HeaderMap =
        fields.iter().map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value))).collect();
    let Decision::Route(index) = config.policy.route(target, "/mcp", &Method::POST, &headers) else {
        panic!("{fields:?} has no route");
    };
    let route = &config.policy.routes()[index];
    let CredentialRule::Token(rule) = &route.credential else { panic!("{} carries no token", route.name) };
    (route.name.to_string(), rule.grant.scopes.clone())
}

#[test]
fn mcp_example_gives_each_tool_its_own_scopes() {
    let config = mcp_example();
    let called = |method, tool| mcp_call(&config, &[("mcp-method", method), ("mcp-name", tool)]);
    let expected = |route: &str, scopes: &[&str]| (route.to_owned(), scopes.iter().map(ToString::to_string).collect());
    assert_eq!(called("tools/call", "list_events"), expected("mcp-read", &["calendar:read", "mcp:use"]));
    assert_eq!(called("tools/call", "delete_event"), expected("mcp-write", &["calendar:write", "mcp:use"]));
    assert_eq!(called("tools/call", "another_tool"), expected("mcp-rest", &["mcp:use"]));
    assert_eq!(called("prompts/get", "delete_event"), expected("mcp-rest", &["mcp:use"]));
    assert_eq!(mcp_call(&config, &[("mcp-method", "tools/list")]), expected("mcp-rest", &["mcp:use"]));
    assert_eq!(mcp_call(&config, &[]), expected("mcp-rest", &["mcp:use"]));
}

/// Returns the texts between single backticks outside code blocks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split("```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2))
}

/// Inline code such as `tunnel: { … }` is a key of a route or of the whole file.
#[test]
fn every_inline_mapping_is_valid_in_a_route_or_at_top_level() {
    let mut found = 0;
    for (name, text) in documents() {
        for span in spans(&text).filter(|span| span.contains(": {")) {
            found += 1;
            let servers = "authorization_servers: { as: { issuer: https://as.example, client_auth: spiffe_jwt } }\n";
            let route = "match: { host: api.example }, token: { flow: { client_credentials: { server: as } } }";
            let in_a_route = problems(&format!("{servers}routes: [{{ {route}, {span} }}]\n"));
            let at_top_level = problems(&format!("{servers}routes: [{{ {route} }}]\n{span}\n"));
            assert!(in_a_route.is_none() || at_top_level.is_none(), "{name}: {span}\n{in_a_route:?}\n{at_top_level:?}");
        }
    }
    assert!(found > 0);
}

/// Fails if `values` has a key that the chart's schema does not know.
fn assert_keys_are_in_schema(schema: &Value, part: &Value, values: &Value, at: &str) {
    let part = match part["$ref"].as_str() {
        Some(name) => schema.pointer(name.trim_start_matches('#')).expect("a definition"),
        None => part,
    };
    for (key, value) in values.as_object().into_iter().flatten() {
        let property = &part["properties"][key];
        assert!(property.is_object(), "the chart has no value {at}{key}");
        assert_keys_are_in_schema(schema, property, value, &format!("{at}{key}."));
    }
}

fn chart_schema() -> Value {
    let schema = std::fs::read_to_string(root().join("charts/idjag-proxy/values.schema.json")).expect("a schema");
    serde_json::from_str(&schema).expect("JSON")
}

#[test]
fn values_that_a_document_writes_are_values_of_the_chart() {
    let schema = chart_schema();
    let mut found = 0;
    for (name, text) in documents() {
        for rest in text.split("cat > values.yaml <<'EOF'\n").skip(1) {
            found += 1;
            let document = &rest[..rest.find("EOF\n").expect("its end")];
            // Lines that are commented out apply to some readers only.
            let lines = document.lines().map(|line| line.trim_start_matches("# "));
            let mappings: Vec<&str> = lines.filter(|line| line.contains(": {")).collect();
            let values: Value = serde_yaml::from_str(&mappings.join("\n")).expect("YAML");
            assert!(values.as_object().is_some_and(|values| values.len() == mappings.len()), "{name}: {document}");
            assert_keys_are_in_schema(&schema, &schema, &values, "");
        }
    }
    assert!(found > 0);
}

#[test]
fn values_that_a_document_sets_by_a_flag_are_values_of_the_chart() {
    let schema = chart_schema();
    let mut found = 0;
    for (name, text) in documents() {
        for rest in text.split("--set ").skip(1) {
            found += 1;
            let flag = rest.split_whitespace().next().unwrap_or_default();
            let (path, value) = flag.split_once('=').unwrap_or_else(|| panic!("{name}: --set {flag}"));
            let values = path.rsplit('.').fold(json!(value), |inner, key| json!({ key: inner }));
            assert_keys_are_in_schema(&schema, &schema, &values, "");
        }
    }
    assert!(found > 0);
}

#[test]
fn files_that_a_document_names_exist() {
    let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    for (name, text) in documents() {
        let directory = root().join(name).parent().map(PathBuf::from).expect("a directory");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().filter(|file| !file.is_empty());
            let exists = target.starts_with("http") || file.is_none_or(|file| directory.join(file).exists());
            assert!(exists, "{name} links to {target}, which does not exist");
        }
        // For kubectl, `deploy/NAME` is a Deployment.
        for line in text.lines().filter(|line| !line.contains("kubectl")) {
            for word in line.split(|letter: char| !letter.is_ascii() || !is_path(letter as u8)) {
                let word = word.trim_end_matches(['.', '/']);
                let is_ours = word.split_once('/').is_some_and(|(first, _)| {
                    ["charts", "config", "deploy", "src", "tests", "benches", ".ci"].contains(&first)
                });
                assert!(!is_ours || root().join(word).exists(), "{name} names {word}, which does not exist");
            }
        }
    }
}

/// Returns the anchors that GitHub gives to the headings of a document.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.split("```").step_by(2).flat_map(str::lines).filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let kept = |letter: &char| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter);
        heading.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn headings_that_a_document_links_to_exist() {
    let mut found = 0;
    for (name, text) in documents() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let Some((file, anchor)) = target.split_once('#').filter(|_| !target.starts_with("http")) else { continue };
            found += 1;
            let linked = if file.is_empty() { root().join(name) } else { root().join(name).with_file_name(file) };
            let linked = std::fs::read_to_string(linked).expect("a document");
            assert!(anchors(&linked).iter().any(|heading| heading == anchor), "{name} links to {target}");
        }
    }
    assert!(found > 0);
}

/// Appends the text of every source file.
fn sources(directory: &Path, text: &mut String) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, text);
        } else {
            text.push_str(&std::fs::read_to_string(&path).expect("a source file"));
        }
    }
}

#[test]
fn types_in_the_glossary_exist() {
    let contributing = include_str!("../../CONTRIBUTING.md");
    let (_, glossary) = contributing.split_once("\n## Glossary\n").expect("a glossary");
    let words = glossary.lines().filter_map(|line| line.split('|').nth(1));
    let types = words.flat_map(spans).filter(|name| name.starts_with(|first: char| first.is_ascii_uppercase()));
    let mut source = String::new();
    sources(&root().join("src"), &mut source);
    let is_declared = |name: &str| {
        ["struct", "enum"].iter().any(|kind| {
            let declaration = format!("{kind} {name}");
            source.match_indices(&declaration).any(|(at, _)| {
                let next = source[at + declaration.len()..].chars().next();
                next.is_some_and(|next| !next.is_alphanumeric() && next != '_')
            })
        })
    };
    let missing: Vec<&str> = types.filter(|name| !is_declared(name)).collect();
    assert!(missing.is_empty(), "the glossary names types that do not exist: {missing:?}");
}

/// In the troubleshooting table, a row about a refused call begins with the status and the reason.
#[test]
fn reasons_in_the_troubleshooting_table_exist() {
    let (_, calls) = include_str!("../../deploy/TROUBLESHOOTING.md").split_once("\n## The call\n").expect("a section");
    let rows: Vec<&str> = calls.split("\n## ").next().expect("its text").lines().skip(3).collect();
    let mut found = 0;
    for row in rows.iter().filter_map(|row| row.strip_prefix("| ")) {
        let (status, name) = row.split_once(" `").unwrap_or_else(|| panic!("no status and reason: {row}"));
        let name = name.split('`').next().expect("a reason");
        let reason = Reason::ALL.iter().find(|reason| reason.as_str() == name);
        let reason = *reason.unwrap_or_else(|| panic!("the proxy has no reason {name}"));
        assert_eq!(Refusal::new(reason, "").status().as_str(), status, "{name}");
        found += 1;
    }
    assert!(found > 5, "{rows:#?}");
}

/// Returns the names that the golden file of public names lists with this prefix.
fn public_names(prefix: &str) -> BTreeSet<&'static str> {
    include_str!("golden/public_names.txt").lines().filter_map(|line| line.strip_prefix(prefix)).collect()
}

#[test]
fn troubleshooting_explains_every_field_of_the_log_line_of_a_request() {
    let (_, section) = include_str!("../../deploy/TROUBLESHOOTING.md")
        .split_once("\n## The log line of a request\n")
        .expect("a section");
    let section = section.split("\n## ").next().expect("its text");
    let (fields, ended_by) = section.rsplit_once("\n| `ended` |").expect("a table of who ended a request");
    let explained = |table: &'static str| {
        let cells = table.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
        cells.flat_map(spans).collect::<BTreeSet<_>>()
    };
    let mut request_fields = public_names("log line of a request.");
    // Every line of the log has these.
    for name in ["timestamp", "level", "target", "message"] {
        assert!(request_fields.remove(name), "{name}");
    }
    assert_eq!(explained(fields), request_fields);
    assert_eq!(explained(ended_by), public_names("metric idjag_proxy_ended_total{by}: "));
}

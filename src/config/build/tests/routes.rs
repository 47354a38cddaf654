use super::{one_error, with_token};
use crate::config::testing::ConfigDirectory;
use crate::policy::CredentialRule;

#[test]
fn route_without_exactly_one_credential_is_refused() {
    let directory = ConfigDirectory::new();
    let route = |rest: &str| format!("routes: [{{ match: {{ host: a.example }}{rest} }}]");
    one_error(&directory, &route(""), "1:10: routes[0]: this route does not say which credential");
    one_error(
        &directory,
        &route(", token: none, tunnel: true"),
        "routes[0].tunnel: a route has one credential, and this one already has `token`",
    );
    one_error(&directory, &route(", tunnel: true, keep_credentials: true"), "only a route with `token: none`");
    one_error(&directory, &route(", token: none, scopes: [a]"), "scopes belong to a token");
    one_error(&directory, &route(", token: none, replay: {}"), "a replay sends the request with a new token");
    one_error(&directory, &route(", tunnel: true, upstream: {}"), "routes[0].upstream: a tunnel is opaque");
    // A misspelled key may have been the credential: one problem is reported, not two.
    one_error(&directory, &route(", tokn: none"), "unknown key `tokn` (did you mean `token`?)");
}

#[test]
fn legacy_secret_is_read_from_its_file() {
    let directory = ConfigDirectory::new();
    let route = "routes: [{ match: { host: a.example }, legacy_secret: { file: keys/search-api-key, header: authorization, prefix: 'Bearer ' } }]";
    let loaded = directory.loaded(route);
    let CredentialRule::LegacySecret { value, .. } = &loaded.config.policy.routes()[0].credential else {
        panic!("a secret")
    };
    assert_eq!(value.as_bytes(), b"Bearer canary-5c0e");
    assert!(value.is_sensitive());
    one_error(&directory, &route.replace("search", "serach"), "cannot be read: No such file");
    one_error(&directory, &route.replace("authorization", "transfer-encoding"), "cannot carry a credential");
    directory.write("keys/two-lines", "a\nb\n");
    one_error(&directory, &route.replace("search-api-key", "two-lines"), "its content cannot be sent in a header");
    directory.write("keys/empty", "\n");
    one_error(&directory, &route.replace("search-api-key", "empty"), "keys/empty is empty");
}

#[test]
fn invalid_upstream_is_refused() {
    let directory = ConfigDirectory::new();
    let route =
        |rest: &str| format!("routes: [{{ match: {{ host: a.example }}, token: none, upstream: {{ {rest} }} }}]");
    one_error(
        &directory,
        &route("tls: { server: { spiffe_ids: [] } }"),
        "upstream.tls.server.spiffe_ids: an empty list",
    );
    one_error(
        &directory,
        &route("tls: { server: { spiffe_ids: [spiffe://a/b, b/c] } }"),
        "spiffe_ids[1]: \"b/c\" is not the SPIFFE ID of a workload",
    );
    one_error(
        &directory,
        &route("url: 'http://b', tls: { client_certificate: svid }"),
        "upstream.tls: plain HTTP has no TLS",
    );
    one_error(&directory, &route("url: 'http://127.0.0.1:17080'"), "requests would loop");
    one_error(
        &directory,
        &route("tls: { server: { ca_file: keys/client-secret } }"),
        "it contains no CERTIFICATE section",
    );
}

#[test]
fn routes_that_match_the_same_request_are_refused() {
    let directory = ConfigDirectory::new();
    let text = "routes:
  - { name: a, match: { host: x.example, path: '/v1/*/y' }, token: none }
  - { name: b, match: { host: x.example, path: /v1/** }, token: none }
  - { name: a, match: { host: y.example }, token: none }
  - { match: { host: z.example }, token: none }
  - { match: { host: z.example, path: /z }, token: none }
";
    let errors = directory.errors(text);
    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert!(
        errors[0].starts_with("3:23: routes[1].match: a request could match both this route and the one on line 2"),
        "{}",
        errors[0]
    );
    assert!(errors[1].contains("routes[2].name: the route on line 2 is also called `a`"), "{}", errors[1]);
    assert!(
        errors[2]
            .contains("the route on line 5 is also called `z.example` (a route without `name` is named after its host"),
        "{}",
        errors[2]
    );
    // The conflict is found even if one of the two routes could not be built.
    let broken = text.replace("'/v1/*/y' }, token: none", "'/v1/*/y' }, token: t");
    assert_eq!(directory.errors(&broken).len(), 4);
}

#[test]
fn ambiguous_alias_is_refused() {
    let directory = ConfigDirectory::new();
    let text = "routes:
  - { name: a, match: { host: x.example, path: /a }, alias: x, token: none }
  - { name: b, match: { host: x.example, path: /b }, alias: x, token: none }
";
    assert_eq!(directory.loaded(text).config.policy.alias("x"), Some("x.example"));
    one_error(
        &directory,
        &text.replace("x.example, path: /b", "y.example"),
        "routes[1].alias: line 2 uses this alias for x.example",
    );
    one_error(
        &directory,
        &text
            .replace("x.example, path: /b", "'*.example'")
            .replace("alias: x, token: none }\n  - { name: b", "token: none }\n  - { name: b"),
        "this route matches many",
    );
    one_error(&directory, &text.replace("path: /b }, alias: x", "path: /b }, alias: y.z"), "must not look like a host");
}

#[test]
fn replay_body_above_the_limit_is_refused() {
    let directory = ConfigDirectory::new();
    let route = |size: &str| {
        with_token("flow: { token_exchange: { server: corp } }")
            .replace("} } }]", &format!("}} }}, replay: {{ max_body: {size} }} }}]"))
    };
    directory.loaded(&route("1MiB"));
    one_error(
        &directory,
        &route("1048577B"),
        "routes[0].replay.max_body: a body that is kept for a replay may have at most 1MiB",
    );
}

#[test]
fn condition_on_a_header_that_another_route_reserves_is_reported() {
    let directory = ConfigDirectory::new();
    let config = |name: &str, token: &str| {
        with_token("flow: { token_exchange: { server: corp } }, placement: { header: X-Tenant-Token }").replace(
            "routes: [",
            &format!("routes: [{{ match: {{ host: other, headers: {{ {name}: x }} }}, token: {token} }}, "),
        )
    };
    let is_reported = |name: &str, token: &str| {
        directory.warnings(&config(name, token)).iter().any(|warning| warning.contains("only selects the route"))
    };
    assert!(is_reported("X-Tenant-Token", "none"));
    assert!(is_reported("x_tenant_token", "none"), "another spelling");
    assert!(!is_reported("X-Tenant", "none"));
    assert!(!is_reported("X-Tenant-Token", "none, keep_credentials: true"));
}

#[test]
fn ambiguous_paths_that_pass_are_reported() {
    let directory = ConfigDirectory::new();
    let warnings = |r#match: &str, credential: &str| {
        let key = "legacy_secret: { file: keys/client-secret, header: x-k }";
        let route = format!("{{ name: a, match: {{ host: a{match} }}, {credential}, ambiguous_paths: as_sent }}");
        let other = format!("{{ name: b, match: {{ host: '*.b', path: /v1/** }}, {key} }}");
        let all = directory.warnings(&format!("routes: [{route}, {other}]\n"));
        let about = |text: &&String| text.contains("routes[0].ambiguous_paths:");
        all.iter().find(about).cloned().unwrap_or_default()
    };
    let key = "legacy_secret: { file: keys/client-secret, header: x-k }";
    assert!(warnings(", path: /v1/**", key).contains("may take a path such as"), "{}", warnings(", path: /v1/**", key));
    assert!(warnings(".b", key).contains("may take a path such as"), "another route divides the host");
    assert!(warnings("", key).contains("this changes nothing"));
    assert!(warnings(", path: /v1/**", "token: none").contains("this changes nothing"));
}

#[test]
fn header_that_could_stand_for_another_request_is_reported() {
    let directory = ConfigDirectory::new();
    let is_reported = |name: &str, r#match: &str| {
        let text = format!("routes: [{{ match: {{ host: a, headers: {{ {name}: x }}{match} }}, token: none }}]\n");
        directory.warnings(&text).iter().any(|warning| warning.contains("only selects the route"))
    };
    assert!(is_reported("x-forwarded-for", ""));
    for name in ["te", "keep-alive", "http2-settings", "content_type"] {
        assert!(is_reported(name, ""), "{name}");
    }
    assert!(!is_reported("te: trailers, x-tenant", ""), "negotiated with the upstream");
    for name in ["upgrade", "content-type"] {
        assert!(!is_reported(name, ""), "{name}");
    }
    assert!(is_reported("x-http-method-override", ", methods: [POST]"));
    assert!(!is_reported("x-http-method-override", ""));
    assert!(!is_reported("x-tenant", ", methods: [POST]"));
}

#[test]
fn authorization_header_that_is_removed_or_kept_is_reported() {
    let directory = ConfigDirectory::new();
    let by_header = |name: &str| {
        format!("match: {{ host: a, headers: {{ {name}: x }} }}, token: none }}, {{ match: {{ host: b }}, token: none")
    };
    let warnings = |name: &str| directory.warnings(&format!("routes: [{{ {} }}]", by_header(name)));
    assert!(warnings("authorization")[0].contains("`authorization` only selects the route"));
    assert!(warnings("cookie").is_empty(), "{:?}", warnings("cookie"));

    let users = |header: &str| {
        let token = with_token(&format!(
            "flow: {{ self_issued: {{ server: corp, grant: token_exchange }} }}, resource: 'https://api.example', \
             subject: {{ header: {{ name: {header}, server: corp, type: id_token }} }}"
        ));
        token.replace("}]\n", "}, { match: { host: kept.example }, token: none, keep_credentials: true }]\n")
    };
    directory.loaded(&users("x-user-token"));
    one_error(
        &directory,
        &users("authorization"),
        "routes[1].keep_credentials: `authorization` is not forwarded here: on route `a.example` it carries a user's token",
    );
}

#[test]
fn timeouts_that_contradict_each_other_are_reported() {
    let directory = ConfigDirectory::new();
    let route =
        |timeouts: &str| format!("routes: [{{ match: {{ host: a }}, token: none, timeouts: {{ {timeouts} }} }}]");
    one_error(&directory, &route("connect: 5s, total: 4s"), "timeouts.total: it is shorter than `connect`");
    one_error(&directory, &route("connect: 5s, attempt: 4s"), "timeouts.attempt: it is shorter than `connect`");
    one_error(&directory, &route("attempt: 5s, total: 4s"), "timeouts.total: it is shorter than `attempt`");
    let warnings = |timeouts: &str| directory.loaded(&route(timeouts)).warnings;
    for timeouts in ["response: 30s, total: 20s", "response: 30s, attempt: 20s"] {
        let warnings = warnings(timeouts);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].message.contains("shorter than `response`"), "{warnings:?}");
    }
    // Defaults are not compared.
    assert!(warnings("attempt: 1s, total: 2s").is_empty());
}

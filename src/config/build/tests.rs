use crate::config::testing::Directory;
use crate::config::{IdentitySource, Overrides, load};
use crate::policy::Credential;
use std::sync::Arc;

const SERVERS: &str = "authorization_servers:
  corp: { issuer: 'https://corp.example', client_auth: spiffe_jwt }
  cal: { issuer: 'https://cal.example', client_id: c, client_auth: none }
";

/// A file with the two servers above and one route with this token.
fn with_token(token: &str) -> String {
    format!("{SERVERS}routes: [{{ match: {{ host: a.example }}, token: {{ {token} }} }}]\nunmatched: refuse\n")
}

/// Checks that the text has exactly one error, and that it says this.
fn one_error(directory: &Directory, text: &str, expected: &str) {
    let errors = directory.errors(text);
    assert_eq!(errors.len(), 1, "{errors:#?}\n{text}");
    assert!(errors[0].contains(expected), "{}\nlacks {expected}", errors[0]);
}

#[test]
fn who_may_be_subject_and_actor() {
    let directory = Directory::new();
    let user = "subject: { header: { name: x-user, server: corp, type: id_token } }";
    let flows = [
        (
            "client_credentials: { server: corp }",
            "token.subject: `client_credentials` is the client itself",
            "token.actor: `client_credentials`",
        ),
        ("self_issued: { server: cal }", "", "token.actor: `self_issued` writes `act` itself"),
        ("id_jag: { idp: corp, server: cal }", "", ""),
        ("token_exchange: { server: corp }", "", ""),
        ("jwt_bearer: { server: cal }", "", "token.actor: `jwt_bearer` has no place for an actor"),
    ];
    for (flow, user_error, actor_error) in flows {
        directory.loaded(&with_token(&format!("flow: {{ {flow} }}")));
        for (rest, error) in [(user, user_error), ("actor: jwt_svid", actor_error)] {
            let text = with_token(&format!("flow: {{ {flow} }}, {rest}"));
            match error {
                "" => drop(directory.loaded(&text)),
                error => one_error(&directory, &text, error),
            }
        }
        if user_error.is_empty() {
            let text = with_token(&format!("flow: {{ {flow} }}, {user}, eager: true"));
            one_error(&directory, &text, "token.eager: readiness cannot wait for a user");
        }
    }
}

#[test]
fn a_users_token_must_be_verifiable() {
    let directory = Directory::new();
    for kind in ["access_token", "jwt"] {
        let flow =
            "flow: { token_exchange: { server: corp } }, subject: { file: { path: run/t, server: corp, type: KIND } }";
        let text = with_token(&flow.replace("KIND", kind));
        one_error(&directory, &text, "token.subject.file.audience: `audience` is required");
        directory.loaded(&text.replace(&format!("type: {kind}"), &format!("type: {kind}, audience: me")));
    }
    let flow =
        "flow: { token_exchange: { server: corp } }, subject: { header: { name: NAME, server: cal, type: id_token } }";
    let explicit = with_token(&flow.replace("NAME", "x-u"))
        .replace("client_id: c,", "client_id: c, endpoints: { token: 'https://cal.example/t' },");
    one_error(&directory, &explicit, "token.subject.header.server: a token of `cal` cannot be verified");
    directory.loaded(&explicit.replace("/t' }", "/t', jwks: 'https://cal.example/k' }"));
    one_error(&directory, &with_token(&flow.replace("NAME", "host")), "token.subject.header.name: `host` belongs to");
}

#[test]
fn references_name_the_nearest() {
    let directory = Directory::new();
    one_error(
        &directory,
        &with_token("flow: { token_exchange: { server: crop } }"),
        "there is no authorization server `crop` (did you mean `corp`?)",
    );
    let both = directory.errors(&with_token("flow: { id_jag: { idp: x1, server: y2 } }"));
    assert_eq!(both.len(), 2, "{both:?}");
    let named = format!(
        "{SERVERS}tokens: {{ calendar: {{ flow: {{ jwt_bearer: {{ server: cal }} }} }} }}\nroutes: [{{ match: {{ host: a }}, token: calender }}]\n"
    );
    one_error(&directory, &named, "routes[0].token: there is no token `calender` (did you mean `calendar`?)");
    // A server or token that is broken itself is not unknown.
    let broken = named.replace("calender", "calendar").replace("https://cal.example", "cal.example");
    one_error(&directory, &broken, "authorization_servers.cal.issuer");
    let broken = named.replace("calender", "calendar").replace("jwt_bearer", "jwt_baerer");
    one_error(&directory, &broken, "tokens.calendar.flow");
}

#[test]
fn a_route_has_one_credential() {
    let directory = Directory::new();
    let route = |rest: &str| format!("routes: [{{ match: {{ host: a.example }}{rest} }}]");
    one_error(&directory, &route(""), "1:10: routes[0]: this route does not say which credential");
    one_error(
        &directory,
        &route(", token: none, tunnel: true"),
        "routes[0].tunnel: a route has one credential, and this one has `token` already",
    );
    one_error(&directory, &route(", tunnel: true, keep_credentials: true"), "only a route with `token: none`");
    one_error(&directory, &route(", token: none, scopes: [a]"), "scopes belong to a token");
    one_error(&directory, &route(", token: none, replay: {}"), "a request is sent again with a new token");
    one_error(&directory, &route(", tunnel: true, upstream: {}"), "routes[0].upstream: a tunnel is opaque");
    // A misspelt key may have been the credential: one problem, not two.
    one_error(&directory, &route(", tokn: none"), "unknown key `tokn` (did you mean `token`?)");
}

#[test]
fn a_legacy_secret_comes_from_its_file() {
    let directory = Directory::new();
    let route = "routes: [{ match: { host: a.example }, legacy_secret: { file: keys/search-api-key, header: authorization, prefix: 'Bearer ' } }]";
    let loaded = directory.loaded(route);
    let Credential::LegacySecret { value, .. } = &loaded.config.policy.routes()[0].credential else {
        panic!("a secret")
    };
    assert_eq!(value.as_bytes(), b"Bearer canary-5c0e");
    assert!(value.is_sensitive());
    one_error(&directory, &route.replace("search", "serach"), "cannot be read: No such file");
    one_error(&directory, &route.replace("authorization", "transfer-encoding"), "cannot carry a credential");
    directory.write("keys/two-lines", "a\nb\n");
    one_error(&directory, &route.replace("search-api-key", "two-lines"), "what it holds cannot stand in a header");
    directory.write("keys/empty", "\n");
    one_error(&directory, &route.replace("search-api-key", "empty"), "keys/empty is empty");
}

#[test]
fn a_route_narrows_its_token() {
    let directory = Directory::new();
    let text = format!(
        "{SERVERS}tokens: {{ t: {{ flow: {{ jwt_bearer: {{ server: cal }} }}, scopes: [b, a, b] }} }}\nroutes:
  - {{ name: one, match: {{ host: a.example }}, token: t, scopes: [a] }}
  - {{ name: two, match: {{ host: b.example }}, token: t, scopes: [a] }}
  - {{ name: all, match: {{ host: c.example }}, token: t }}\n"
    );
    let loaded = directory.loaded(&text);
    let grants: Vec<_> = loaded
        .config
        .policy
        .routes()
        .iter()
        .filter_map(|route| match &route.credential {
            Credential::Token(rule) => Some(&rule.grant),
            _ => None,
        })
        .collect();
    assert!(Arc::ptr_eq(grants[0], grants[1]));
    assert_eq!(grants[0].scopes, ["a"]);
    assert_eq!(grants[2].scopes, ["a", "b"]);
    assert!(loaded.warnings.iter().any(|warning| warning.message.contains("the scope `b` is asked for twice")));
    one_error(
        &directory,
        &text.replace("token: t, scopes: [a] }\n  - { name: two", "token: t, scopes: [a, c] }\n  - { name: two"),
        "routes[0].scopes[1]: the token does not have the scope `c`",
    );
}

#[test]
fn plain_http_is_for_loopback_and_listed_hosts() {
    let directory = Directory::new();
    let text = with_token("flow: { client_credentials: { server: corp } }");
    for (url, allowed) in [
        ("http://127.0.0.1:8080", true),
        ("http://[::1]", true),
        ("http://localhost", true),
        ("http://corp.example", false),
    ] {
        let text = text.replace("https://corp.example", url);
        if allowed {
            drop(directory.loaded(&text))
        } else {
            one_error(&directory, &text, "corp.issuer: what goes to this URL would cross the network in the clear")
        }
    }
    let listed =
        text.replace("https://corp.example", "http://corp.example") + "allow_plain_http: [loopback, corp.example]\n";
    assert!(
        directory
            .warnings(&listed)
            .iter()
            .any(|warning| warning.contains("allow_plain_http[1]: credentials go to corp.example in the clear"))
    );
    one_error(&directory, &(text.clone() + "allow_plain_http: ['*.example']\n"), "plain HTTP is allowed host by host");
    let upstream = text.replace("} } }]", "} } , upstream: { url: 'http://b.example' } }]");
    one_error(&directory, &upstream, "routes[0].upstream.url: what goes to this URL");
    directory.loaded("routes: [{ match: { host: a }, token: none, upstream: { url: 'http://b.example' } }]");
    let x509 =
        text.replace("https://corp.example', client_auth: spiffe_jwt", "http://127.0.0.1', client_auth: spiffe_x509");
    one_error(&directory, &x509, "`spiffe_x509` proves who we are in the TLS handshake");
}

#[test]
fn upstreams() {
    let directory = Directory::new();
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
        "spiffe_ids[1]: \"b/c\" is no workload's SPIFFE ID",
    );
    one_error(
        &directory,
        &route("url: 'http://b', tls: { client_certificate: svid }"),
        "upstream.tls: plain HTTP has no TLS",
    );
    one_error(&directory, &route("url: 'http://127.0.0.1:17080'"), "a loop");
    one_error(
        &directory,
        &route("tls: { server: { ca_file: keys/client-secret } }"),
        "it holds no CERTIFICATE section",
    );
}

#[test]
fn routes_that_cannot_be_told_apart() {
    let directory = Directory::new();
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
        errors[0].starts_with("3:23: routes[1].match: one request could match this route and the one on line 2"),
        "{}",
        errors[0]
    );
    assert!(errors[1].contains("routes[2].name: the route on line 2 is called `a` as well"), "{}", errors[1]);
    assert!(
        errors[2].contains("the route on line 5 is called `z.example` as well (its name is its host"),
        "{}",
        errors[2]
    );
    // A conflict is found although one of the two could not be built.
    let broken = text.replace("'/v1/*/y' }, token: none", "'/v1/*/y' }, token: t");
    assert_eq!(directory.errors(&broken).len(), 4);
}

#[test]
fn aliases() {
    let directory = Directory::new();
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
fn an_identity_is_needed_only_where_something_uses_it() {
    let directory = Directory::new();
    let nothing = |_: &str| None;
    let needs = with_token("flow: { client_credentials: { server: corp } }");
    let error = directory.load_with(&needs, &nothing).map(|_| ()).expect_err("no identity").to_string();
    assert!(
        error.contains("identity: route `a.example` needs this workload's identity")
            && error.contains("SPIFFE_ENDPOINT_SOCKET"),
        "{error}"
    );
    let plain = "routes: [{ match: { host: a }, token: none }]";
    assert!(directory.load_with(plain, &nothing).map_err(|_| ()).expect("none is needed").config.identity.is_none());
    let unused = format!("identity: {{ workload_api: {{ socket: /s }} }}\n{plain}");
    assert!(directory.warnings(&unused)[0].contains("nothing needs an identity"));
    let mtls = "routes: [{ match: { host: a }, token: none, upstream: { url: 'https://b', tls: { client_certificate: svid } } }]";
    assert!(directory.loaded(mtls).config.identity.is_some());
    // Order: flag, file, environment.
    let written = format!("identity: {{ workload_api: {{ socket: unix:///file.sock }} }}\n{needs}");
    let source = |overrides: &Overrides| {
        directory.write("proxy.yaml", &written);
        let environment = |name: &str| (name == "SPIFFE_ENDPOINT_SOCKET").then(|| "unix:///env.sock".to_owned());
        match load(&directory.path("proxy.yaml"), &environment, overrides)
            .map_err(|_| ())
            .expect("good")
            .config
            .identity
        {
            Some(IdentitySource::WorkloadApi(settings)) => settings.socket.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(source(&Overrides::default()), "unix:///file.sock");
    let flag = crate::identity::parse_endpoint("unix:///flag.sock").ok();
    assert_eq!(source(&Overrides { workload_api_socket: flag, ..Overrides::default() }), "unix:///flag.sock");
    one_error(&directory, &written.replace("unix:///file.sock", "unix://file.sock"), "identity.workload_api.socket");
}

#[test]
fn files_have_no_jwt_svid() {
    let directory = Directory::new();
    let files = "identity: { files: { certificate: svid/c, key: svid/k, bundle: svid/b } }\n";
    let own = with_token("flow: { jwt_bearer: { server: cal } }");
    one_error(
        &directory,
        &format!("{files}{own}"),
        "token.flow: this flow sends the JWT-SVID, and identity.files has only",
    );
    let client = with_token("flow: { client_credentials: { server: corp } }");
    one_error(
        &directory,
        &format!("{files}{client}"),
        "authorization_servers.corp.client_auth: `spiffe_jwt` sends the JWT-SVID",
    );
    directory.loaded(&format!("{files}{}", client.replace("spiffe_jwt", "spiffe_x509")));
    let both = files.replace("{ files", "{ workload_api: {}, files");
    one_error(
        &directory,
        &format!("{both}{}", client.replace("spiffe_jwt", "spiffe_x509")),
        "identity.files: the identity comes from",
    );
}

#[test]
fn assertions() {
    let directory = Directory::new();
    let with = |assertion: &str| {
        format!(
            "identity: {{ assertion: {{ {assertion} }} }}\n{}",
            with_token("flow: { self_issued: { server: cal } }")
        )
    };
    one_error(
        &directory,
        &with("key_file: keys/assertion.pem"),
        "identity.assertion.issuer: `issuer` is required with `key_file`",
    );
    one_error(&directory, &with("kid: a"), "`kid` names the key of `key_file`");
    one_error(&directory, &with("lifetime: 2h"), "an hour at most");
    one_error(&directory, &with("issuer: 'http://a.example', key_file: keys/assertion.pem"), "in the clear");
    one_error(&directory, &with("issuer: 'https://a', key_file: keys/client-secret"), "keys/client-secret: ");
    one_error(
        &directory,
        &with(
            "issuer: 'https://a', key_file: keys/assertion.pem, kid: k, retired: [{ key_file: keys/client.pem, kid: k }]",
        ),
        "a second key with the id `k`",
    );
    assert!(directory.warnings(&with("lifetime: 20m"))[0].contains("only helps whoever steals it"));
}

#[test]
fn quirks() {
    let directory = Directory::new();
    let with = |quirks: &str| {
        with_token("flow: { token_exchange: { server: cal } }, scopes: [a], resource: 'https://r/'")
            .replace("client_id: c,", &format!("client_id: c, quirks: {{ {quirks} }},"))
    };
    for own in super::servers::OWN_PARAMETERS {
        one_error(
            &directory,
            &with(&format!("extra_parameters: {{ {own}: x }}")),
            &format!("`{own}` is set by the proxy alone"),
        );
    }
    one_error(&directory, &with("omit: [client_id]"), "nothing says who asks");
    let warnings = directory.warnings(&with("omit: [scope, resource], extra_parameters: { tenant: 7 }"));
    assert!(warnings.iter().any(|warning| warning.contains("token.scopes: `cal` is never told")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("token.resource: `cal` is never told")), "{warnings:?}");
}

#[test]
fn listeners_and_the_process() {
    let directory = Directory::new();
    let plain = "routes: [{ match: { host: a }, token: none }]\n";
    let listen = directory.loaded(plain).config.listen;
    assert_eq!(listen.outbound.len(), 2);
    assert!(listen.outbound.iter().chain(&listen.metrics).all(|listen| !listen.explicit));
    one_error(&directory, &format!("{plain}listen: {{ outbound: [] }}"), "the agent needs an address");
    one_error(
        &directory,
        &format!("{plain}listen: {{ outbound: ['127.0.0.1:1'], metrics: ['127.0.0.1:1'] }}"),
        "127.0.0.1:1 is listed twice",
    );
    one_error(&directory, &format!("{plain}drain: {{ idle: 30s }}"), "`deadline` is shorter than `idle`");
    let warnings = directory.warnings(&format!("{plain}listen: {{ outbound: ['0.0.0.0:1'] }}\nunmatched: pass\n"));
    assert!(
        warnings[0].contains("can use this workload's authority") && warnings[1].contains("reach any host"),
        "{warnings:?}"
    );
    assert!(directory.warnings("routes: []")[0].contains("every request is refused"));
    assert!(directory.errors("/nowhere: 1").len() == 1);
}

#[test]
fn what_is_legal_and_unwise() {
    let directory = Directory::new();
    let text = format!(
        "{SERVERS}  idle: {{ issuer: 'https://i', client_auth: none }}\ntokens: {{ t: {{ flow: {{ jwt_bearer: {{ server: cal }} }} }} }}\nroutes:
  - {{ match: {{ host: a.example }}, token: none, keep_credentials: true }}
  - {{ match: {{ host: 127.0.0.1, port: 17080 }}, token: none }}
  - {{ match: {{ host: b.example }}, token: {{ flow: {{ client_credentials: {{ server: cal }} }} }} }}\n"
    );
    let warnings = directory.warnings(&text);
    for expected in [
        "authorization_servers.corp: nothing uses",
        "authorization_servers.idle: nothing uses",
        "tokens.t: no route uses",
        "routes[0].keep_credentials: whatever credential",
        "routes[1].match: no request can reach this route",
        "routes[2].token.flow: `cal` is asked without any proof",
    ] {
        assert!(warnings.iter().any(|warning| warning.contains(expected)), "{expected}\n{warnings:#?}");
    }
    assert_eq!(warnings.len(), 6, "{warnings:#?}");
}

#[test]
fn no_secret_is_in_what_is_said() {
    let directory = Directory::new();
    let text = "authorization_servers:
  a: { issuer: 'https://a', client_id: a, client_auth: { client_secret_basic: { secret_file: keys/client-secret } } }
routes:
  - { match: { host: a }, legacy_secret: { file: keys/search-api-key, header: x } }
  - { match: { host: b }, token: { flow: { client_credentials: { server: a } } } }
";
    let loaded = directory.loaded(text);
    let said: String = loaded.warnings.iter().map(|warning| warning.render("warning")).collect();
    assert!(!said.contains("canary-5c0e"));
    assert!(!format!("{:?}", loaded.config.servers).contains("canary-5c0e"));
    assert!(!format!("{:?}", loaded.fingerprint).contains("canary-5c0e"));
}

mod routes;
mod tokens;

use crate::config::testing::ConfigDirectory;
use crate::config::{Overrides, load};
use crate::identity::IdentitySource;

const SERVERS: &str = "authorization_servers:
  corp: { issuer: 'https://corp.example', client_auth: spiffe_jwt }
  cal: { issuer: 'https://cal.example', client_id: c, client_auth: none }
";

/// Returns a file with the two servers above and one route with this token.
fn with_token(token: &str) -> String {
    format!("{SERVERS}routes: [{{ match: {{ host: a.example }}, token: {{ {token} }} }}]\nunmatched: refuse\n")
}

/// Checks that the text has exactly one error, and that its message contains `expected`.
fn one_error(directory: &ConfigDirectory, text: &str, expected: &str) {
    let errors = directory.errors(text);
    assert_eq!(errors.len(), 1, "{errors:#?}\n{text}");
    assert!(errors[0].contains(expected), "{}\nlacks {expected}", errors[0]);
}

#[test]
fn plain_http_is_allowed_to_loopback_and_listed_hosts_only() {
    let directory = ConfigDirectory::new();
    let text = with_token("flow: { client_credentials: { server: corp } }");
    for (url, allowed) in [
        ("http://127.0.0.1:8080", true),
        ("http://[::1]", true),
        ("http://localhost", true),
        ("http://corp.example", false),
    ] {
        let text = text.replace("https://corp.example", url);
        if allowed {
            directory.loaded(&text);
        } else {
            one_error(&directory, &text, "corp.issuer: requests to this URL would cross the network in the clear");
        }
    }
    let listed =
        text.replace("https://corp.example", "http://corp.example") + "allow_plain_http: [loopback, corp.example]\n";
    assert!(
        directory
            .warnings(&listed)
            .iter()
            .any(|warning| warning.contains("allow_plain_http[1]: credentials are sent to corp.example in the clear"))
    );
    one_error(&directory, &(text.clone() + "allow_plain_http: ['*.example']\n"), "plain HTTP is allowed host by host");
    let upstream = text.replace("} } }]", "} } , upstream: { url: 'http://b.example' } }]");
    one_error(&directory, &upstream, "routes[0].upstream.url: requests to this URL");
    directory.loaded("routes: [{ match: { host: a }, token: none, upstream: { url: 'http://b.example' } }]");
    let x509 =
        text.replace("https://corp.example', client_auth: spiffe_jwt", "http://127.0.0.1', client_auth: spiffe_x509");
    one_error(&directory, &x509, "`spiffe_x509` authenticates in the TLS handshake");
}

#[test]
fn identity_is_required_only_where_something_uses_it() {
    let directory = ConfigDirectory::new();
    let empty_environment = |_: &str| None;
    let needs = with_token("flow: { client_credentials: { server: corp } }");
    let error = directory.load_with(&needs, &empty_environment).map(|_| ()).expect_err("no identity").to_string();
    assert!(
        error.contains("identity: route `a.example` needs this workload's identity")
            && error.contains("SPIFFE_ENDPOINT_SOCKET"),
        "{error}"
    );
    let plain = "routes: [{ match: { host: a }, token: none }]";
    assert!(
        !directory.load_with(plain, &empty_environment).map_err(|_| ()).expect("none is needed").config.needs_identity
    );
    let unused = format!("identity: {{ workload_api: {{ socket: /s }} }}\n{plain}");
    assert!(directory.warnings(&unused)[0].contains("nothing needs an identity"));
    let mtls = "routes: [{ match: { host: a }, token: none, upstream: { url: 'https://b', tls: { client_certificate: svid } } }]";
    assert!(directory.loaded(mtls).config.needs_identity);
    // The order of precedence: flag, file, environment.
    let text = format!("identity: {{ workload_api: {{ socket: unix:///file.sock }} }}\n{needs}");
    let source = |overrides: &Overrides| {
        directory.write("proxy.yaml", &text);
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
    one_error(&directory, &text.replace("unix:///file.sock", "unix://file.sock"), "identity.workload_api.socket");
}

#[test]
fn flow_that_needs_a_jwt_svid_is_refused_with_identity_files() {
    let directory = ConfigDirectory::new();
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
fn invalid_assertion_settings_are_reported() {
    let directory = ConfigDirectory::new();
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
    assert!(directory.warnings(&with("lifetime: 20m"))[0].contains("only helps someone who steals it"));
}

#[test]
fn listeners_and_process_settings_are_checked() {
    let directory = ConfigDirectory::new();
    let plain = "routes: [{ match: { host: a }, token: none }]\n";
    let listen = directory.loaded(plain).config.listen;
    assert_eq!(listen.outbound.len(), 2);
    assert!(listen.outbound.iter().chain(&listen.metrics).all(|listen| !listen.required));
    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect();
    let flags =
        Overrides { listen_outbound: addresses(&["127.0.0.1:1", "[::1]:1", "10.0.0.1:1"]), ..Overrides::default() };
    directory.write("proxy.yaml", plain);
    let listen = load(&directory.path("proxy.yaml"), &|_| None, &flags).map_err(|_| ()).expect("good").config.listen;
    let required: Vec<bool> = listen.outbound.iter().map(|listen| listen.required).collect();
    assert_eq!(required, [true, false, true], "a machine without IPv6 has no `::1`");
    one_error(&directory, &format!("{plain}listen: {{ outbound: [] }}"), "the agent needs an address");
    one_error(
        &directory,
        &format!("{plain}listen: {{ outbound: ['127.0.0.1:1'], metrics: ['127.0.0.1:1'] }}"),
        "127.0.0.1:1 is listed twice",
    );
    let outbound =
        |listeners: &str| format!("{plain}listen: {{ outbound: [{listeners}], admin: 'unix:///run/a.sock' }}");
    one_error(&directory, &outbound("'unix:/run/o.sock'"), "write three slashes, because the path must be absolute");
    for twice in ["'unix:///run/a.sock'", "{ unix: /run/a.sock, uids: [1] }"] {
        one_error(&directory, &outbound(twice), "listen.outbound: /run/a.sock is also `listen.admin`");
    }
    directory.loaded(&outbound("'unix:///run/o.sock'"));
    one_error(&directory, &format!("{plain}drain: {{ idle: 30s }}"), "`deadline` is shorter than `idle`");
    let warnings = directory.warnings(&format!("{plain}listen: {{ outbound: ['0.0.0.0:1'] }}\nunmatched: pass\n"));
    assert!(
        warnings[0].contains("can use this workload's authority") && warnings[1].contains("may go to any host"),
        "{warnings:?}"
    );
    assert!(directory.warnings("routes: []")[0].contains("every request is refused"));
    assert!(directory.errors("/nowhere: 1").len() == 1);
}

#[test]
fn unwise_settings_cause_warnings() {
    let directory = ConfigDirectory::new();
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
        "routes[0].keep_credentials: any credential",
        "routes[1].match: no request can reach this route",
        "routes[2].token.flow: `cal` gets no proof",
    ] {
        assert!(warnings.iter().any(|warning| warning.contains(expected)), "{expected}\n{warnings:#?}");
    }
    assert_eq!(warnings.len(), 6, "{warnings:#?}");
}

#[test]
fn messages_and_debug_output_contain_no_secret() {
    let directory = ConfigDirectory::new();
    let text = "authorization_servers:
  a: { issuer: 'https://a', client_id: a, client_auth: { client_secret_basic: { secret_file: keys/client-secret } } }
routes:
  - { match: { host: a }, legacy_secret: { file: keys/search-api-key, header: x } }
  - { match: { host: b }, token: { flow: { client_credentials: { server: a } } } }
";
    let loaded = directory.loaded(text);
    let rendered: String = loaded.warnings.iter().map(|warning| warning.render("warning")).collect();
    assert!(!rendered.contains("canary-5c0e"));
    assert!(!format!("{:?}", loaded.config.servers).contains("canary-5c0e"));
    assert!(!format!("{:?}", loaded.fingerprint).contains("canary-5c0e"));
}

#[test]
fn invalid_egress_settings_are_refused() {
    let directory = ConfigDirectory::new();
    let text = |keys: &str| format!("{keys}\nroutes: [{{ match: {{ host: a.example }}, token: none }}]");
    one_error(&directory, &text("egress: { refuse: [10.0.0.0/8], allow: [10.0.0.0/8] }"), "is in `refuse` as well");
    one_error(&directory, &text("egress: { refuse: [10.0.0.1/8] }"), "the range of this address is `10.0.0.0/8`");
    let proxy = |keys: &str| text(&format!("egress_proxy: {{ {keys} }}"));
    one_error(&directory, &proxy("url: 'https://proxy.example'"), "itself reached over TLS is not supported");
    one_error(&directory, &proxy("url: 'http://127.0.0.1:17080'"), "requests would loop");
    one_error(
        &directory,
        &proxy("url: 'http://proxy.example:3128', credentials_file: keys/egress-proxy"),
        "egress_proxy.credentials_file: the credentials would cross the network in the clear",
    );
    one_error(
        &directory,
        &proxy("url: 'http://127.0.0.1:3128', credentials_file: keys/client-secret"),
        "the content of the file is not `user:password`",
    );
}

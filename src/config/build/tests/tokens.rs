use super::{SERVERS, one_error, with_token};
use crate::config::testing::ConfigDirectory;
use crate::policy::CredentialRule;
use std::sync::Arc;

#[test]
fn subject_and_actor_are_checked_against_the_flow() {
    let directory = ConfigDirectory::new();
    let user = "subject: { header: { name: x-user, server: corp, type: id_token } }";
    let flows = [
        (
            "client_credentials: { server: corp }",
            "token.subject: `client_credentials` stands for the client itself",
            "token.actor: `client_credentials`",
        ),
        ("self_issued: { server: cal }", "", "token.actor: `self_issued` sets `act` itself"),
        ("id_jag: { idp: corp, server: cal }", "", ""),
        ("token_exchange: { server: corp }", "", ""),
        ("jwt_bearer: { server: cal }", "", "token.actor: `jwt_bearer` has no parameter for an actor"),
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
fn users_token_that_cannot_be_verified_is_refused() {
    let directory = ConfigDirectory::new();
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
fn unknown_reference_suggests_the_closest_name() {
    let directory = ConfigDirectory::new();
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
    // A server or token that is itself broken is not reported as unknown.
    let broken = named.replace("calender", "calendar").replace("https://cal.example", "cal.example");
    one_error(&directory, &broken, "authorization_servers.cal.issuer");
    let broken = named.replace("calender", "calendar").replace("jwt_bearer", "jwt_baerer");
    one_error(&directory, &broken, "tokens.calendar.flow");
}

#[test]
fn route_may_narrow_but_not_widen_its_token() {
    let directory = ConfigDirectory::new();
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
            CredentialRule::Token(rule) => Some(&rule.grant),
            _ => None,
        })
        .collect();
    assert!(Arc::ptr_eq(grants[0], grants[1]));
    assert_eq!(grants[0].scopes, ["a"]);
    assert_eq!(grants[2].scopes, ["a", "b"]);
    assert!(loaded.warnings.iter().any(|warning| warning.message.contains("the scope `b` is listed twice")));
    one_error(
        &directory,
        &text.replace("token: t, scopes: [a] }\n  - { name: two", "token: t, scopes: [a, c] }\n  - { name: two"),
        "routes[0].scopes[1]: the token does not have the scope `c`",
    );
}

#[test]
fn quirks_that_contradict_the_configuration_are_reported() {
    let directory = ConfigDirectory::new();
    let with = |quirks: &str| {
        with_token("flow: { token_exchange: { server: cal } }, scopes: [a], resource: 'https://r/'")
            .replace("client_id: c,", &format!("client_id: c, quirks: {{ {quirks} }},"))
    };
    for own in crate::config::build::servers::RESERVED_PARAMETERS {
        one_error(
            &directory,
            &with(&format!("extra_parameters: {{ {own}: x }}")),
            &format!("`{own}` is set by the proxy itself"),
        );
    }
    one_error(&directory, &with("omit: [client_id]"), "the server cannot tell who is asking");
    let warnings = directory.warnings(&with("omit: [scope, resource], extra_parameters: { tenant: 7 }"));
    assert!(warnings.iter().any(|warning| warning.contains("token.scopes: `cal` never receives it")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("token.resource: `cal` never receives it")), "{warnings:?}");
}

#[test]
fn users_token_file_is_read_and_watched() {
    let directory = ConfigDirectory::new();
    let text = with_token(
        "flow: { token_exchange: { server: corp } }, subject: { file: { path: run/t, server: corp, type: id_token } }",
    );
    let token_and_warnings = |text: &str| {
        let loaded = directory.loaded(text);
        assert!(loaded.fingerprint.files().any(|file| file.ends_with("run/t")), "{:?}", loaded.fingerprint);
        let CredentialRule::Token(rule) = &loaded.config.policy.routes()[0].credential else { panic!("a token") };
        let warnings = loaded.warnings.iter().map(|warning| warning.message.clone());
        let warnings: Vec<_> = warnings.filter(|warning| !warning.contains("nothing uses")).collect();
        (rule.file_token.as_ref().map(|token| token.expose().to_owned()), warnings)
    };
    let refused = |why: &str| {
        let (token, warnings) = token_and_warnings(&text);
        assert_eq!((token, warnings.len()), (None, 1), "{warnings:?}");
        assert!(warnings[0].contains(why), "{warnings:?}");
    };
    refused("cannot be read: No such file");
    directory.write("run/t", "alices\n");
    assert_eq!(token_and_warnings(&text), (Some("alices".to_owned()), Vec::new()));
    directory.write("run/t", "\n");
    refused("is empty");
    // A file whose reading could block for ever, or never end, is not opened.
    std::fs::remove_file(directory.path("run/t")).expect("removed");
    nix::unistd::mkfifo(&directory.path("run/t"), nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
    refused("it is not a regular file");
}

#[test]
fn placement_is_refused_for_fields_with_another_purpose() {
    let directory = ConfigDirectory::new();
    let with = |placement: &str| {
        with_token(&format!("flow: {{ client_credentials: {{ server: cal }} }}, placement: {{ {placement} }}"))
    };
    let placed = |text: &str| {
        let loaded = directory.loaded(text);
        let CredentialRule::Token(rule) = &loaded.config.policy.routes()[0].credential else { panic!("a token") };
        rule.placement.to_string()
    };
    assert_eq!(placed(&with("")), "authorization: Bearer …");
    assert_eq!(placed(&with("header: X-Access-Token")), "x-access-token: Bearer …");
    assert_eq!(placed(&with("header: X-Access-Token, prefix: ''")), "x-access-token: …");
    assert_eq!(placed(&with("prefix: 'Token token='")), "authorization: Token token=…");
    for name in ["Host", "content-length", "Transfer-Encoding", "Trailer", "upgrade", "Connection", "Keep-Alive", "TE"]
    {
        let expected = format!("token.placement.header: `{}` belongs to the connection", name.to_ascii_lowercase());
        one_error(&directory, &with(&format!("header: {name}")), &expected);
    }
    for name in ["Cookie", "Forwarded", "X-Forwarded-For", "x_forwarded_for", "Max-Forwards", "Proxy-Status"] {
        let expected = format!("token.placement.header: `{}` has a meaning", name.to_ascii_lowercase());
        one_error(&directory, &with(&format!("header: {name}")), &expected);
    }
    one_error(&directory, &with("header: ':authority'"), "token.placement.header");
    one_error(
        &directory,
        &with("prefix: ' Bearer'"),
        "token.placement.prefix: a prefix must not begin with white space",
    );
    one_error(&directory, &with(r#"prefix: "a\nb""#), "token.placement.prefix");
}

//! The first two steps: parses the text into a tree, and decodes the tree into the file types. They
//! check one value at a time; the build step checks what values mean together.
use super::decode::{Decode, Decoder, Environment};
use super::file::File;
use super::problem::{KeyPath, Position, Report};
use super::tree::{self, MAX_BYTES, Node};
use std::path::Path;

/// The file as far as it could be parsed and decoded.
pub(crate) struct ReadFile {
    pub(crate) report: Report,
    /// Absent after a syntax error, or when the file is not a mapping.
    pub(crate) content: Option<(Node, File)>,
}

/// Decodes `bytes`, the content of the file at `path`.
pub(crate) fn read(path: &Path, bytes: &[u8], environment: Environment<'_>) -> ReadFile {
    let Ok(text) = std::str::from_utf8(bytes) else {
        let before =
            String::from_utf8_lossy(&bytes[..std::str::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), str::len)]);
        let at = Position {
            line: before.lines().count().max(1),
            column: before.lines().last().map_or(1, |l| l.chars().count() + 1),
        };
        return refused(path, at, "the file is not UTF-8 text");
    };
    if text.len() > MAX_BYTES {
        return refused(path, Position { line: 1, column: 1 }, "the file is larger than 1MiB");
    }
    let mut report = Report::new(path, text);
    let Some(tree) = tree::parse(text, &mut report) else { return ReadFile { report, content: None } };
    let file = File::decode(&tree, &mut Decoder::new(&mut report, environment));
    report.end_decoding();
    ReadFile { report, content: file.map(|file| (tree, file)) }
}

fn refused(path: &Path, at: Position, message: &str) -> ReadFile {
    let mut report = Report::new(path, "");
    report.error(at, &KeyPath::default(), message);
    ReadFile { report, content: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::{ClientAuthFile, FlowFile, RouteFile, TokenOfRoute};
    use proptest::prelude::*;

    fn environment(name: &str) -> Option<String> {
        (name == "REALM").then(|| "agents".to_owned())
    }

    fn file(text: &str) -> File {
        let read = read(Path::new("p.yaml"), text.as_bytes(), &environment);
        let (_, file) = read.content.expect("a file");
        assert_eq!(read.report.finish().errors, []);
        file
    }

    /// Every problem as `line:column: path: message (help)`.
    fn problems(text: &str) -> Vec<String> {
        let read = read(Path::new("p"), text.as_bytes(), &environment);
        let problems = read.report.finish().errors;
        problems.iter().map(|problem| problem.to_string().split_off(2)).collect()
    }

    #[test]
    fn all_problems_are_reported_at_once_with_their_places() {
        let found = problems(concat!(
            "authorization_server: {}\n",
            "token_timeout: 10\n",
            "drain: [1s]\n",
            "log: { level: information }\n",
            "authorization_servers:\n",
            "  sso: { issuer: sso.example.com }\n",
            "  b d: { issuer: https://a.example, client_auth: spiffe_jwt }\n",
            "routes:\n",
            "  - token: calendar\n",
            "  - match: { host: 'a b', prot: 80, port: \"80\" }\n",
            "    tunnel: yes\n",
            "    token: { flow: { id_jag: { server: x } } }\n",
            "    scopes: calendar:read\n",
        ));
        let expected = [
            "1:1: authorization_server: unknown key `authorization_server` (did you mean `authorization_servers`?)",
            "2:16: token_timeout: expected a duration with its unit, such as `30s` or `5m`, found `10`: the unit is missing",
            "3:8: drain: expected a mapping with `idle` and `deadline`, found a list",
            "4:15: log.level: expected one of `error`, `warn`, `info`, `debug` or `trace`, found `information` (did you mean `info`?)",
            "6:8: authorization_servers.sso: this key is required",
            "6:18: authorization_servers.sso.issuer: expected an issuer such as",
            "7:3: authorization_servers.b d: expected a name as a key: use 1 to 63 letters",
            "9:5: routes[0].match: this key is required: a mapping with `host`, `port`,",
            "10:20: routes[1].match.host: expected a host such as `api.example.com` or `*.example.com`, found `a b`",
            "10:27: routes[1].match.prot: unknown key `prot` (did you mean `port`?)",
            "10:43: routes[1].match.port: expected a port from 1 to 65535, found text in quotes (remove the quotes)",
            "11:13: routes[1].tunnel: expected `true` or `false`, found `yes`: write `true`",
            "12:30: routes[1].token.flow.id_jag.idp: this key is required: a name",
            "13:13: routes[1].scopes: expected a list, each item a scope such as `calendar:read`, found a single value (put it in square brackets)",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            let expected = expected.replace("sso: this key", "sso.client_auth: this key");
            assert!(found.starts_with(&expected), "{found}\n{expected}");
        }
    }

    #[test]
    fn choice_is_accepted_as_a_name_and_as_a_mapping() {
        for auth in ["spiffe_jwt", "{ spiffe_jwt: {} }"] {
            let text =
                format!("authorization_servers: {{ a: {{ issuer: 'https://a.example', client_auth: {auth} }} }}");
            assert!(matches!(file(&text).authorization_servers.0[0].1.client_auth, ClientAuthFile::SpiffeJwt));
        }
        let bare =
            problems("authorization_servers: { a: { issuer: 'https://a.example', client_auth: private_key_jwt } }");
        assert!(bare[0].contains("client_auth.key_file: this key is required"), "{bare:?}");
        let two = problems("tokens: { t: { flow: { jwt_bearer: { server: a }, id_jag: {} } } }");
        assert!(two[0].starts_with("1:51: tokens.t.flow: only one key is allowed here"), "{two:?}");
        assert!(problems("tokens: { t: { flow: {} } }")[0].contains("an empty mapping"));
        assert!(problems("unmatched: { refuse: { now: 1 } }")[0].contains("unmatched.refuse.now: unknown key `now`"));
    }

    #[test]
    fn token_of_a_route_is_a_name_a_mapping_or_none() {
        let text = "routes: [{ match: { host: a }, token: TOKEN }]";
        let token = |token: &str| file(&text.replace("TOKEN", token)).routes.remove(0).item.token.expect("a token");
        assert!(matches!(token("none"), TokenOfRoute::None));
        assert!(matches!(token("calendar"), TokenOfRoute::Named(name) if name.0 == "calendar"));
        let own = token("{ flow: { client_credentials: { server: sso } } }");
        assert!(matches!(own, TokenOfRoute::Own(own) if matches!(own.flow, FlowFile::ClientCredentials(_))));
    }

    #[test]
    fn number_is_accepted_where_text_is_expected() {
        let text = "identity: { assertion: { kid: KID, key_file: k.pem } }";
        for kid in ["2026-11", "007", "1.10", "true", "'null'"] {
            let assertion = file(&text.replace("KID", kid)).identity.expect("identity").assertion;
            assert_eq!(assertion.kid.expect("kid").0, kid.trim_matches('\''));
        }
    }

    #[test]
    fn environment_is_expanded_in_values_but_not_in_secret_fields() {
        let text = "authorization_servers: { a: { issuer: 'https://a.example/${REALM}', client_auth: spiffe_jwt } }";
        assert_eq!(file(text).authorization_servers.0[0].1.issuer.0, "https://a.example/agents");
        let missing = problems(&text.replace("REALM", "NOWHERE"));
        assert!(missing[0].contains("the environment variable `NOWHERE` is not set"), "{missing:?}");
        assert!(problems(&text.replace("{REALM}", "{REALM"))[0].contains("without its `}`"));
        for secret in
            ["{ private_key_jwt: { key_file: '${REALM}' } }", "{ client_secret_post: { secret_file: 'a${REALM}' } }"]
        {
            let found = problems(&text.replace("spiffe_jwt", secret));
            assert!(
                found[0].contains("environment variables are not expanded in a field that holds or names a secret"),
                "{found:?}"
            );
        }
        let escaped =
            "authorization_servers: { a: { issuer: 'https://a.example', client_id: '$${REALM}', client_auth: none } }";
        assert_eq!(file(escaped).authorization_servers.0[0].1.client_id.as_ref().map(|id| &*id.0), Some("${REALM}"));
    }

    #[test]
    fn secret_in_the_wrong_place_is_not_shown() {
        let text = "authorization_servers: { a: { issuer: 'https://a.example', client_auth: { client_secret_basic: { secret: canary-7f } } } }";
        for text in [text.to_owned(), text.replace("secret: canary-7f", "secret_file: \"-----BEGIN canary-7f\"")] {
            let read = read(Path::new("p"), text.as_bytes(), &environment);
            let problems = read.report.finish().errors;
            let shown: Vec<String> = problems.iter().map(|problem| problem.render("error")).collect();
            assert!(!problems.iter().any(|problem| problem.message.contains("canary")), "{problems:?}");
            assert!(!shown.iter().any(|line| line.contains("canary")), "{problems:?}");
        }
    }

    #[test]
    fn empty_value_is_an_error() {
        assert_eq!(
            problems("routes:\nlisten: ~\n"),
            [
                format!("1:1: routes: expected a list, each item {}, found nothing (give it a value or remove the key)", RouteFile::expected()),
                "2:1: listen: expected a mapping with `outbound`, `metrics`, `admin` and `jwks`, found nothing (give it a value or remove the key)".to_owned(),
            ]
        );
    }

    #[test]
    fn large_file_and_wrong_encoding_are_refused() {
        assert!(problems(&"#\n".repeat(600_000))[0].contains("larger than 1MiB"));
        let read = read(Path::new("p"), b"a: 1\nb: \xff", &environment);
        assert!(read.report.finish().errors[0].to_string().starts_with("p:2:4: the file is not UTF-8"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(Path::new("p"), &bytes, &environment).report.finish();
        }

        #[test]
        fn arbitrary_yaml_does_not_panic(text in r##"([a-z_]{1,12}|[\[\]{}:,&*!|>'"#%@`?~-]|: |\n {0,6}|- |\$\{|routes|match|host|token|flow|tokens){0,60}"##) {
            let _ = read(Path::new("p"), text.as_bytes(), &environment).report.finish();
        }
    }
}

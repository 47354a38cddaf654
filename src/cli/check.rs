//! `idjag-proxy check`: reports every problem of a file as a compiler would, or describes what the
//! file allows.
use super::proxy_variables;
use super::terminal::{EX_CONFIG, environment, print, print_error};
use crate::config::{Loaded, Overrides, Problem, Problems, load, summary};
use std::path::Path;
use std::process::ExitCode;

const SOCKET_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// Stands for the socket of the Workload API where the environment does not name it.
const ASSUMED_SOCKET: &str = "unix:///where-it-runs";

pub(super) fn run(file: &Path) -> ExitCode {
    let Checked { messages, description } = check(file, &environment);
    if !messages.is_empty() {
        print_error(messages.trim_end());
    }
    match description {
        Some(description) => {
            print(&description);
            ExitCode::SUCCESS
        }
        None => ExitCode::from(EX_CONFIG),
    }
}

/// The result of checking a file.
struct Checked {
    /// Errors, warnings and notes.
    messages: String,
    /// The description of what a valid file allows.
    description: Option<String>,
}

fn check(file: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Checked {
    // The file is checked where it is written, but the socket exists only where the proxy will run.
    let with_socket = |name: &str| match environment(name) {
        None if name == SOCKET_VARIABLE => Some(ASSUMED_SOCKET.to_owned()),
        value => value,
    };
    match load(file, &with_socket, &Overrides::default()) {
        Ok(Loaded { config, warnings, .. }) => {
            let mut messages = render(&warnings, "warning");
            let sentences = summary(&config);
            let assumed = sentences.contains(ASSUMED_SOCKET);
            if assumed {
                messages.push_str(&format!(
                    "note: at run time, {SOCKET_VARIABLE} must name the socket of the Workload API\n"
                ));
            }
            if let Some(unused) = proxy_variables::unused(&config, environment) {
                messages.push_str(&format!("note: {unused}\n"));
            }
            let verdict = count(0, warnings.len());
            let sentences = sentences.replace(ASSUMED_SOCKET, &format!("${SOCKET_VARIABLE}"));
            Checked { messages, description: Some(format!("{}: {verdict}\n\n{sentences}", file.display())) }
        }
        Err(Problems { errors, warnings, .. }) => {
            let problems = render(&errors, "error") + &render(&warnings, "warning");
            let messages = format!("{problems}{}: {}\n", file.display(), count(errors.len(), warnings.len()));
            Checked { messages, description: None }
        }
    }
}

fn render(problems: &[Problem], severity: &str) -> String {
    problems.iter().map(|problem| problem.render(severity) + "\n").collect()
}

fn count(errors: usize, warnings: usize) -> String {
    let plural = |count: usize, word: &str| match count {
        0 => format!("no {word}s"),
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    };
    format!("{}, {}", plural(errors, "error"), plural(warnings, "warning"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Checked {
        checked_with(text, &|_| None)
    }

    fn checked_with(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Checked {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("proxy.yaml");
        std::fs::write(&file, text).expect("written");
        let Checked { messages, description } = check(&file, environment);
        let short = |text: String| text.replace(&format!("{}/", directory.path().display()), "");
        Checked { messages: short(messages), description: description.map(short) }
    }

    #[test]
    fn good_file_is_described() {
        let Checked { messages, description } = checked(include_str!("../../config/examples/smallest.yaml"));
        assert_eq!(messages, "note: at run time, SPIFFE_ENDPOINT_SOCKET must name the socket of the Workload API\n");
        let answer = description.expect("good");
        assert!(
            answer.starts_with("proxy.yaml: no errors, no warnings\n\nThe agent connects to 127.0.0.1:17080"),
            "{answer}"
        );
        assert!(answer.contains("from the Workload API at $SPIFFE_ENDPOINT_SOCKET."), "{answer}");
    }

    #[test]
    fn problems_of_a_bad_file_are_shown_in_place() {
        let Checked { messages, description } =
            checked("routes:\n  - match: { hots: a }\n    token: none\nunmatched: pass\n");
        assert_eq!(description, None);
        let expected = "error: proxy.yaml:2:12: routes[0].match.host: this key is required: a host such as `api.example.com` or `*.example.com`
   |
 2 |   - match: { hots: a }
   |            ^

error: proxy.yaml:2:14: routes[0].match.hots: unknown key `hots`
   |
 2 |   - match: { hots: a }
   |              ^
   = help: did you mean `host`?

warning: proxy.yaml:4:12: unmatched: requests that match no route may go to any host that the agent chooses
   |
 4 | unmatched: pass
   |            ^
   = help: list the hosts as routes with `token: none`

proxy.yaml: 2 errors, 1 warning
";
        assert_eq!(messages, expected);
    }

    #[test]
    fn proxy_that_only_the_environment_names_is_noted() {
        let noted = |text: &str, value: &str| {
            let environment = |name: &str| (name == "HTTPS_PROXY").then(|| value.to_owned());
            checked_with(text, &environment).messages.contains("note: HTTPS_PROXY is set and not used")
        };
        let route = "routes: [{ match: { host: a.example }, token: none }]\n";
        assert!(noted(route, "http://proxy.example:3128"));
        assert!(!noted(route, ""));
        assert!(!noted(route, "http://127.0.0.1:17080"), "that is this proxy");
        let configured = format!("{route}egress_proxy: {{ url: \"http://proxy.example:3128\" }}\n");
        assert!(!noted(&configured, "http://proxy.example:3128"));
        let description = checked(&configured).description.expect("good");
        assert!(description.contains("through the egress proxy proxy.example:3128"), "{description}");
        assert!(description.contains("only hosts that are spelled as addresses can be checked"), "{description}");
    }

    #[test]
    fn missing_file_is_reported() {
        let Checked { messages, description } = check(Path::new("/nowhere/proxy.yaml"), &|_| None);
        assert!(
            messages.starts_with("error: /nowhere/proxy.yaml:1:1: cannot read the file: No such file"),
            "{messages}"
        );
        assert_eq!(description, None);
    }
}

//! `idjag-proxy check`: everything that is wrong with a file, as a compiler would say it, or what the file allows whom.
use super::{EX_CONFIG, complain, environment, print};
use crate::config::{Loaded, Overrides, Problem, Problems, load, summary};
use std::path::Path;
use std::process::ExitCode;

const SOCKET_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

pub(super) fn run(file: &Path) -> ExitCode {
    let (complaints, answer) = check(file, &environment);
    if !complaints.is_empty() {
        complain(complaints.trim_end());
    }
    match answer {
        Some(answer) => {
            print(&answer);
            ExitCode::SUCCESS
        }
        None => ExitCode::from(EX_CONFIG),
    }
}

/// What there is to complain about, and, for a file that can be used, what it says.
fn check(file: &Path, environment: &dyn Fn(&str) -> Option<String>) -> (String, Option<String>) {
    // A file is checked where it is written; the socket is where it runs.
    let with_socket = |name: &str| match environment(name) {
        None if name == SOCKET_VARIABLE => Some("unix:///where-it-runs".to_owned()),
        value => value,
    };
    match load(file, &with_socket, &Overrides::default()) {
        Ok(Loaded { config, warnings, .. }) => {
            let mut complaints = render(&warnings, "warning");
            let sentences = summary(&config);
            let assumed = sentences.contains("unix:///where-it-runs");
            if assumed {
                complaints
                    .push_str(&format!("note: where it runs, {SOCKET_VARIABLE} must name the Workload API's socket\n"));
            }
            let verdict = count(0, warnings.len());
            let sentences = sentences.replace("unix:///where-it-runs", &format!("${SOCKET_VARIABLE}"));
            (complaints, Some(format!("{}: {verdict}\n\n{sentences}", file.display())))
        }
        Err(Problems { errors, warnings, .. }) => {
            let problems = render(&errors, "error") + &render(&warnings, "warning");
            (format!("{problems}{}: {}\n", file.display(), count(errors.len(), warnings.len())), None)
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

    fn checked(text: &str) -> (String, Option<String>) {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("proxy.yaml");
        std::fs::write(&file, text).expect("written");
        let (complaints, answer) = check(&file, &|_| None);
        let short = |text: String| text.replace(&format!("{}/", directory.path().display()), "");
        (short(complaints), answer.map(short))
    }

    #[test]
    fn a_good_file_is_read_back() {
        let (complaints, answer) = checked(include_str!("../../config/examples/smallest.yaml"));
        assert_eq!(complaints, "note: where it runs, SPIFFE_ENDPOINT_SOCKET must name the Workload API's socket\n");
        let answer = answer.expect("good");
        assert!(
            answer.starts_with("proxy.yaml: no errors, no warnings\n\nThe agent connects to 127.0.0.1:17080"),
            "{answer}"
        );
        assert!(answer.contains("from the Workload API at $SPIFFE_ENDPOINT_SOCKET."), "{answer}");
    }

    #[test]
    fn a_bad_file_shows_where() {
        let (complaints, answer) = checked("routes:\n  - match: { hots: a }\n    token: none\nunmatched: pass\n");
        assert_eq!(answer, None);
        let expected = "error: proxy.yaml:2:12: routes[0].match.host: this key is required: a host such as `api.example.com` or `*.example.com`
   |
 2 |   - match: { hots: a }
   |            ^

error: proxy.yaml:2:14: routes[0].match.hots: unknown key `hots`
   |
 2 |   - match: { hots: a }
   |              ^
   = help: did you mean `host`?

warning: proxy.yaml:4:12: unmatched: requests that no route matches reach any host that the agent likes
   |
 4 | unmatched: pass
   |            ^
   = help: list the hosts as routes with `token: none`

proxy.yaml: 2 errors, 1 warning
";
        assert_eq!(complaints, expected);
    }

    #[test]
    fn a_file_that_is_not_there() {
        let (complaints, answer) = check(Path::new("/nowhere/proxy.yaml"), &|_| None);
        assert!(
            complaints.starts_with("error: /nowhere/proxy.yaml:1:1: it cannot be read: No such file"),
            "{complaints}"
        );
        assert_eq!(answer, None);
    }
}

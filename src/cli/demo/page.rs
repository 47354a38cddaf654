//! Prints the walk-through, and keeps the result of its checks.
use crate::cli::terminal::print;
use serde_json::Value;

/// The order in which claims are shown; other claims follow.
const ORDER: [&str; 10] = ["iss", "sub", "act", "aud", "client_id", "scope", "resource", "iat", "exp", "jti"];
/// Claims that are left out after a token of the same kind has been shown in full.
const DETAILS: [&str; 5] = ["client_id", "resource", "iat", "exp", "jti"];
const NAME_WIDTH: usize = 20;

/// How much of a token is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Every claim.
    Full,
    /// The claims that say who, for whom, where and what.
    Brief,
}

/// The printed page with its counters and failed checks.
pub(super) struct Page {
    colours: bool,
    stories: usize,
    steps: usize,
    checks: usize,
    failed: Vec<String>,
}

#[derive(Clone, Copy)]
enum Style {
    Title,
    Actor,
    Faint,
    Good,
    Bad,
}

impl Page {
    pub(super) fn new(colours: bool) -> Self {
        Self { colours, stories: 0, steps: 0, checks: 0, failed: Vec::new() }
    }

    /// Prints a heading without a number.
    pub(super) fn heading(&mut self, title: &str) {
        let title = self.styled(Style::Title, title);
        print(&format!("\n{title}\n"));
    }

    /// Starts the next story; its steps count from 1.
    pub(super) fn story(&mut self, title: &str, about: &str) {
        self.stories += 1;
        self.steps = 0;
        self.heading(&format!("━━ {} · {title}", self.stories));
        print(&format!("{}\n\n", indented(about, 3)));
    }

    /// Starts the next part of a story.
    pub(super) fn phase(&mut self, name: &str) {
        let name = self.styled(Style::Faint, &format!("── {name}"));
        // The story's own text ends with an empty line.
        let gap = if self.steps == 0 { "" } else { "\n" };
        print(&format!("{gap}   {name}\n"));
    }

    /// Prints the next step: who does what.
    pub(super) fn step(&mut self, who: &str, what: &str) {
        self.steps += 1;
        let (number, who) = (self.steps, self.styled(Style::Actor, who));
        print(&format!("{number:>4}  {who}  {what}\n"));
    }

    /// Prints a name and a value below a step.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        let name = self.styled(Style::Faint, &format!("{name:<NAME_WIDTH$}"));
        print(&format!("        {name} {value}\n"));
    }

    /// Prints a sentence below a step.
    pub(super) fn note(&mut self, text: &str) {
        print(&format!("{}\n", indented(text, 8)));
    }

    /// Prints a line without indentation.
    pub(super) fn line(&mut self, text: &str) {
        print(&format!("{text}\n"));
    }

    /// Prints a token's claims, the interesting ones first. `now` is in seconds since the epoch.
    pub(super) fn claims(&mut self, claims: &Value, now: u64, detail: Detail) {
        let Some(members) = claims.as_object() else { return };
        let others = members.keys().map(String::as_str).filter(|name| !ORDER.contains(name));
        for name in ORDER.into_iter().chain(others) {
            if detail == Detail::Brief && DETAILS.contains(&name) {
                continue;
            }
            if let Some(value) = members.get(name) {
                let shown = match name {
                    "exp" => relative(value, now, "from now"),
                    "iat" => relative(value, now, "ago"),
                    "act" => act(value),
                    _ => text(value),
                };
                self.field(name, &shown);
            }
        }
    }

    /// Prints a statement and whether it is true.
    pub(super) fn check(&mut self, holds: bool, statement: &str) {
        self.checks += 1;
        if holds {
            let mark = self.styled(Style::Good, "✓");
            print(&format!("      {mark} {statement}\n"));
        } else {
            let mark = self.styled(Style::Bad, "✗");
            print(&format!("      {mark} {statement}: this is NOT the case\n"));
            self.failed.push(format!("story {}: {statement}", self.stories));
        }
    }

    /// Whether every check passed.
    pub(super) fn all_checks_passed(&self) -> bool {
        self.failed.is_empty()
    }

    /// Prints the totals, and then the checks that failed.
    pub(super) fn summary(&mut self, seconds: f64) {
        let (stories, checks, failed) = (self.stories, self.checks, self.failed.len());
        let passed = checks - failed;
        let line = format!("demo: {stories} stories, {passed} checks passed, {failed} failed, {seconds:.1} s");
        let line = self.styled(if failed == 0 { Style::Good } else { Style::Bad }, &line);
        print(&format!("\n{line}\n"));
        for statement in &self.failed {
            print(&format!("  ✗ {statement}\n"));
        }
    }

    fn styled(&self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Title => "1",
            Style::Actor => "36",
            Style::Faint => "2",
            Style::Good => "32",
            Style::Bad => "31",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn indented(text: &str, by: usize) -> String {
    let pad = " ".repeat(by);
    text.lines().map(|line| format!("{pad}{}", line.trim())).collect::<Vec<_>>().join("\n")
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Formats an actor with the actors nested in it, outermost first.
fn act(value: &Value) -> String {
    let inner = value.get("act").map(|inner| format!(", act: {}", act(inner))).unwrap_or_default();
    format!("{{ sub: {}{inner} }}", text(&value["sub"]))
}

/// Formats a `NumericDate` as its distance from now.
fn relative(value: &Value, now: u64, direction: &str) -> String {
    value.as_u64().map_or_else(|| value.to_string(), |instant| format!("{} s {direction}", instant.abs_diff(now)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn failed_check_fails_the_walk() {
        let mut page = Page::new(false);
        page.story("a story", "about something");
        page.check(true, "this holds");
        assert!(page.all_checks_passed());
        page.check(false, "this does not");
        page.check(true, "this holds again");
        assert!(!page.all_checks_passed());
    }

    #[test]
    fn actor_chain_starts_with_the_current_actor() {
        let nested = json!({ "act": { "sub": "orchestrator" }, "sub": "worker" });
        assert_eq!(act(&nested), "{ sub: worker, act: { sub: orchestrator } }");
    }
}

//! Problems of a configuration file, reported so that a person can fix them: the place, the key,
//! what was expected, and what to do.
use std::fmt;
use std::path::{Path, PathBuf};

/// How many errors, and how many warnings, are reported. Nobody reads more, and a hostile file must
/// not produce a list longer than itself.
const MAX_PROBLEMS: usize = 200;

/// A place in a file. Lines and columns count from 1; columns count characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// One error or one warning about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The configuration file that the problem is in.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// The column, counted from 1, in characters.
    pub column: usize,
    /// The key that the problem is about, such as `routes[2].match.host`; empty for the file as a
    /// whole.
    pub path: String,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// How to solve the problem.
    pub help: Option<String>,
    /// The source line; absent where it may hold a secret that was written in the wrong place.
    pub snippet: Option<Snippet>,
}

/// The part of a source line that fits a terminal, without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    text: String,
    /// How many characters precede the place that the problem is about.
    indent: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}: ", self.file.display(), self.line, self.column)?;
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        out.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(out, " ({help})"),
            None => Ok(()),
        }
    }
}

impl Problem {
    /// Renders the problem as a compiler would: the place, the message, the source line with a
    /// caret, and the help.
    pub fn render(&self, severity: &str) -> String {
        let mut text = format!("{severity}: {}:{}:{}: ", self.file.display(), self.line, self.column);
        if !self.path.is_empty() {
            text.push_str(&self.path);
            text.push_str(": ");
        }
        text.push_str(&self.message);
        text.push('\n');
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        if let Some(Snippet { text: line, indent }) = &self.snippet {
            text.push_str(&format!(" {margin} |\n {number} | {line}\n {margin} | {}^\n", " ".repeat(*indent)));
        }
        if let Some(help) = &self.help {
            text.push_str(&format!(" {margin} = help: {help}\n"));
        }
        text
    }
}

/// Cuts out the part of a source line around `column`.
fn excerpt(line: &str, column: usize) -> Snippet {
    const BEFORE: usize = 80;
    const AFTER: usize = 60;
    let before = column.saturating_sub(1);
    let skipped = before.saturating_sub(BEFORE);
    let shown = line.chars().skip(skipped).take(BEFORE + AFTER);
    let shown: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
    Snippet { text: shown.trim_end().to_owned(), indent: before - skipped }
}

/// One step from a value to a value inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// The steps from the top of the file to a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyPath(pub(crate) Vec<Step>);

impl KeyPath {
    pub(crate) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    pub(crate) fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// Whether `other` is this value or one inside it.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => out.write_str(key)?,
                Step::Key(key) => write!(out, ".{key}")?,
                Step::Index(index) => write!(out, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Collects the problems that are found while a file is read.
#[derive(Debug)]
pub(crate) struct Report {
    file: PathBuf,
    lines: Vec<String>,
    /// The errors, at most [`MAX_PROBLEMS`].
    errors: Vec<(KeyPath, Problem)>,
    /// How many of the errors were found by parsing and decoding.
    decode_errors: usize,
    /// The warnings, at most [`MAX_PROBLEMS`].
    warnings: Vec<Problem>,
    /// A problem that is not reported, because the list is full or because it follows from another
    /// problem. It is kept so that the caller can add its help either way.
    dropped: Option<Problem>,
}

/// The problems of a file, each list in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) errors: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

impl Report {
    pub(crate) fn new(file: &Path, text: &str) -> Self {
        let lines = text.lines().map(str::to_owned).collect();
        Self { file: file.to_owned(), lines, errors: Vec::new(), decode_errors: 0, warnings: Vec::new(), dropped: None }
    }

    /// Whether the list of errors is full, so that looking for more would only cost time.
    pub(crate) fn is_full(&self) -> bool {
        self.errors.len() >= MAX_PROBLEMS
    }

    pub(crate) fn error(&mut self, at: Position, path: &KeyPath, message: impl Into<String>) -> &mut Problem {
        if self.is_full() {
            return self.drop_problem(at, path, message.into());
        }
        let problem = self.problem(at, path, message.into());
        self.errors.push((path.clone(), problem));
        &mut self.errors.last_mut().expect("an error was just pushed").1
    }

    pub(crate) fn warning(&mut self, at: Position, path: &KeyPath, message: impl Into<String>) -> &mut Problem {
        if self.warnings.len() >= MAX_PROBLEMS {
            return self.drop_problem(at, path, message.into());
        }
        let problem = self.problem(at, path, message.into());
        self.warnings.push(problem);
        self.warnings.last_mut().expect("a warning was just pushed")
    }

    /// Ends decoding. From now on, a value that is already known to be broken is not reported
    /// a second time.
    pub(crate) fn end_decoding(&mut self) {
        self.decode_errors = self.errors.len();
    }

    /// Whether decoding found no error in the value at `path` or inside it.
    pub(crate) fn was_decoded(&self, path: &KeyPath) -> bool {
        !self.errors[..self.decode_errors].iter().any(|(broken, _)| path.contains(broken))
    }

    /// Reports an error of the build step. It is dropped if decoding has already found the value
    /// broken.
    pub(crate) fn derived_error(&mut self, at: Position, path: &KeyPath, message: String) -> &mut Problem {
        if self.was_decoded(path) {
            return self.error(at, path, message);
        }
        self.drop_problem(at, path, message)
    }

    fn drop_problem(&mut self, at: Position, path: &KeyPath, message: String) -> &mut Problem {
        let (line, column, path) = (at.line, at.column, path.to_string());
        self.dropped.insert(Problem { file: PathBuf::new(), line, column, path, message, help: None, snippet: None })
    }

    /// Whether neither step has found an error in the value at `path` or inside it.
    pub(crate) fn has_no_error(&self, path: &KeyPath) -> bool {
        !self.errors.iter().any(|(broken, _)| path.contains(broken))
    }

    pub(crate) fn finish(self) -> Findings {
        let order = |problem: &Problem| (problem.line, problem.column);
        let mut errors: Vec<Problem> = self.errors.into_iter().map(|(_, problem)| problem).collect();
        let mut warnings = self.warnings;
        errors.sort_by_key(order);
        warnings.sort_by_key(order);
        // If one problem withholds a line, no other problem shows it.
        let all = || errors.iter().chain(&warnings);
        let withheld: Vec<usize> = all().filter(|problem| problem.snippet.is_none()).map(|p| p.line).collect();
        let affected = errors.iter_mut().chain(&mut warnings).filter(|problem| withheld.contains(&problem.line));
        affected.for_each(|problem| problem.snippet = None);
        Findings { errors, warnings }
    }

    fn problem(&self, at: Position, path: &KeyPath, message: String) -> Problem {
        let line = at.line.checked_sub(1).and_then(|index| self.lines.get(index));
        let snippet = line.map(|line| excerpt(line, at.column));
        let file = self.file.clone();
        Problem { file, line: at.line, column: at.column, path: path.to_string(), message, help: None, snippet }
    }
}

impl Problem {
    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Withholds the source line, which may contain a secret.
    pub(crate) fn without_snippet(&mut self) -> &mut Self {
        self.snippet = None;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(Path::new("proxy.yaml"), "routes:\n  - colour: red\n")
    }

    #[test]
    fn problem_is_rendered_like_a_compiler_error() {
        let mut report = report();
        let path = KeyPath::default().key("routes").index(0).key("colour");
        report.error(Position { line: 2, column: 5 }, &path, "unknown key `colour`").help("remove it");
        let problems = report.finish().errors;
        let expected = "error: proxy.yaml:2:5: routes[0].colour: unknown key `colour`\n   |\n 2 |   - colour: red\n   |     ^\n   = help: remove it\n";
        assert_eq!(problems[0].render("error"), expected);
        assert_eq!(problems[0].to_string(), "proxy.yaml:2:5: routes[0].colour: unknown key `colour` (remove it)");
    }

    #[test]
    fn value_with_an_error_inside_it_was_not_decoded() {
        let mut report = report();
        let routes = KeyPath::default().key("routes");
        report.error(Position::default(), &routes.index(0).key("colour"), "unknown");
        report.end_decoding();
        assert!(!report.was_decoded(&routes));
        assert!(!report.was_decoded(&routes.index(0)));
        assert!(report.was_decoded(&routes.index(1)));
        assert!(report.was_decoded(&routes.index(0).key("token")));
    }

    #[test]
    fn long_line_is_cut_around_its_column_without_control_characters() {
        let line = format!("{}\u{1b}[31mX{}", " ".repeat(500), "y".repeat(500));
        let Snippet { text, indent } = excerpt(&line, 506);
        assert!(text.chars().count() <= 140 && !text.contains('\u{1b}'));
        assert_eq!(text.chars().nth(indent), Some('X'));
    }
}

//! Parses YAML text into a tree.
//!
//! It consumes the events of the parser inside serde-saphyr (`serde_yaml` in `Cargo.toml`), because
//! that crate's deserializer turns a scalar into a number before the text can be seen. Budgets protect against hostile input: size, depth, and the
//! copies that aliases make.
use super::{MapEntry, Node, Value, printable};
use crate::config::problem::{KeyPath, Position, Report, Step};
use serde_yaml::granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span};
use std::collections::HashMap;

/// The largest file that is read, in bytes.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;
/// How deeply lists and mappings may be nested; the deepest key of the schema is at level 8.
const MAX_DEPTH: usize = 24;
/// The largest number of values in the tree, counting every copy that an alias makes.
const MAX_NODES: usize = 200_000;
/// The total length of all scalars, in bytes, counting every copy that an alias makes.
const MAX_TEXT: usize = 4 * MAX_BYTES;

/// Parses a file. Returns `None` after it has reported a syntax error. Duplicate keys are reported,
/// and the first one is used.
pub(crate) fn parse(text: &str, report: &mut Report) -> Option<Node> {
    let mut options = Options::default();
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    options.set_emit_comments(false);
    let parser = Parser::new_from_str_with_options(text, options);
    let budget = Size { nodes: MAX_NODES, text: MAX_TEXT };
    let mut reader = Reader { parser, anchors: HashMap::new(), budget, path: KeyPath::default(), report };
    match reader.document() {
        Ok(node) => Some(node),
        Err(failure) => {
            let path = std::mem::take(&mut reader.path);
            let problem = report.error(failure.at, &path, failure.message);
            problem.help = failure.help.map(str::to_owned);
            None
        }
    }
}

/// How much a tree contains, or may still contain.
#[derive(Clone, Copy)]
struct Size {
    nodes: usize,
    /// The length of all scalars in bytes.
    text: usize,
}

impl Size {
    fn plus(self, other: Self) -> Self {
        Self { nodes: self.nodes + other.nodes, text: self.text + other.text }
    }
}

/// A syntax error, or a YAML construct that the file format does not support.
struct SyntaxError {
    at: Position,
    message: String,
    help: Option<&'static str>,
}

impl SyntaxError {
    fn new(at: Position, message: impl Into<String>, help: &'static str) -> Self {
        Self { at, message: message.into(), help: Some(help) }
    }
}

impl From<ScanError> for SyntaxError {
    fn from(error: ScanError) -> Self {
        let at = Position { line: error.marker().line(), column: error.marker().col() + 1 };
        Self { at, message: format!("not YAML: {}", error.info()), help: None }
    }
}

struct Reader<'text, 'report, P: Iterator<Item = Result<(Event<'text>, Span), ScanError>>> {
    parser: P,
    anchors: HashMap<usize, Node>,
    budget: Size,
    path: KeyPath,
    report: &'report mut Report,
}

impl<'text, P: Iterator<Item = Result<(Event<'text>, Span), ScanError>>> Reader<'text, '_, P> {
    fn document(&mut self) -> Result<Node, SyntaxError> {
        let mut document = None;
        while let Some((event, span)) = self.parser.next().transpose()? {
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                Event::DocumentStart(..) if document.is_some() => {
                    return Err(SyntaxError::new(
                        start(&span),
                        "the file has a second document",
                        "one file holds one document: remove the `---`",
                    ));
                }
                Event::DocumentStart(..) => document = Some(self.next_node(0)?),
                other => return Err(unexpected(&other, &span)),
            }
        }
        document.ok_or_else(|| {
            SyntaxError::new(Position { line: 1, column: 1 }, "the file is empty", "write at least one route")
        })
    }

    fn next_node(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        let (event, span) = self.next_event()?;
        self.node(event, &span, depth)
    }

    fn next_event(&mut self) -> Result<(Event<'text>, Span), SyntaxError> {
        match self.parser.next() {
            Some(next) => Ok(next?),
            None => Err(SyntaxError {
                at: Position::default(),
                message: "not YAML: the text ends too early".into(),
                help: None,
            }),
        }
    }

    fn node(&mut self, event: Event<'text>, span: &Span, depth: usize) -> Result<Node, SyntaxError> {
        let at = start(span);
        self.spend(at, Size { nodes: 1, text: 0 })?;
        if depth > MAX_DEPTH {
            return Err(SyntaxError::new(
                at,
                "lists and mappings are nested too deeply",
                "the format needs fewer than ten levels",
            ));
        }
        let (value, anchor, tagged) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(at, Size { nodes: 0, text: text.len() })?;
                (scalar(text.into_owned(), style), anchor, tag.is_some())
            }
            Event::SequenceStart(_, anchor, tag) => (self.list(depth)?, anchor, tag.is_some()),
            Event::MappingStart(_, anchor, tag) => (self.map(depth)?, anchor, tag.is_some()),
            Event::Alias(anchor) => return self.copy(anchor, at),
            other => return Err(unexpected(&other, span)),
        };
        if tagged {
            return Err(SyntaxError::new(at, "YAML tags are not supported", "remove the word that starts with `!`"));
        }
        let node = Node { at, value };
        if anchor != 0 {
            self.spend(at, size(&node))?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.next_event()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => {
                    self.path.0.push(Step::Index(items.len()));
                    items.push(self.node(event, &span, depth + 1)?);
                    self.path.0.pop();
                }
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut entries: Vec<MapEntry> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, span) = self.next_event()?;
            let at = start(&span);
            let key = match event {
                Event::MappingEnd => return Ok(Value::Map(entries)),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => {
                    return Err(SyntaxError::new(
                        at,
                        "a key must be a plain word",
                        "write it without brackets and braces",
                    ));
                }
            };
            self.spend(at, Size { nodes: 1, text: key.len() })?;
            if key == "<<" {
                return Err(SyntaxError::new(
                    at,
                    "merge keys are not supported",
                    "repeat the keys, or alias a whole value",
                ));
            }
            self.path.0.push(Step::Key(printable(&key)));
            let mut value = self.next_node(depth + 1)?;
            if value.value == Value::Null {
                // A missing value has no position of its own, so it gets the position of its key.
                value.at = at;
            }
            match lines.get(&key) {
                Some(line) => {
                    let message = format!("the key `{}` appears a second time", printable(&key));
                    self.report
                        .error(at, &self.path, message)
                        .help(format!("the first is on line {line}; remove one of them"));
                }
                None => {
                    lines.insert(key.clone(), at.line);
                    entries.push(MapEntry { key, at, value });
                }
            }
            self.path.0.pop();
        }
    }

    fn copy(&mut self, anchor: usize, at: Position) -> Result<Node, SyntaxError> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(SyntaxError::new(
                at,
                "an alias cannot be inside the value that it names",
                "write the value out",
            ));
        };
        self.spend(at, size(node))?;
        Ok(Node { at, value: self.anchors[&anchor].value.clone() })
    }

    fn spend(&mut self, at: Position, size: Size) -> Result<(), SyntaxError> {
        match (self.budget.nodes.checked_sub(size.nodes), self.budget.text.checked_sub(size.text)) {
            (Some(nodes), Some(text)) => {
                self.budget = Size { nodes, text };
                Ok(())
            }
            _ => Err(SyntaxError::new(
                at,
                "the file has more than 200,000 keys and values, or 4 MiB of text",
                "a value counts each time it is aliased",
            )),
        }
    }
}

/// The number of values and the length of all scalars in a tree, which is what a copy of it costs.
fn size(node: &Node) -> Size {
    let itself = |text: usize| Size { nodes: 1, text };
    match &node.value {
        Value::Null => itself(0),
        Value::Scalar { text, .. } => itself(text.len()),
        Value::List(items) => items.iter().map(size).fold(itself(0), Size::plus),
        Value::Map(entries) => {
            entries.iter().map(|entry| itself(entry.key.len()).plus(size(&entry.value))).fold(itself(0), Size::plus)
        }
    }
}

/// Classifies a scalar. A plain scalar is null in the spellings of YAML 1.2's core schema
/// (§10.3.2).
fn scalar(text: String, style: ScalarStyle) -> Value {
    let plain = style == ScalarStyle::Plain;
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
        _ => Value::Scalar { text, plain },
    }
}

fn start(span: &Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

fn unexpected(event: &Event<'_>, span: &Span) -> SyntaxError {
    let message = match event {
        Event::UnresolvedAlias(_) => "no anchor has the name of this alias",
        _ => "this YAML construct is not supported",
    };
    SyntaxError { at: start(span), message: message.into(), help: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn parse_text(text: &str) -> Result<Node, String> {
        let mut report = Report::new(Path::new("f"), text);
        let node = parse(text, &mut report);
        match report.finish().errors.as_slice() {
            [] => Ok(node.expect("no error, so a tree")),
            errors => Err(errors.iter().map(|error| format!("{error}\n")).collect()),
        }
    }

    #[test]
    fn scalars_keep_their_text_and_position() {
        let tree = parse_text("kid: 2026-11\nn: 007\nhex: 0x10\nfloat: 1.10\n").expect("tree");
        for (key, line, column, text) in
            [("kid", 1, 6, "2026-11"), ("n", 2, 4, "007"), ("hex", 3, 6, "0x10"), ("float", 4, 8, "1.10")]
        {
            let entry = tree.entry(key).expect(key);
            assert_eq!(entry.at, Position { line, column: 1 });
            assert_eq!(entry.value.at, Position { line, column });
            assert_eq!(entry.value.value, Value::Scalar { text: text.into(), plain: true });
        }
    }

    #[test]
    fn columns_count_characters() {
        let tree = parse_text("é: {ü: x}").expect("tree");
        assert_eq!(tree.position(&KeyPath::default().key("é").key("ü")), Position { line: 1, column: 8 });
    }

    #[test]
    fn quoted_null_is_a_word() {
        let tree = parse_text("a:\nb: ~\nc: 'null'\n").expect("tree");
        assert_eq!(tree.entry("a").map(|e| (&e.value.value, e.value.at.line)), Some((&Value::Null, 1)));
        assert_eq!(tree.entry("b").map(|e| &e.value.value), Some(&Value::Null));
        assert_eq!(tree.entry("c").map(|e| &e.value.value), Some(&Value::Scalar { text: "null".into(), plain: false }));
    }

    #[test]
    fn duplicate_keys_name_both_lines_and_parsing_continues() {
        let error = parse_text("a: 1\nb: 2\na: 3\nb: 4\n").expect_err("duplicates");
        assert!(error.contains("f:3:1: a: the key `a` appears a second time (the first is on line 1"), "{error}");
        assert!(error.contains("f:4:1: b:"), "{error}");
    }

    #[test]
    fn alias_is_a_copy() {
        let tree = parse_text("a: &x [1, 2]\nb: *x\n").expect("tree");
        assert_eq!(tree.entry("a").map(|e| e.value.to_json()), tree.entry("b").map(|e| e.value.to_json()));
        assert!(parse_text("a: &x [*x]").expect_err("itself").contains("inside the value"));
        assert!(parse_text("a: *nothing").is_err());
    }

    #[test]
    fn unsupported_constructs_are_refused() {
        assert!(parse_text("a: !secret b").expect_err("tag").contains("tags are not supported"));
        assert!(parse_text("a: 1\n---\nb: 2\n").expect_err("documents").contains("second document"));
        assert!(parse_text("x: &x {a: 1}\ny: {<<: *x}\n").expect_err("merge").contains("merge keys are not supported"));
        assert!(parse_text("[a]: 1\n").expect_err("key").contains("must be a plain word"));
        assert!(parse_text("").is_err());
        assert!(parse_text("# nothing\n").is_err());
        assert!(parse_text("a: [1\nb: 2\n").expect_err("syntax").contains("not YAML"));
    }

    #[test]
    fn hostile_files_are_refused_quickly() {
        let nested = "[".repeat(100_000);
        assert!(parse_text(&nested).is_err());
        let blocks: String = (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        assert!(parse_text(&blocks).is_err());
        let mut bomb = String::from("l0: &l0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let aliases = vec![format!("*l{}", level - 1); 9].join(", ");
            bomb.push_str(&format!("l{level}: &l{level} [{aliases}]\n"));
        }
        assert!(parse_text(&bomb).expect_err("bomb").contains("more than 200,000 keys"));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), vec!["*a"; 50_000].join(","));
        assert!(parse_text(&long).expect_err("copies of a long text").contains("more than 200,000 keys"));
        let many = format!("[{}]", "1,".repeat(300_000));
        assert!(parse_text(&many).expect_err("values").contains("more than 200,000 keys"));
    }
}

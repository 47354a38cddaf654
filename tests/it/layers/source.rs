//! Reads the crate's sources as far as the layer tests need them: modules, the paths that they
//! name, and parameters.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One module of the crate, without its tests.
pub(crate) struct Module {
    /// The module's file, relative to `src`.
    pub(crate) file: PathBuf,
    /// The module's code, without comments, strings and test modules.
    pub(super) tokens: Vec<String>,
    /// The names that `use` brings into the module, with their paths as written.
    uses: Vec<Use>,
    /// The other paths in the module, resolved to the level of its file.
    paths: Vec<Vec<String>>,
    children: BTreeSet<String>,
}

struct Use {
    name: String,
    path: Vec<String>,
    /// Whether the module re-exports the name.
    public: bool,
}

/// All modules of the crate by their path. The path of the root is empty.
pub(crate) struct Crate {
    pub(crate) modules: BTreeMap<Vec<String>, Module>,
}

impl Crate {
    /// Reads `src` of this package.
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut modules = BTreeMap::new();
        read_module(&root, &root.join("lib.rs"), Vec::new(), &mut modules);
        Self { modules }
    }

    /// Returns the modules that `module` names other than in re-exports, each with the path that
    /// names it.
    pub(super) fn imports(&self, module: &[String]) -> Vec<(Vec<String>, String)> {
        let source = &self.modules[module];
        let uses = source.uses.iter().filter(|import| !import.public).map(|import| &import.path);
        let named =
            uses.chain(&source.paths).filter_map(|path| Some((self.resolve(module, path, 0)?, path.join("::"))));
        named.collect()
    }

    /// Returns the module whose file defines what `path` means in `module`, or `None` if that is
    /// another crate.
    fn resolve(&self, module: &[String], path: &[String], depth: usize) -> Option<Vec<String>> {
        let mut at = module.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (at, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|first| first == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            first if self.modules[module].children.contains(first) => {}
            _ => return None,
        }
        while let Some(name) = rest.first() {
            let module = self.modules.get(&at)?;
            if module.children.contains(name) {
                at.push(name.clone());
                rest = &rest[1..];
                // Test modules are not read.
                self.modules.get(&at)?;
                continue;
            }
            let reexport = module.uses.iter().find(|import| import.name == *name);
            return match reexport {
                Some(import) if depth < 8 => {
                    let target: Vec<String> = import.path.iter().chain(&rest[1..]).cloned().collect();
                    self.resolve(&at, &target, depth + 1)
                }
                _ => Some(at),
            };
        }
        Some(at)
    }
}

fn read_module(root: &Path, file: &Path, path: Vec<String>, modules: &mut BTreeMap<Vec<String>, Module>) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let tokens = without_tests(&tokens(&text));
    let children = declared_modules(&tokens);
    let directory = if file.ends_with("mod.rs") || file.ends_with("lib.rs") {
        file.parent().expect("a file has a directory").to_owned()
    } else {
        file.with_extension("")
    };
    for child in &children {
        let flat = directory.join(format!("{child}.rs"));
        let nested = directory.join(child).join("mod.rs");
        let path = [&path[..], std::slice::from_ref(child)].concat();
        read_module(root, if flat.exists() { &flat } else { &nested }, path, modules);
    }
    let (uses, paths) = named(&tokens, &children);
    let file = file.strip_prefix(root).expect("below src").to_owned();
    modules.insert(path, Module { file, tokens, uses, paths, children });
}

/// Splits code into names, `::` and single characters. Comments, strings and lifetimes are left
/// out, and a literal becomes `""`.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        match rest {
            ['/', '/', ..] => at += rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => at += rest.windows(2).position(|two| two == ['*', '/']).map_or(rest.len(), |end| end + 2),
            ['r', '"' | '#', ..] | ['b', 'r', '"' | '#', ..] if raw_string(rest).is_some() => {
                at += raw_string(rest).expect("checked");
                tokens.push("\"\"".to_owned());
            }
            ['"', ..] => {
                at += quoted(rest, '"');
                tokens.push("\"\"".to_owned());
            }
            ['\'', '\\', ..] | ['\'', _, '\'', ..] => {
                at += quoted(rest, '\'');
                tokens.push("\"\"".to_owned());
            }
            ['\'', ..] => at += 1 + rest[1..].iter().take_while(|c| is_name(**c)).count(),
            [':', ':', ..] => {
                tokens.push("::".to_owned());
                at += 2;
            }
            ['-', '>', ..] | ['=', '>', ..] => {
                tokens.push(rest[..2].iter().collect());
                at += 2;
            }
            [c, ..] if is_name(*c) => {
                let name: String = rest.iter().take_while(|c| is_name(**c)).collect();
                at += name.chars().count();
                tokens.push(name);
            }
            [c, ..] => {
                if !c.is_whitespace() {
                    tokens.push(c.to_string());
                }
                at += 1;
            }
            [] => unreachable!(),
        }
    }
    tokens
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let start = rest.iter().position(|c| *c != 'b' && *c != 'r')?;
    let hashes = rest[start..].iter().take_while(|c| **c == '#').count();
    if rest.get(start + hashes) != Some(&'"') {
        return None;
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = start + hashes + 1;
    let length = rest[body..].windows(end.len()).position(|window| window == end)?;
    Some(body + length + end.len())
}

/// Removes every item under `#[cfg(test)]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let attribute: Vec<&str> = tokens[at..].iter().take(6).map(String::as_str).collect();
        if matches!(attribute[..], ["#", "[", "cfg", "(", "test", ..] | ["#", "[", "cfg", "(", "all", "("])
            && tokens[at..].iter().take(8).any(|token| token == "test")
        {
            at = item_end(tokens, at);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Returns the index after the item that begins with the attribute at `at`: after its `;`, or after
/// the brace that closes its body.
fn item_end(tokens: &[String], mut at: usize) -> usize {
    while tokens[at] == "#" {
        at = closing(tokens, at + 1) + 1;
    }
    while at < tokens.len() {
        match tokens[at].as_str() {
            ";" => return at + 1,
            "{" => return closing(tokens, at) + 1,
            "(" | "[" => at = closing(tokens, at) + 1,
            _ => at += 1,
        }
    }
    at
}

/// Returns the index of the token that closes the bracket at `at`.
pub(super) fn closing(tokens: &[String], at: usize) -> usize {
    let mut depth = 0;
    for (offset, token) in tokens[at..].iter().enumerate() {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + offset;
        }
    }
    tokens.len() - 1
}

/// Returns the modules that are declared in files of their own.
fn declared_modules(tokens: &[String]) -> BTreeSet<String> {
    let declared = tokens.windows(3).filter(|window| window[0] == "mod" && window[2] == ";");
    declared.map(|window| window[1].clone()).collect()
}

/// Returns what `use` brings in, and every other path from `crate`, `self`, `super` or a child
/// module. In an inline module one `super` is removed for each level, so that all paths are
/// relative to the file.
fn named(tokens: &[String], children: &BTreeSet<String>) -> (Vec<Use>, Vec<Vec<String>>) {
    let (mut uses, mut paths, mut inline, mut at) = (Vec::new(), Vec::new(), Vec::new(), 0);
    while at < tokens.len() {
        inline.retain(|end| at < *end);
        let token = tokens[at].as_str();
        if token == "mod" && tokens.get(at + 2).is_some_and(|open| open == "{") {
            inline.push(closing(tokens, at + 2));
            at += 3;
        } else if token == "use" {
            let end = at + tokens[at..].iter().position(|token| token == ";").expect("a use ends");
            let mut found = Vec::new();
            use_tree(&tokens[at + 1..end], &[], &mut found);
            let public = tokens[..at].last().is_some_and(|last| last == "pub" || last == ")") && inline.is_empty();
            for (name, path) in found {
                if let Some(path) = outward(path, inline.len()) {
                    uses.push(Use { name, path, public });
                }
            }
            at = end + 1;
        } else if is_path_start(tokens, at, children) {
            let mut path = vec![tokens[at].clone()];
            at += 1;
            while tokens.get(at).is_some_and(|token| token == "::")
                && tokens.get(at + 1).is_some_and(|name| name.starts_with(|c: char| c.is_alphabetic() || c == '_'))
            {
                path.push(tokens[at + 1].clone());
                at += 2;
            }
            paths.extend(outward(path, inline.len()));
        } else {
            at += 1;
        }
    }
    (uses, paths)
}

fn is_path_start(tokens: &[String], at: usize, children: &BTreeSet<String>) -> bool {
    let root = matches!(tokens[at].as_str(), "crate" | "self" | "super") || children.contains(&tokens[at]);
    let inside = at > 0 && matches!(tokens[at - 1].as_str(), "::" | ".");
    let visibility = at > 2 && tokens[at - 1] == "in" && tokens[at - 2] == "(" && tokens[at - 3] == "pub";
    root && !inside && !visibility && tokens.get(at + 1).is_some_and(|next| next == "::")
}

/// Converts a path in an inline module to one in its file, or returns `None` if it stays inside.
fn outward(mut path: Vec<String>, levels: usize) -> Option<Vec<String>> {
    if levels == 0 || path.first().is_some_and(|first| first == "crate") {
        return Some(path);
    }
    let up = path.iter().take_while(|name| *name == "super").count();
    if up < levels {
        return None;
    }
    path.drain(..levels);
    if up == levels {
        path.insert(0, "self".to_owned());
    }
    Some(path)
}

fn use_tree(tokens: &[String], prefix: &[String], found: &mut Vec<(String, Vec<String>)>) {
    let mut path = prefix.to_vec();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "::" => at += 1,
            "{" => {
                let inner = &tokens[at + 1..closing(tokens, at)];
                for branch in branches(inner) {
                    use_tree(branch, &path, found);
                }
                return;
            }
            "as" => {
                found.push((tokens[at + 1].clone(), path));
                return;
            }
            "self" if !path.is_empty() => at += 1,
            name => {
                path.push(name.to_owned());
                at += 1;
            }
        }
    }
    if let Some(name) = path.last().cloned() {
        if name == "*" {
            path.pop();
        }
        found.push((name, path));
    }
}

/// Splits at the commas outside of brackets.
pub(super) fn branches(tokens: &[String]) -> Vec<&[String]> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "(" | "[" | "{" | "<" => depth += 1,
            ")" | "]" | "}" | ">" => depth -= 1,
            "," if depth == 0 => {
                parts.push(&tokens[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tokens[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}

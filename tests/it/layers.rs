//! Enforces the layout in the crate's documentation: layers, no import cycles, no tuple parameters.
mod source;

pub(crate) use source::Crate;
use source::{Module, branches, closing};
use std::collections::{BTreeMap, BTreeSet};

/// Each module, its layer, and what it may import from its own layer.
const LAYERS: &[(&str, u8, &[&str])] = &[
    ("clock", 0, &[]),
    ("egress_proxy", 0, &["host", "secret"]),
    ("host", 0, &[]),
    ("http_server", 0, &["sync", "tasks", "telemetry"]),
    ("listen", 0, &[]),
    ("secret", 0, &[]),
    ("single_flight", 0, &["clock", "sync"]),
    ("sync", 0, &[]),
    ("tasks", 0, &[]),
    ("telemetry", 0, &["sync"]),
    ("jose", 1, &[]),
    ("assertion", 1, &[]),
    ("identity", 2, &[]),
    ("tls", 2, &["identity"]),
    ("issuer", 3, &[]),
    ("exchange", 3, &["issuer"]),
    ("token", 3, &["exchange", "issuer"]),
    ("policy", 4, &[]),
    ("proxy", 4, &["policy"]),
    ("admin", 4, &["policy", "proxy"]),
    ("config", 5, &[]),
    ("app", 5, &["config"]),
    ("cli", 5, &["app", "config", "dev", "kubernetes"]),
];

/// Modules outside the layers, and everything that each may import. `dev` must not check our
/// assertions with the code that made them; `kubernetes` puts the proxy into pods and shares none
/// of its code.
const NEIGHBOURS: &[(&str, &[&str])] = &[
    ("dev", &["clock", "secret", "sync", "tasks"]),
    ("kubernetes", &["clock", "http_server", "listen", "sync", "tasks", "telemetry"]),
];

#[test]
fn modules_import_only_what_their_layer_allows() {
    let layers: BTreeMap<&str, (u8, &[&str])> =
        LAYERS.iter().map(|(name, layer, peers)| (*name, (*layer, *peers))).collect();
    let sources = Crate::read();
    let mut wrong = BTreeSet::new();
    for (path, module) in sources.modules.iter().filter(|(path, _)| !path.is_empty()) {
        let own = path[0].as_str();
        for (imported, _) in sources.imports(path) {
            let Some(imported) = imported.first().filter(|imported| *imported != own) else { continue };
            let neighbour = NEIGHBOURS.iter().find(|(name, _)| *name == own);
            let allowed = match layers.get(own) {
                _ if neighbour.is_some() => neighbour.is_some_and(|(_, all)| all.contains(&imported.as_str())),
                Some((_, peers)) if peers.contains(&imported.as_str()) => true,
                Some((layer, _)) => layers.get(imported.as_str()).is_some_and(|(below, _)| below < layer),
                None => false,
            };
            if !allowed {
                wrong.insert(format!("{} imports crate::{imported}", module.file.display()));
            }
        }
    }
    let unknown = sources.modules.keys().filter_map(|path| path.first());
    wrong.extend(
        unknown
            .filter(|name| !layers.contains_key(name.as_str()) && !NEIGHBOURS.iter().any(|(other, _)| other == name))
            .map(|name| format!("module `{name}` has no layer")),
    );
    assert!(wrong.is_empty(), "imports that the layers do not allow:\n{}", joined(wrong));
}

#[test]
fn files_of_a_folder_do_not_import_in_cycles() {
    let sources = Crate::read();
    let mut folders: BTreeMap<&[String], ImportGraph> = BTreeMap::new();
    for path in sources.modules.keys() {
        for (imported, by) in sources.imports(path) {
            let shared = path.iter().zip(&imported).take_while(|(own, other)| own == other).count();
            let entry = |path: &[String]| path.get(shared).map_or("mod", String::as_str).to_owned();
            let (from, to) = (entry(path), entry(&imported));
            if from != to {
                let why = format!("{} names {by}", sources.modules[path].file.display());
                folders.entry(&path[..shared]).or_default().entry(from).or_default().insert(to, why);
            }
        }
    }
    let mut wrong = BTreeSet::new();
    for (folder, imports) in &folders {
        for cycle in import_cycles(imports) {
            let names: Vec<String> = cycle.iter().map(|name| [&folder.join("/"), "/", name].concat()).collect();
            let why = cycle.iter().flat_map(|from| &imports[from]).filter(|(to, _)| cycle.contains(*to));
            wrong.insert(format!(
                "{}\n    {}",
                names.join(" <-> "),
                why.map(|(_, why)| why.as_str()).collect::<Vec<_>>().join("\n    ")
            ));
        }
    }
    assert!(wrong.is_empty(), "files that import each other:\n{}", joined(wrong));
}

/// What the entries of a folder import from each other, each with an example. `mod` is the folder's
/// own file.
type ImportGraph = BTreeMap<String, BTreeMap<String, String>>;

/// Returns the strongly connected components: the sets of entries that all import each other,
/// directly or through others.
fn import_cycles(imports: &ImportGraph) -> Vec<BTreeSet<String>> {
    let reach = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            for to in imports.get(at).into_iter().flat_map(BTreeMap::keys) {
                if seen.insert(to.clone()) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> = imports.keys().map(|from| (from, reach(from))).collect();
    let own = |from: &String| -> BTreeSet<String> {
        let back = |to: &&String| reached.get(to).is_some_and(|there| there.contains(from));
        reached[from].iter().filter(back).cloned().collect()
    };
    let all: BTreeSet<BTreeSet<String>> = imports.keys().map(own).filter(|cycle| !cycle.is_empty()).collect();
    all.into_iter().collect()
}

#[test]
fn parameters_are_not_tuples() {
    let mut wrong = BTreeSet::new();
    let sources = Crate::read();
    for module in sources.modules.values() {
        wrong.extend(tuples(module).into_iter().map(|what| format!("{}: {what}", module.file.display())));
    }
    assert!(wrong.is_empty(), "tuples in signatures; use a struct or separate parameters:\n{}", joined(wrong));
}

/// Returns the parameters of functions and of function types that are tuples, and the aliases of
/// tuples.
fn tuples(module: &Module) -> Vec<String> {
    let tokens = &module.tokens;
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        match tokens[at].as_str() {
            "fn" | "Fn" | "FnMut" | "FnOnce" => {
                let Some(open) = parameter_list_start(tokens, at) else { continue };
                for parameter in branches(&tokens[open + 1..closing(tokens, open)]) {
                    let declared = if tokens[at] == "fn" && open > at + 1 { type_of(parameter) } else { parameter };
                    if is_tuple(declared) {
                        found.push(format!(
                            "{} {}(… {} …)",
                            tokens[at],
                            if open > at + 1 { &tokens[at + 1] } else { "" },
                            declared.concat()
                        ));
                    }
                }
            }
            "type" => {
                let end = at + tokens[at..].iter().position(|token| token == ";").unwrap_or(0);
                if let Some(equals) = tokens[at..end].iter().position(|token| token == "=")
                    && is_tuple(&tokens[at + equals + 1..end])
                {
                    found.push(format!("type {} = {}", tokens[at + 1], tokens[at + equals + 1..end].concat()));
                }
            }
            _ => {}
        }
    }
    found
}

/// Returns the index at which the parameter list of the function or function type at `at` begins.
fn parameter_list_start(tokens: &[String], at: usize) -> Option<usize> {
    let mut depth = 0;
    for (offset, token) in tokens[at + 1..].iter().enumerate() {
        match token.as_str() {
            "(" if depth == 0 => return Some(at + 1 + offset),
            "<" => depth += 1,
            ">" => depth -= 1,
            ";" | "{" | "," | ")" if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Returns the tokens of a parameter's type.
fn type_of(parameter: &[String]) -> &[String] {
    let mut depth = 0;
    for (at, token) in parameter.iter().enumerate() {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            ":" if depth == 0 => return &parameter[at + 1..],
            _ => {}
        }
    }
    &[]
}

fn is_tuple(declared: &[String]) -> bool {
    let start = declared.iter().position(|token| token != "&" && token != "mut").unwrap_or(0);
    declared.get(start).is_some_and(|token| token == "(")
        && closing(declared, start) == declared.len() - 1
        && declared[start + 1..].iter().any(|token| token == ",")
        && branches(&declared[start + 1..declared.len() - 1]).len() > 1
}

fn joined(lines: BTreeSet<String>) -> String {
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

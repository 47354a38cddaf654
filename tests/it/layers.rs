//! Holds the layers of the crate's documentation: no import upward, and sideways only where the table says so.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Module, layer, and what it may import of its own layer.
const LAYERS: &[(&str, u8, &[&str])] = &[
    ("clock", 0, &[]),
    ("listen", 0, &[]),
    ("secret", 0, &[]),
    ("tasks", 0, &[]),
    ("telemetry", 0, &[]),
    ("assertion", 1, &[]),
    ("identity", 2, &[]),
    ("tls", 2, &["identity"]),
    ("exchange", 3, &[]),
    ("token", 3, &["exchange"]),
    ("policy", 4, &[]),
    ("proxy", 4, &["policy"]),
    ("admin", 4, &["policy", "proxy"]),
    ("config", 5, &[]),
    ("app", 5, &["config"]),
    ("kubernetes", 5, &["config"]),
    ("cli", 5, &["app", "config", "dev", "kubernetes"]),
];

/// It must not check our assertions with the code that made them.
const DEV: (&str, &[&str]) = ("dev", &["clock", "secret", "tasks"]);

#[test]
fn no_module_imports_upward() {
    let layers: BTreeMap<&str, (u8, &[&str])> =
        LAYERS.iter().map(|(name, layer, peers)| (*name, (*layer, *peers))).collect();
    let mut wrong = Vec::new();
    for (module, file, imports) in sources() {
        for import in imports {
            let allowed = if module == import {
                true
            } else if module == DEV.0 {
                DEV.1.contains(&import.as_str())
            } else {
                let Some((own, peers)) = layers.get(module.as_str()) else {
                    wrong.push(format!("{}: module `{module}` has no layer", file.display()));
                    continue;
                };
                peers.contains(&import.as_str()) || layers.get(import.as_str()).is_some_and(|(layer, _)| layer < own)
            };
            if !allowed {
                wrong.push(format!("{} imports crate::{import}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the layers:\n{}", wrong.join("\n"));
}

/// Every source file with its top-level module and the modules that it imports outside tests.
fn sources() -> Vec<(String, PathBuf, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let described = files.into_iter().filter_map(|file| {
        let relative = file.strip_prefix(&root).ok()?.to_owned();
        let module = relative.components().next()?.as_os_str().to_str()?.trim_end_matches(".rs").to_owned();
        let test = relative.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing")
            || relative.components().any(|part| part.as_os_str() == "tests");
        if test || module == "lib" || module == "main" {
            return None;
        }
        let text = std::fs::read_to_string(&file).expect("a source file");
        Some((module, relative, imports(&text)))
    });
    described.collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("src").map(|entry| entry.expect("entry").path()) {
        if entry.is_dir() {
            collect(&entry, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
}

fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut found = Vec::new();
    for line in lines {
        assert!(
            !line.contains("crate::{"),
            "one `use crate::module` a line, so that this test sees every import: {line}"
        );
        for (at, _) in line.match_indices("crate::") {
            let name: String = line[at + 7..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if name.starts_with(|c: char| c.is_ascii_lowercase()) {
                found.push(name);
            }
        }
    }
    found
}

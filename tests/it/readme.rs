//! What the README and the examples show is what the program takes.
use idjag_proxy::config::{Overrides, load};
use std::path::Path;

#[test]
fn every_configuration_in_the_readme_loads() {
    let readme = include_str!("../../README.md");
    let blocks: Vec<&str> = readme.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty());
    let directory = tempfile::tempdir().expect("a directory");
    for block in blocks {
        let file = directory.path().join("readme.yaml");
        std::fs::write(&file, block).expect("written");
        if let Err(problems) = load(&file, &socket, &Overrides::default()) {
            panic!("{problems}\nin:\n{block}");
        }
    }
}

#[test]
fn the_files_that_the_readme_names_exist() {
    let readme = include_str!("../../README.md");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for target in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(
            target.starts_with("http") || root.join(target).exists(),
            "README links to {target}, which is not there"
        );
    }
}

fn socket(name: &str) -> Option<String> {
    (name == "SPIFFE_ENDPOINT_SOCKET").then(|| "unix:///run/spire/agent.sock".to_owned())
}

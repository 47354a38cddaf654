//! Checks which crates are in the binary, and their licences. Advisories need a network and are not
//! checked here; `cargo deny check` with `.deny.toml` does that where there is one.
use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, Node, PackageId};
use std::collections::BTreeSet;

/// Crates that must not be built: a second crypto provider, OpenSSL, RustCrypto RSA
/// (RUSTSEC-2023-0071), abandoned YAML crates.
const BANNED: &[&str] =
    &["ring", "openssl", "openssl-sys", "native-tls", "rsa", "serde_yml", "libyml", "yaml-rust", "chrono"];

const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "ISC",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "0BSD",
];

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    // The graph also contains crates for other platforms, which a build for this one has not
    // fetched.
    command.features(CargoOpt::AllFeatures).other_options(["--locked".to_owned()]);
    command.exec().expect("cargo metadata")
}

/// The packages that are built into the binary or needed to build it, without those that only tests
/// use.
fn shipped(metadata: &Metadata) -> BTreeSet<PackageId> {
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let root = resolve.root.clone().expect("a root package");
    let (mut seen, mut next) = (BTreeSet::new(), vec![root]);
    while let Some(id) = next.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        let node = resolve.nodes.iter().find(|node| node.id == id).expect("every package has a node");
        let used = node
            .deps
            .iter()
            .filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development))
            .filter(|dep| is_on(metadata, node, &dep.pkg));
        next.extend(used.map(|dep| dep.pkg.clone()));
    }
    seen
}

/// Whether this dependency is built. The graph also contains optional dependencies that are only
/// named by a feature of the form `name?/feature`, such as rustls-webpki's `ring?/alloc`, because
/// they are in the lock file. `cargo tree` leaves those out.
fn is_on(metadata: &Metadata, node: &Node, dependency: &PackageId) -> bool {
    let package = &metadata[&node.id];
    let target = &metadata[dependency].name;
    let mut declared = package.dependencies.iter().filter(|declared| declared.name == target.as_str());
    declared.any(|declared| {
        let name = declared.rename.as_deref().unwrap_or(&declared.name);
        let switches = |value: &String| {
            value == name || value.strip_prefix("dep:") == Some(name) || value.split('/').next() == Some(name)
        };
        let values = node.features.iter().filter_map(|feature| package.features.get(feature.as_str())).flatten();
        !declared.optional
            || node.features.iter().any(|feature| feature.as_str() == name)
            || values.into_iter().any(switches)
    })
}

#[test]
fn optional_crate_counts_if_a_feature_enables_it() {
    let metadata = metadata();
    let (node, on) = metadata
        .resolve
        .iter()
        .flat_map(|resolve| &resolve.nodes)
        .find_map(|node| {
            let aws = node.deps.iter().find(|dep| dep.name == "aws_lc_rs")?;
            (metadata[&node.id].name.as_str() == "rustls-webpki").then_some((node, &aws.pkg))
        })
        .expect("rustls-webpki with aws-lc-rs");
    assert!(is_on(&metadata, node, on));
}

#[test]
fn no_banned_crate_is_built() {
    let metadata = metadata();
    let shipped = shipped(&metadata);
    let names = metadata
        .packages
        .iter()
        .filter(|package| shipped.contains(&package.id))
        .map(|package| package.name.to_string());
    let banned: Vec<String> = names.filter(|name| BANNED.contains(&name.as_str())).collect();
    assert!(banned.is_empty(), "banned: {banned:?}");
}

#[test]
fn every_licence_is_allowed() {
    let metadata = metadata();
    let shipped = shipped(&metadata);
    let wrong: Vec<String> = metadata
        .packages
        .iter()
        .filter(|package| shipped.contains(&package.id))
        .filter(|package| !package.license.as_deref().is_some_and(allowed))
        .map(|package| format!("{}: {:?}", package.name, package.license))
        .collect();
    assert!(wrong.is_empty(), "licences:\n{}", wrong.join("\n"));
}

/// Whether some alternative of an SPDX expression consists of allowed licences only. At most one
/// pair of brackets is supported.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let all = |text: &str| text.split(" AND ").all(|part| LICENCES.contains(&part.trim().trim_matches(['(', ')'])));
    if let Some((bracket, rest)) = expression.strip_prefix('(').and_then(|text| text.split_once(") AND ")) {
        return bracket.split(" OR ").any(all) && all(rest);
    }
    if let Some((first, rest)) = expression.split_once(" AND (") {
        return all(first) && rest.trim_end_matches(')').split(" OR ").any(all);
    }
    expression.split(" OR ").any(all)
}

#[test]
fn licence_expressions_are_evaluated() {
    assert!(allowed("MIT OR GPL-3.0"));
    assert!(allowed("MIT/Apache-2.0"));
    assert!(allowed("ISC AND (Apache-2.0 OR ISC)"));
    assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(!allowed("GPL-3.0"));
    assert!(!allowed("MIT AND GPL-3.0"));
}

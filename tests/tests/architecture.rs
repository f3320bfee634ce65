//! This tree keeps the rules of the house (docs/architecture.md, CONTRIBUTING.md).
//!
//! The rules themselves, each with samples that break it, are in `src/house/`.

use cargo_metadata::{Metadata, MetadataCommand};
use taimatsu_tests::house::{
    Breach, Kind, Source, arrows, code, pure, read_tree, shape, workspace_root,
};

/// What the manifests say; needs no network and nothing downloaded.
fn metadata() -> Metadata {
    let manifest = workspace_root().join("Cargo.toml");
    MetadataCommand::new()
        .manifest_path(manifest)
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .unwrap_or_else(|error| panic!("cargo metadata: {error}"))
}

fn sources() -> Vec<Source> {
    let sources = read_tree(&workspace_root()).unwrap_or_else(|error| panic!("{error}"));
    // An empty list would keep every rule.
    assert!(sources.iter().any(|source| source.path == "protocol/src/lib.rs"));
    assert!(sources.iter().any(|source| source.kind == Kind::TestModule));
    sources
}

fn none(rule: &str, breaches: impl IntoIterator<Item = Breach>) {
    let lines: Vec<String> = breaches.into_iter().map(|breach| format!("  {breach}\n")).collect();
    assert!(lines.is_empty(), "{rule}:\n{}", lines.concat());
}

#[test]
fn every_dependency_is_an_arrow() {
    let dependencies = arrows::of(&metadata());
    assert!(dependencies.iter().any(|(package, on)| package == "taimatsu-peer" && on.len() >= 3));
    none("packages that know more than they may", arrows::breaches(&dependencies));
}

#[test]
fn pure_crates_depend_on_nothing_impure() {
    none("a decision is pure; IO is at the edges", pure::dependencies(&metadata()));
}

#[test]
fn pure_crates_name_nothing_impure() {
    none("a decision is pure; IO is at the edges", sources().iter().flat_map(pure::names));
}

#[test]
fn files_are_short() {
    none("a file is read in one sitting", sources().iter().flat_map(shape::file_length));
}

#[test]
fn functions_are_short() {
    none("a function is seen at once", sources().iter().flat_map(shape::function_lengths));
}

#[test]
fn files_are_named_by_duty() {
    none("a name says what is inside", sources().iter().flat_map(shape::name));
}

#[test]
fn files_say_what_they_are_for() {
    none("a file begins with its doc", sources().iter().flat_map(code::module_doc));
}

#[test]
fn nobody_writes_what_nobody_writes() {
    none("words that are not written here", sources().iter().flat_map(code::breaches));
}

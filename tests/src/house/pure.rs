//! What a pure crate may not know: no runtime, no clock, no entropy, no file, no socket, and no map
//! whose order changes from run to run. `now` and a seeded rng are arguments.

use cargo_metadata::{DependencyKind, Metadata};

use super::tokens::{Mention, mentions};
use super::{Breach, Source};

/// The pure crates, by folder.
pub const PURE: [&str; 6] = [
    "protocol",
    "crates/routing",
    "crates/session",
    "crates/peer",
    "crates/placement",
    "crates/reputation",
];

/// Packages that bring IO, a runtime or entropy; a name that begins so is one too.
const IMPURE_PACKAGES: [&str; 16] = [
    "tokio",
    "futures",
    "async-",
    "libp2p",
    "candle",
    "getrandom",
    "rand",
    "mio",
    "socket2",
    "reqwest",
    "hyper",
    "memmap2",
    "tempfile",
    "rayon",
    "tracing",
    "crossbeam",
];

/// The traits, and a generator that knows nothing but the seed that its caller gives.
const PURE_PACKAGES: [&str; 2] = ["rand_core", "rand_chacha"];

/// Names that stand for a clock, entropy or an unordered map, however they came here.
const IMPURE_NAMES: [&str; 11] = [
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "RandomState",
    "OsRng",
    "SysRng",
    "ThreadRng",
    "thread_rng",
    "from_os_rng",
    "from_entropy",
];

/// Paths that lead out of a pure crate.
const IMPURE_PATHS: [&str; 10] = [
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "std::process",
    "std::io",
    "std::os",
    "rand::rng",
    "tokio",
    "futures",
];

/// Whether the file ships in a pure crate.
#[must_use]
pub fn is_pure(path: &str) -> bool {
    PURE.iter().any(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')))
}

/// What a pure crate's source names that it may not.
#[must_use]
pub fn names(source: &Source) -> Vec<Breach> {
    if !is_pure(&source.path) {
        return Vec::new();
    }
    let mentions = mentions(&source.shipped);
    let wrong = mentions.iter().filter(|mention| is_impure(mention));
    wrong
        .map(|mention| {
            let what = format!("a pure crate names `{}`", mention.text());
            source.breach(mention.line, what)
        })
        .collect()
}

fn is_impure(mention: &Mention) -> bool {
    let package = mention.segments.first().is_some_and(|first| {
        let crates = ["libp2p", "candle", "getrandom", "tokio", "futures"];
        // A variant or a field may be called so; a path begins with it.
        mention.segments.len() > 1 && crates.iter().any(|name| first.starts_with(name))
    });
    package
        || IMPURE_NAMES.iter().any(|name| mention.has(name))
        || IMPURE_PATHS.iter().any(|path| mention.segments.len() > 1 && mention.begins(path))
}

/// What a pure crate depends on that it may not, tests aside.
#[must_use]
pub fn dependencies(metadata: &Metadata) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for package in metadata.workspace_packages() {
        let manifest = package.manifest_path.strip_prefix(&metadata.workspace_root);
        let Ok(manifest) = manifest else { continue };
        if !is_pure(&manifest.as_str().replace('\\', "/")) {
            continue;
        }
        for dependency in &package.dependencies {
            if dependency.kind != DependencyKind::Development && is_impure_package(&dependency.name)
            {
                let what = format!("a pure crate depends on `{}`", dependency.name);
                breaches.push(Breach { place: package.name.to_string(), line: 0, what });
            }
        }
    }
    breaches
}

fn is_impure_package(name: &str) -> bool {
    !PURE_PACKAGES.contains(&name) && IMPURE_PACKAGES.iter().any(|bad| name.starts_with(bad))
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        names(&Source::parse(path, text, Kind::Shipped).unwrap()).len()
    }

    #[test]
    fn what_leads_out_is_found_in_every_form() {
        for text in [
            "use tokio::sync::mpsc;",
            "use futures::Stream;",
            "fn a(peer: libp2p::PeerId) {}",
            "use candle_core::Tensor;",
            "use std::time::{Duration, Instant};",
            "fn a() { let _ = std::time::SystemTime::now(); }",
            "use std::{fmt, fs};",
            "fn a() { println!(\"{:?}\", std::env::args()); }",
            "use std::net::SocketAddr;",
            "fn a() { std::thread::yield_now(); }",
            "use std::collections::{BTreeMap, HashMap};",
            "fn a() { getrandom::fill(&mut [0]).ok(); }",
            "fn a() { let r = rand::rng(); }",
            "use rand_core::OsRng;",
        ] {
            assert_eq!(found("crates/peer/src/x.rs", text), 1, "{text}");
            assert_eq!(found("crates/network/src/x.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn words_and_test_code_are_not_code_that_ships() {
        for text in [
            "// std::fs and tokio\nconst A: &str = \"HashMap\";",
            "enum N { Candle }\nfn f() -> N { N::Candle }",
            "use std::time::Duration;\nuse std::collections::BTreeMap;",
            "#[cfg(test)]\nmod tests { use std::collections::HashSet; }",
            "fn to_libp2p(futures: u32) -> u32 { futures }",
        ] {
            assert_eq!(found("protocol/src/x.rs", text), 0, "{text}");
        }
        assert!(!is_pure("protocols/src/x.rs") && is_pure("protocol/src/x.rs"));
    }

    #[test]
    fn packages_are_judged_by_how_their_names_begin() {
        for name in ["tokio-util", "libp2p-stream", "candle-core", "rand", "rand_distr", "futures"]
        {
            assert!(is_impure_package(name), "{name}");
        }
        for name in ["rand_core", "rand_chacha", "bytes", "thiserror", "taimatsu-session", "hpke"] {
            assert!(!is_impure_package(name), "{name}");
        }
    }
}

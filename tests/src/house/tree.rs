//! Every file of source in a tree, read from disk: also what no manifest names yet.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Breach, Kind, Source};

/// Why a tree is not read.
#[derive(Debug)]
pub enum TreeError {
    /// A folder or file cannot be read.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not Rust.
    Source(Breach),
}

impl std::fmt::Display for TreeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io { path, .. } => write!(f, "cannot read {}", path.display()),
            Self::Source(breach) => breach.fmt(f),
        }
    }
}

impl std::error::Error for TreeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Source(_) => None,
        }
    }
}

/// The root of the workspace that this package belongs to.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}

/// Every `.rs` under `root`, in order; build folders and hidden ones aside.
///
/// # Errors
/// Something cannot be read, or is not Rust.
pub fn read_tree(root: &Path) -> Result<Vec<Source>, TreeError> {
    let mut paths = Vec::new();
    collect(root, root, &mut paths)?;
    paths.sort();
    let mut sources = Vec::new();
    for path in paths {
        let full = root.join(&path);
        let text =
            fs::read_to_string(&full).map_err(|source| TreeError::Io { path: full, source })?;
        sources.push(Source::parse(&path, &text, kind(&path)).map_err(TreeError::Source)?);
    }
    mark_test_modules(sources)
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<String>) -> Result<(), TreeError> {
    let failed = |source| TreeError::Io { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || (name == "target" && folder == root) {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root).unwrap_or(&path);
            found.push(relative.to_string_lossy().replace('\\', "/"));
        }
    }
    Ok(())
}

/// The package `tests` lies in a folder of that name, and is not therefore all tests.
fn kind(path: &str) -> Kind {
    let inner = path.strip_prefix("tests/").unwrap_or(path);
    let apart = inner.split('/').any(|part| ["tests", "benches", "examples"].contains(&part));
    if apart { Kind::Integration } else { Kind::Shipped }
}

/// Reads the files again that a parent declares for tests only, as what they are.
fn mark_test_modules(sources: Vec<Source>) -> Result<Vec<Source>, TreeError> {
    let mut tests = Vec::new();
    for source in &sources {
        let stem = source.path.strip_suffix(".rs").unwrap_or(&source.path);
        let (folder, file) = stem.rsplit_once('/').unwrap_or(("", stem));
        let inside = if ["lib", "main", "mod"].contains(&file) { folder } else { stem };
        tests.extend(source.test_modules().iter().map(|name| format!("{inside}/{name}.rs")));
    }
    let again = sources.into_iter().map(|source| match source.kind {
        Kind::Shipped if tests.contains(&source.path) => {
            Source::parse(&source.path, &source.text, Kind::TestModule).map_err(TreeError::Source)
        }
        _ => Ok(source),
    });
    again.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_place_and_its_parent_say() {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("a/src/lib.rs", "#[cfg(test)]\nmod cases;\nmod pull;"),
            ("a/src/cases.rs", ""),
            ("a/src/pull.rs", "#[cfg(test)]\nmod tests;"),
            ("a/src/pull/tests.rs", ""),
            ("a/tests/b.rs", ""),
            ("tests/src/lib.rs", ""),
            ("tests/tests/c.rs", ""),
            ("target/d.rs", "fn {"),
            (".git/e.rs", "fn {"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let sources = read_tree(root.path()).unwrap();
        let found: Vec<_> = sources.iter().map(|s| (s.path.as_str(), s.kind)).collect();
        assert_eq!(
            found,
            [
                ("a/src/cases.rs", Kind::TestModule),
                ("a/src/lib.rs", Kind::Shipped),
                ("a/src/pull.rs", Kind::Shipped),
                ("a/src/pull/tests.rs", Kind::TestModule),
                ("a/tests/b.rs", Kind::Integration),
                ("tests/src/lib.rs", Kind::Shipped),
                ("tests/tests/c.rs", Kind::Integration),
            ]
        );
    }
}

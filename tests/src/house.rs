//! The rules of the house, as functions from source to breaches.
//!
//! Prose rules are kept until the first hurry. These are kept always: [`arrows`] says which package
//! may know which, [`pure`] what a pure crate may not name, [`code`] what nobody may write,
//! [`shape`] how long and how named things are. Each is a function from a [`Source`] (or from the
//! workspace's metadata) to a list of [`Breach`]es, so that a test can hand it a bad sample and see
//! that it is able to fail.
//!
//! Code is judged by its tokens, never by its text: a word in a comment or in a string is nobody's
//! dependency. What stands under `#[cfg(test)]` is test code; so is every file under `tests/` or
//! `benches/`, and every file that its parent declares as `#[cfg(test)] mod name;`.

use std::fmt;

pub mod arrows;
pub mod code;
pub mod pure;
pub mod shape;
mod source;
mod tokens;
mod tree;

pub use source::{Kind, Source};
pub use tree::{TreeError, read_tree, workspace_root};

/// A place where a rule is broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Breach {
    /// The file (or package), from the root of the workspace.
    pub place: String,
    /// The line, or 0 where the whole is meant.
    pub line: usize,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.place, self.what),
            line => write!(f, "{}:{line}: {}", self.place, self.what),
        }
    }
}

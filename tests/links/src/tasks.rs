//! What the command runs: each task measures, says what it saw, and whether it is enough.

mod asking;
mod check;
mod lap;
mod short;
mod whole_host;

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::bench::BenchError;

pub use check::check;
pub use lap::lap;
pub use short::short;
pub use whole_host::whole_host;

/// What every task is given.
#[derive(Debug, Clone)]
pub struct Means {
    /// The program `taimatsu`, or the tests' build of it.
    pub program: PathBuf,
    /// The store that has the model.
    pub models: PathBuf,
    /// A directory to write in.
    pub root: PathBuf,
}

/// Why a task has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// There is no bench.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// A socket failed.
    #[error("measuring the way between {from} and {to}")]
    Measuring {
        /// From whom.
        from: String,
        /// To whom.
        to: String,
        /// Why.
        source: io::Error,
    },
    /// The swarm did not answer.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// It gave other tokens.
    #[error("{0} answers {1:?}, one node {2:?}")]
    OtherTokens(String, Vec<u64>, Vec<u64>),
}

/// What a task saw.
#[derive(Debug, Default)]
pub struct Outcome {
    /// By their keys.
    figures: Map<String, Value>,
    /// What is not as it should be.
    misses: Vec<String>,
}

impl Outcome {
    fn figure(&mut self, key: &str, value: impl Into<Value>) {
        self.figures.insert(key.to_owned(), value.into());
    }

    /// A ratio that must be at least this.
    fn bar(&mut self, key: &str, value: f64, least: f64) {
        self.figure(key, rounded(value));
        self.figure(&format!("{key}_bar"), least);
        if value < least {
            self.misses.push(format!("{key} is {value:.3}, the bar is {least}"));
        }
    }

    fn miss(&mut self, what: String) {
        self.misses.push(what);
    }

    /// As one object.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut all = self.figures.clone();
        all.insert("schema_version".to_owned(), json!(1));
        all.insert("misses".to_owned(), json!(self.misses));
        Value::Object(all)
    }

    /// What is not as it should be.
    #[must_use]
    pub fn misses(&self) -> &[String] {
        &self.misses
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

//! `models.json`: which names stand for which files.

use std::ops::Deref;
use std::path::Path;

use serde::{Deserialize, Serialize};
use taimatsu_protocol::ModelId;

use super::StoreError;
use super::files::file_error;
use crate::whole_file;

/// A model as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The names that stand for it.
    pub names: Vec<String>,
    /// What it is.
    pub id: ModelId,
    /// The size of its file.
    pub bytes: u64,
    /// Its licence, where somebody said it.
    pub license: Option<String>,
    /// Where it came from.
    pub source: String,
}

/// Names that a model can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    /// Checks them.
    ///
    /// # Errors
    /// One is no name.
    pub fn new(names: &[&str]) -> Result<Self, StoreError> {
        match names.iter().find(|name| !is_name(name)) {
            Some(name) => Err(StoreError::BadName(name.chars().take(80).collect())),
            None => Ok(Self(names.iter().map(|name| (*name).to_owned()).collect())),
        }
    }
}

impl Deref for Names {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Index {
    schema_version: u32,
    models: Vec<Record>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) names: Vec<String>,
    pub(super) id: String,
    pub(super) sha256: String,
    pub(super) bytes: u64,
    pub(super) license: Option<String>,
    pub(super) source: String,
}

/// The longest `models.json` that is read, in bytes.
const MAX_INDEX: u64 = 16 << 20;

/// Of `models.json` as this program writes it.
const SCHEMA_VERSION: u32 = 1;

impl Record {
    pub(super) fn listed(&self) -> Result<Listed, StoreError> {
        Ok(Listed {
            names: self.names.clone(),
            id: self.id.parse()?,
            bytes: self.bytes,
            license: self.license.clone(),
            source: self.source.clone(),
        })
    }

    fn is(&self, name_or_id: &str) -> bool {
        self.id == name_or_id || self.names.iter().any(|name| name == name_or_id)
    }
}

impl Index {
    pub(super) fn read(path: &Path) -> Result<Self, StoreError> {
        let text = match whole_file::read(path, MAX_INDEX) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { schema_version: SCHEMA_VERSION, models: Vec::new() });
            }
            Err(error) => return Err(file_error("read", path)(error)),
        };
        let wrong = |source| StoreError::Index { path: path.to_owned(), source };
        let index: Self = serde_json::from_slice(&text).map_err(wrong)?;
        if index.schema_version > SCHEMA_VERSION {
            let version = index.schema_version;
            return Err(StoreError::Newer { path: path.to_owned(), version });
        }
        let hex = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if index.models.iter().any(|record| !hex(&record.sha256)) {
            // It becomes a file's name.
            return Err(wrong(serde::de::Error::custom("a sha256 is not 64 hexadecimal digits")));
        }
        Ok(index)
    }

    pub(super) fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self);
        json.expect("names, numbers and lists have a JSON form")
    }

    pub(super) fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let mut list =
            self.models.iter().map(Record::listed).collect::<Result<Vec<_>, StoreError>>()?;
        list.sort_by(|a, b| a.names.cmp(&b.names));
        Ok(list)
    }

    pub(super) fn find(&self, name_or_id: &str) -> Option<&Record> {
        self.models.iter().find(|record| record.is(name_or_id))
    }

    pub(super) fn find_file(&self, sha256: &str) -> Option<&Record> {
        self.models.iter().find(|record| record.sha256 == sha256)
    }

    pub(super) fn take(&mut self, name_or_id: &str) -> Option<Record> {
        let at = self.models.iter().position(|record| record.is(name_or_id))?;
        Some(self.models.remove(at))
    }

    /// Refuses names that stand for another file.
    pub(super) fn check_free(&self, names: &Names, sha256: &str) -> Result<(), StoreError> {
        let taken = |name: &&String| self.find(name).is_some_and(|record| record.sha256 != sha256);
        match names.iter().find(taken) {
            Some(name) => Err(StoreError::NameTaken(name.clone())),
            None => Ok(()),
        }
    }

    /// Adds a model, or more names for one that is there; gives the record as it is now.
    pub(super) fn insert(&mut self, record: Record) -> Record {
        let present = self.models.iter_mut().find(|present| present.sha256 == record.sha256);
        let Some(present) = present else {
            self.models.push(record.clone());
            return record;
        };
        for name in record.names {
            if !present.names.contains(&name) {
                present.names.push(name);
            }
        }
        present.clone()
    }
}

/// A name made of a file's: `My Model.Q4_1.gguf` becomes `my-model.q4_1`.
pub(crate) fn name_of_file(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let letters = stem.chars().map(|letter| if is_letter(letter) { letter } else { '-' });
    let name: String = letters.take(MAX_NAME).collect();
    let name = name.trim_matches(['-', '.', '_']);
    if name.is_empty() { "model".into() } else { name.to_owned() }
}

fn is_name(name: &str) -> bool {
    let (base, tag) = name.split_once(':').unwrap_or((name, "latest"));
    let part = |part: &str| {
        part.chars().all(is_letter) && part.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    // `blake3:` begins an id.
    name.len() <= MAX_NAME && part(base) && part(tag) && base != "blake3"
}

const fn is_letter(letter: char) -> bool {
    matches!(letter, 'a'..='z' | '0'..='9' | '.' | '_' | '-')
}

const MAX_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names() {
        for name in ["smollm2:135m", "a", "llama-3.1:8b-q4_k"] {
            assert!(Names::new(&[name]).is_ok(), "{name}");
        }
        let long = "a".repeat(65);
        for name in ["", ":", "a:", "A", "../x", "a/b", "a:b:c", "-a", ".a", "blake3:ab", &long] {
            assert!(Names::new(&[name]).is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_gives_a_name() {
        for (file, name) in [
            ("/x/My Model.Q4_1.gguf", "my-model.q4_1"),
            ("日本.gguf", "model"),
            ("..gguf", "model"),
            ("a:b.gguf", "a-b"),
        ] {
            assert_eq!(name_of_file(Path::new(file)), name);
            assert!(is_name(name));
        }
    }
}

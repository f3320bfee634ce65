//! Names, and the models whose last they are, taken out of the store.

use std::fs::{self, File, TryLockError};

use super::files::file_error;
use super::index::Record;
use super::{Listed, Store, StoreError};
use crate::whole_file;

/// What was taken out of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The model, with the names that are gone.
    pub model: Listed,
    /// Its other names: they keep the file. None: the file is gone.
    pub kept: Vec<String>,
}

impl Store {
    /// What [`remove`](Self::remove) would do: the names that would go, and those that would stay
    /// and keep the file.
    ///
    /// # Errors
    /// There is none of this name or id, or the store is read-only.
    pub fn would_remove(&self, name_or_id: &str) -> Result<Removed, StoreError> {
        self.must_write()?;
        let unknown = || StoreError::Unknown(name_or_id.chars().take(80).collect());
        let index = self.index()?;
        let record = index.find(name_or_id).ok_or_else(unknown)?;
        let mut model = record.listed()?;
        // What is damaged can be stored again only when nothing of it is left.
        let whole = matches!(self.stored(record), Ok(Some(_)));
        let said = |name: &String| name == name_or_id;
        let kept = match whole && model.names.iter().any(said) {
            true => model.names.extract_if(.., |name| !said(name)).collect(),
            false => Vec::new(),
        };
        Ok(Removed { model, kept })
    }

    /// Whether some process computes with the model's file.
    #[must_use]
    pub fn is_in_use(&self, name_or_id: &str) -> bool {
        let Ok(index) = self.index() else { return false };
        let Some(record) = index.find(name_or_id) else { return false };
        let path = self.gguf_path(&record.sha256);
        let file = whole_file::need_regular(&path).and_then(|()| File::open(&path));
        file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// Takes a name out of the store; with its last name, or by its id, the model and what only it
    /// needs.
    ///
    /// # Errors
    /// There is none of this name or id, or the store is read-only.
    pub fn remove(&self, name_or_id: &str) -> Result<Removed, StoreError> {
        let _lock = self.lock()?;
        let removed = self.would_remove(name_or_id)?;
        let mut index = self.index()?;
        let Some(record) = index.take(name_or_id) else {
            return Err(StoreError::Unknown(name_or_id.chars().take(80).collect()));
        };
        if !removed.kept.is_empty() {
            index.insert(Record { names: removed.kept.clone(), ..record });
            self.write_index(&index)?;
            return Ok(removed);
        }
        self.write_index(&index)?;
        let path = self.gguf_path(&record.sha256);
        if path.exists() {
            fs::remove_file(&path).map_err(file_error("remove", &path))?;
        }
        self.drop_blobs_of(removed.model.id)?;
        Ok(removed)
    }
}

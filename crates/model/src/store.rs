//! Models on this machine's disk: files by their digests, names beside them.
//!
//! ```text
//! gguf/<sha256>.gguf   model files, never written again once they have this name
//! blobs/<blake3>       manifests, tokenizers, templates: the model's own, and a client's cache
//! models.json          which names stand for which files
//! paths/               manifests' ids of files used in place
//! partial/             work in progress; what a dead process left is swept
//! lock, pull.lock      held while names change; held while something is pulled
//! ```
//!
//! Every file appears under its name by one rename, complete and synced, so readers need no lock
//! and several processes can share a store, also one that they cannot write.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use taimatsu_protocol::ModelId;

use crate::catalogue;
use crate::gguf::GgufFile;
use crate::manifest::{MAX_MANIFEST, Manifest, TEMPLATE_KEY};
use crate::template::MAX_TEMPLATE;
use crate::tokenizer::{MAX_TOKENIZER, TokenizerSpec};
use crate::whole_file;

mod blobs;
mod error;
mod files;
mod index;
mod place;
mod removal;

pub use error::{Damage, StoreError};
pub use files::sha256_of;
pub(crate) use files::{HashedFile, Scratch, file_error, write_hashed};
pub(crate) use index::name_of_file;
pub use index::{Listed, Names};
pub use place::{default_dir, dir_from_environment};
pub use removal::Removed;

use files::{copy_hashed, sync_folder, write_atomically};
use index::{Index, Record};

/// A folder of models. See the module's page.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    writable: bool,
}

/// A model that is on this machine, with the small blobs that a client needs of it.
#[derive(Debug, Clone)]
pub struct StoredModel {
    /// What it is.
    pub manifest: Manifest,
    /// Its id: the digest of [`Self::manifest_blob`].
    pub id: ModelId,
    /// The names that stand for it here; none for a file used in place.
    pub names: Vec<String>,
    /// Where its GGUF file lies.
    pub path: PathBuf,
    /// The size of that file.
    pub bytes: u64,
    /// SHA-256 of that file, in hexadecimal; unknown for a file used in place.
    pub sha256: Option<String>,
    /// Its licence, where somebody said it.
    pub license: Option<String>,
    /// Where it came from, for people to read.
    pub source: String,
    /// The manifest's canonical bytes.
    pub manifest_blob: Bytes,
    /// The tokenizer's bytes.
    pub tokenizer_blob: Bytes,
    /// The chat template's bytes.
    pub template_blob: Option<Bytes>,
}

impl Store {
    /// Opens the store in `dir`, and makes it if it is not there. One that cannot be written is
    /// opened for reading.
    ///
    /// # Errors
    /// There is no such folder, and none can be made.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let made = FOLDERS.iter().try_for_each(|name| fs::create_dir_all(dir.join(name)));
        let probe = made.and_then(|()| whole_file::open_lock(&dir.join(LOCK)));
        match probe {
            Ok(_) => Ok(Self { dir: dir.to_owned(), writable: true }),
            Err(_) if dir.is_dir() => Self::open_read_only(dir),
            Err(source) => Err(file_error("make the folder", dir)(source)),
        }
    }

    /// Opens a store that is only read, whatever the folder allows.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn open_read_only(dir: &Path) -> Result<Self, StoreError> {
        fs::read_dir(dir).map_err(file_error("read the folder", dir))?;
        Ok(Self { dir: dir.to_owned(), writable: false })
    }

    /// The store's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether models can be added.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.writable
    }

    /// The models of the store, by their first names.
    ///
    /// # Errors
    /// The index is not readable.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        self.index()?.list()
    }

    /// The model that `reference` means: a name, an id (`blake3:...`), or a GGUF file's path.
    ///
    /// A file elsewhere is used in place; its manifest is kept as long as the file does not change.
    ///
    /// # Errors
    /// There is none, or its files are broken.
    pub fn resolve(&self, reference: &str) -> Result<StoredModel, StoreError> {
        if let Some(model) = self.find(reference)? {
            return Ok(model);
        }
        let path = Path::new(reference);
        if path.is_file() {
            return self.in_place(path);
        }
        if let Some(record) = self.index()?.find(reference) {
            let path = self.gguf_path(&record.sha256);
            return Err(StoreError::Damaged { path, source: Damage::Gone });
        }
        if reference.contains(std::path::MAIN_SEPARATOR) || reference.ends_with(".gguf") {
            return open_gguf(path).and_then(|_| self.in_place(path));
        }
        Err(StoreError::Unknown(reference.chars().take(80).collect()))
    }

    /// The id of what `reference` means, where that is known without reading the model or its blobs.
    ///
    /// # Errors
    /// The index is not readable.
    pub fn id_of(&self, reference: &str) -> Result<Option<ModelId>, StoreError> {
        let index = self.index()?;
        let Some(record) = index.find(reference) else {
            return Ok(self.id_in_place(Path::new(reference)));
        };
        let whole = |about: fs::Metadata| about.is_file() && about.len() == record.bytes;
        match fs::metadata(self.gguf_path(&record.sha256)).is_ok_and(whole) {
            true => Ok(record.id.parse().ok()),
            false => Ok(None),
        }
    }

    /// The stored model of this name or id, if there is one.
    ///
    /// # Errors
    /// Its files are broken.
    pub fn find(&self, name_or_id: &str) -> Result<Option<StoredModel>, StoreError> {
        self.index()?.find(name_or_id).map_or(Ok(None), |record| self.stored(record))
    }

    /// The stored model whose file has this SHA-256 (hexadecimal), if there is one.
    ///
    /// # Errors
    /// Its files are broken.
    pub fn find_file(&self, sha256: &str) -> Result<Option<StoredModel>, StoreError> {
        self.index()?.find_file(sha256).map_or(Ok(None), |record| self.stored(record))
    }

    fn stored(&self, record: &Record) -> Result<Option<StoredModel>, StoreError> {
        let path = self.gguf_path(&record.sha256);
        if !path.is_file() {
            return Ok(None);
        }
        let damaged = |source| StoreError::Damaged { path: path.clone(), source };
        let actual = fs::metadata(&path).map_err(file_error("read", &path))?.len();
        if actual != record.bytes {
            return Err(damaged(Damage::Length { actual, expected: record.bytes }));
        }
        let id: ModelId = record.id.parse()?;
        let model = match self.stored_blobs(id)? {
            Some(blobs) => blobs,
            None => derive(&path)?,
        };
        if model.id != id {
            return Err(damaged(Damage::Other(model.id)));
        }
        Ok(Some(StoredModel {
            names: record.names.clone(),
            bytes: record.bytes,
            sha256: Some(record.sha256.clone()),
            license: record.license.clone(),
            source: record.source.clone(),
            path,
            ..model
        }))
    }

    /// Copies a GGUF file into the store, under `name` or one made of the file's. `progress` gets
    /// the bytes copied, and the bytes in all.
    ///
    /// # Errors
    /// It is no usable model, the name is taken, there is too little room, ...
    pub fn import(
        &self,
        path: &Path,
        name: Option<&str>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<StoredModel, StoreError> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => name_of_file(path),
        };
        let names = Names::new(&[&name])?;
        // Parsed before anything is copied: what is no model costs nothing.
        let file = open_gguf(path)?;
        let license = file.text("general.license").map(str::to_owned);
        self.need(file.size())?;
        let scratch = self.scratch()?;
        let copy = scratch.path().join("model.gguf");
        let sha256 = copy_hashed(path, &copy, progress)?;
        if catalogue::find(&name).is_some_and(|entry| entry.sha256 != sha256) {
            return Err(StoreError::NameOfCatalogue(name));
        }
        let shown = path.file_name().unwrap_or_default().to_string_lossy();
        let source = format!("imported from {shown}");
        self.adopt(&copy, &sha256, &names, license, source).map_err(|error| error.about(path))
    }

    /// Gives a stored model more names.
    pub(crate) fn add_names(&self, id: ModelId, names: &Names) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let Some(record) = index.find(&id.to_string()).cloned() else {
            return Err(StoreError::Unknown(id.to_string()));
        };
        index.check_free(names, &record.sha256)?;
        index.insert(Record { names: names.to_vec(), ..record });
        self.write_index(&index)
    }

    /// Makes a finished file in a scratch folder a model of this store.
    pub(crate) fn adopt(
        &self,
        file: &Path,
        sha256: &str,
        names: &Names,
        license: Option<String>,
        source: String,
    ) -> Result<StoredModel, StoreError> {
        let model = derive(file)?;
        let _lock = self.lock()?;
        let mut index = self.index()?;
        index.check_free(names, sha256)?;
        let home = self.gguf_path(sha256);
        let present = home.exists();
        let placed = self.keep_blobs(&model).and_then(|()| {
            fs::rename(file, &home).map_err(file_error("move into place", &home))?;
            sync_folder(&self.dir.join("gguf"))
        });
        if let Err(error) = placed {
            if !present {
                self.drop_new_blobs(&model);
            }
            return Err(error);
        }
        let record = index.insert(Record {
            names: names.to_vec(),
            id: model.id.to_string(),
            sha256: sha256.to_owned(),
            bytes: model.bytes,
            license,
            source,
        });
        if let Err(error) = self.write_index(&index) {
            if !present {
                // A file that no name stands for would lie there for ever.
                let _ = fs::remove_file(&home);
                self.drop_new_blobs(&model);
            }
            return Err(error);
        }
        Ok(StoredModel {
            names: record.names,
            license: record.license,
            source: record.source,
            sha256: Some(record.sha256),
            path: home,
            ..model
        })
    }

    /// A folder for work in progress, gone when dropped, swept when its process dies.
    pub(crate) fn scratch(&self) -> Result<Scratch, StoreError> {
        let _lock = self.lock()?;
        Scratch::new(&self.dir.join("partial"))
    }

    /// Refuses before the first byte what the disk has no room for.
    pub(crate) fn need(&self, bytes: u64) -> Result<(), StoreError> {
        self.must_write()?;
        let free = fs4::available_space(&self.dir)
            .map_err(file_error("ask for the free space of", &self.dir))?;
        let needed = bytes.saturating_add(MARGIN);
        if free < needed {
            return Err(StoreError::NoSpace { dir: self.dir.clone(), needed, free });
        }
        Ok(())
    }

    /// The lock that one pull at a time holds; taken with `try_lock` by the caller.
    pub(crate) fn pull_lock(&self) -> Result<File, StoreError> {
        self.must_write()?;
        self.lock_file("pull.lock")
    }

    fn must_write(&self) -> Result<(), StoreError> {
        if self.writable { Ok(()) } else { Err(StoreError::ReadOnly(self.dir.clone())) }
    }

    fn lock(&self) -> Result<File, StoreError> {
        self.must_write()?;
        let file = self.lock_file(LOCK)?;
        file.lock().map_err(file_error("lock", &self.dir))?;
        Ok(file)
    }

    fn lock_file(&self, name: &str) -> Result<File, StoreError> {
        let path = self.dir.join(name);
        whole_file::open_lock(&path).map_err(file_error("open", &path))
    }

    fn gguf_path(&self, sha256: &str) -> PathBuf {
        self.dir.join("gguf").join(format!("{sha256}.gguf"))
    }

    fn index(&self) -> Result<Index, StoreError> {
        Index::read(&self.dir.join(INDEX))
    }

    fn write_index(&self, index: &Index) -> Result<(), StoreError> {
        write_atomically(&self.dir.join(INDEX), index.to_json().as_bytes())
    }
}

fn open_gguf(path: &Path) -> Result<GgufFile, StoreError> {
    let about = fs::metadata(path).map_err(file_error("open the model file", path))?;
    if !about.is_file() {
        // A pipe would be waited for, for ever.
        return Err(StoreError::NotAFile(path.to_owned()));
    }
    GgufFile::open(path).map_err(|source| StoreError::Gguf { path: path.to_owned(), source })
}

/// All that a file tells of itself.
fn derive(path: &Path) -> Result<StoredModel, StoreError> {
    let file = open_gguf(path)?;
    let wrong = |source| StoreError::Manifest { path: path.to_owned(), source };
    let manifest = Manifest::of(&file).map_err(wrong)?;
    let tokenizer = TokenizerSpec::of(&file).map_err(|error| wrong(error.into()))?;
    let manifest_blob = manifest.to_bytes();
    Ok(StoredModel {
        id: ModelId::of(&manifest_blob),
        names: Vec::new(),
        path: path.to_owned(),
        bytes: file.size(),
        sha256: None,
        license: file.text("general.license").map(str::to_owned),
        source: "a file used in place".into(),
        manifest,
        manifest_blob,
        tokenizer_blob: tokenizer.to_bytes(),
        template_blob: file.text(TEMPLATE_KEY).map(|text| Bytes::copy_from_slice(text.as_bytes())),
    })
}

/// The longest blob, in bytes.
pub const MAX_BLOB: usize = {
    assert!(MAX_TOKENIZER >= MAX_MANIFEST && MAX_TOKENIZER >= MAX_TEMPLATE);
    MAX_TOKENIZER
};

const FOLDERS: [&str; 4] = ["gguf", "blobs", "paths", "partial"];
const INDEX: &str = "models.json";
const LOCK: &str = "lock";

/// Room that is left free on the disk, for blobs and for others.
const MARGIN: u64 = 32 << 20;

#[cfg(test)]
mod tests;

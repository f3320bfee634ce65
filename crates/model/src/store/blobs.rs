//! Small blobs by their digests, and what is known of files used in place.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use taimatsu_protocol::{Digest, ModelId};

use super::files::{UNFINISHED, file_error, write_atomically};
use super::{MAX_BLOB, Store, StoreError, StoredModel, derive};
use crate::manifest::Manifest;
use crate::whole_file;

impl Store {
    /// A blob, if it is here and whole.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn blob(&self, digest: Digest) -> Result<Option<Bytes>, StoreError> {
        let path = self.blob_path(digest);
        let bytes = match whole_file::read(&path, MAX_BLOB as u64) {
            Ok(bytes) => bytes,
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::InvalidInput | ErrorKind::FileTooLarge => {
                    return Ok(None);
                }
                _ => return Err(file_error("read", &path)(error)),
            },
        };
        // A damaged one is as good as none: whoever wants it gets it anew.
        Ok((Digest::of(&bytes) == digest).then(|| bytes.into()))
    }

    /// Keeps a blob that a host sent. Beyond 256 MB in all, the oldest go that belong to no
    /// model of the store.
    ///
    /// # Errors
    /// The bytes are not those of `digest`, too many, or cannot be written.
    pub fn put_blob(&self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        self.must_write()?;
        if bytes.len() > MAX_BLOB {
            return Err(StoreError::BlobTooLong(bytes.len() as u64));
        }
        let actual = Digest::of(bytes);
        if actual != digest {
            return Err(StoreError::Digest { expected: digest, actual });
        }
        if self.blob(digest)?.is_some() {
            return Ok(());
        }
        self.make_room(bytes.len() as u64)?;
        write_atomically(&self.blob_path(digest), bytes)
    }

    /// The blobs of a stored model, if all are here.
    pub(super) fn stored_blobs(&self, id: ModelId) -> Result<Option<StoredModel>, StoreError> {
        let Some(manifest_blob) = self.blob(id.digest())? else { return Ok(None) };
        let Ok(manifest) = Manifest::from_bytes(&manifest_blob) else { return Ok(None) };
        let Some(tokenizer_blob) = self.blob(manifest.tokenizer)? else { return Ok(None) };
        let template_blob = match manifest.template {
            None => None,
            Some(digest) => match self.blob(digest)? {
                None => return Ok(None),
                blob => blob,
            },
        };
        Ok(Some(StoredModel {
            manifest,
            id,
            names: Vec::new(),
            path: PathBuf::new(),
            bytes: 0,
            sha256: None,
            license: None,
            source: IN_PLACE.into(),
            manifest_blob,
            tokenizer_blob,
            template_blob,
        }))
    }

    pub(super) fn keep_blobs(&self, model: &StoredModel) -> Result<(), StoreError> {
        self.put_blob(model.id.digest(), &model.manifest_blob)?;
        self.put_blob(model.manifest.tokenizer, &model.tokenizer_blob)?;
        match (model.manifest.template, &model.template_blob) {
            (Some(digest), Some(blob)) => self.put_blob(digest, blob),
            _ => Ok(()),
        }
    }

    /// Removes the blobs of a model that did not get into the store, unless another needs them.
    pub(super) fn drop_new_blobs(&self, model: &StoredModel) {
        let Ok(needed) = self.needed_blobs() else { return };
        for digest in digests(model.id, &model.manifest) {
            if !needed.contains(&digest) {
                let _ = fs::remove_file(self.blob_path(digest));
            }
        }
    }

    /// Removes what a model that is gone leaves, unless another model needs it too.
    pub(super) fn drop_blobs_of(&self, id: ModelId) -> Result<(), StoreError> {
        let Some(model) = self.stored_blobs(id)? else { return Ok(()) };
        let tensors = model.manifest.tensors.iter().map(|tensor| tensor.digest);
        self.packs().forget(&tensors.collect());
        let needed = self.needed_blobs()?;
        for digest in digests(id, &model.manifest) {
            let path = self.blob_path(digest);
            if !needed.contains(&digest) && path.exists() {
                fs::remove_file(&path).map_err(file_error("remove", &path))?;
            }
        }
        Ok(())
    }

    /// The id of a model file outside the store, if it was read before and has not been changed.
    pub(super) fn id_in_place(&self, path: &Path) -> Option<ModelId> {
        let path = fs::canonicalize(path).ok()?;
        let known = Note::read(&self.note_of(&path))?;
        let same = known.state == FileState::of(&path).ok()?;
        known.id.parse().ok().filter(|_| same)
    }

    fn note_of(&self, path: &Path) -> PathBuf {
        let name = Digest::of(path.as_os_str().as_encoded_bytes());
        self.dir.join("paths").join(HEXLOWER.encode(name.as_bytes()))
    }

    /// A model file outside the store.
    pub(super) fn in_place(&self, path: &Path) -> Result<StoredModel, StoreError> {
        let path = fs::canonicalize(path).map_err(file_error("open the model file", path))?;
        let state = FileState::of(&path)?;
        let note = self.note_of(&path);
        if let Some(known) = Note::read(&note).filter(|known| known.state == state)
            && let Some(model) = self.stored_blobs(known.id.parse()?)?
        {
            return Ok(StoredModel { bytes: state.bytes, path, ..model });
        }
        let model = derive(&path)?;
        if self.writable {
            let known = Note { id: model.id.to_string(), state };
            let kept = self.keep_blobs(&model).and_then(|()| self.keep_note(&note, &known));
            if let Err(error) = kept {
                // The model works all the same, and is hashed again the next time.
                tracing::debug!(%error, "manifest of a file in place is not kept");
            }
        }
        Ok(model)
    }

    fn keep_note(&self, path: &Path, note: &Note) -> Result<(), StoreError> {
        let folder = self.dir.join("paths");
        let notes = fs::read_dir(&folder).map_err(file_error("read the folder", &folder))?;
        let notes: Vec<_> = notes.flatten().collect();
        if notes.len() >= MAX_NOTES {
            // They are only a short cut: all of them are made again when wanted.
            notes.iter().for_each(|note| drop(fs::remove_file(note.path())));
        }
        let json = serde_json::to_vec(note).expect("texts and numbers have a JSON form");
        write_atomically(path, &json)
    }

    fn needed_blobs(&self) -> Result<Vec<Digest>, StoreError> {
        let mut needed = Vec::new();
        for listed in self.list()? {
            needed.push(listed.id.digest());
            if let Some(blob) = self.blob(listed.id.digest())?
                && let Ok(manifest) = Manifest::from_bytes(&blob)
            {
                needed.extend(digests(listed.id, &manifest));
            }
        }
        Ok(needed)
    }

    fn make_room(&self, wanted: u64) -> Result<(), StoreError> {
        let folder = self.dir.join("blobs");
        let entries = fs::read_dir(&folder).map_err(file_error("read the folder", &folder))?;
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                let about = entry.metadata().ok()?;
                Some((about.modified().ok()?, about.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum::<u64>() + wanted;
        let needed: Vec<PathBuf> =
            self.needed_blobs()?.into_iter().map(|digest| self.blob_path(digest)).collect();
        let now = SystemTime::now();
        for (modified, bytes, path) in files {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let age = now.duration_since(modified).unwrap_or_default();
            let stale = name.starts_with(UNFINISHED) && age > STALE;
            if stale || (total > MAX_CACHE && !needed.contains(&path)) {
                total -= bytes;
                // Another process may have been quicker.
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.dir.join("blobs").join(HEXLOWER.encode(digest.as_bytes()))
    }
}

/// What is known of a file used in place.
#[derive(Serialize, Deserialize)]
struct Note {
    id: String,
    state: FileState,
}

impl Note {
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&whole_file::read(path, MAX_NOTE).ok()?).ok()
    }
}

/// A file that agrees in all of these has not been changed.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct FileState {
    bytes: u64,
    modified_ns: u128,
    inode: u64,
}

impl FileState {
    fn of(path: &Path) -> Result<Self, StoreError> {
        let about = fs::metadata(path).map_err(file_error("open the model file", path))?;
        let modified = about.modified().map_err(file_error("read the time of", path))?;
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&about);
        #[cfg(not(unix))]
        let inode = 0;
        Ok(Self { bytes: about.len(), modified_ns: since.as_nanos(), inode })
    }
}

fn digests(id: ModelId, manifest: &Manifest) -> impl Iterator<Item = Digest> {
    [Some(id.digest()), Some(manifest.tokenizer), manifest.template].into_iter().flatten()
}

/// Bytes of blobs that are kept, as long as no model of the store needs more.
pub(super) const MAX_CACHE: u64 = 256 << 20;

/// How long a write may take before it counts as given up.
const STALE: Duration = Duration::from_secs(3600);

/// Files in place that are remembered.
const MAX_NOTES: usize = 256;

/// The longest note that is read, in bytes.
const MAX_NOTE: u64 = 4_096;

const IN_PLACE: &str = "a file used in place";

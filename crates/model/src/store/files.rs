//! Writing so that a crash leaves either the old or the new, and never a half.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use tempfile::{NamedTempFile, TempDir};

use super::StoreError;
use crate::whole_file;

/// A folder under `partial/` with a locked file in it: while the lock is held, its owner lives.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
    /// Keeps the lock.
    _owner: File,
}

impl Scratch {
    /// Makes one, and sweeps those of dead processes. The caller holds the store's lock, so that
    /// nobody sweeps a folder between its making and its locking.
    pub(super) fn new(partial: &Path) -> Result<Self, StoreError> {
        sweep(partial)?;
        let dir = TempDir::new_in(partial).map_err(file_error("make a folder in", partial))?;
        let path = dir.path().join(OWNER);
        let owner = File::create(&path).map_err(file_error("make", &path))?;
        owner.lock().map_err(file_error("lock", &path))?;
        Ok(Self { dir, _owner: owner })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn sweep(partial: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(partial).map_err(file_error("read the folder", partial))? {
        let path = entry.map_err(file_error("read the folder", partial))?.path();
        let owner = path.join(OWNER);
        let owner = whole_file::need_regular(&owner).and_then(|()| File::open(&owner));
        let alive = owner.is_ok_and(|owner| owner.try_lock().is_err());
        if !alive {
            fs::remove_dir_all(&path).map_err(file_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Copies a file, synced, and gives its SHA-256 in hexadecimal.
pub(super) fn copy_hashed(
    from: &Path,
    to: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<String, StoreError> {
    let source = File::open(from).map_err(file_error("open", from))?;
    let total = source.metadata().map_err(file_error("read", from))?.len();
    let (_, sha256) = write_hashed(source, to, &mut |done| progress(done, total))?;
    Ok(sha256)
}

/// The SHA-256 of a file, in hexadecimal. Reads all of it.
///
/// # Errors
/// It cannot be read.
pub fn sha256_of(path: &Path) -> Result<String, StoreError> {
    let mut file = File::open(path).map_err(file_error("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(HEXLOWER.encode(&hash.finalize())),
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(file_error("read", path)(error)),
        }
    }
}

/// Writes all that `source` gives, synced; gives its length and its SHA-256 in hexadecimal.
pub(crate) fn write_hashed(
    source: impl Read,
    to: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<(u64, String), StoreError> {
    let mut file = HashedFile::create(to)?;
    file.append(source, progress)?;
    let length = file.length;
    Ok((length, file.finish()?))
}

/// A file that is hashed as it grows.
pub(crate) struct HashedFile<'a> {
    path: &'a Path,
    file: File,
    hash: Sha256,
    length: u64,
}

impl<'a> HashedFile<'a> {
    pub(crate) fn create(path: &'a Path) -> Result<Self, StoreError> {
        let file = File::create(path).map_err(file_error("make", path))?;
        Ok(Self { path, file, hash: Sha256::new(), length: 0 })
    }

    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Writes all that `source` gives; `progress` is told the file's length.
    pub(crate) fn append(
        &mut self,
        mut source: impl Read,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(file_error("read what becomes", self.path)(error)),
            };
            self.file.write_all(&buffer[..read]).map_err(file_error("write", self.path))?;
            self.hash.update(&buffer[..read]);
            self.length += read as u64;
            progress(self.length);
        }
    }

    /// Syncs it; gives its SHA-256 in hexadecimal.
    pub(crate) fn finish(self) -> Result<String, StoreError> {
        self.file.sync_all().map_err(file_error("write", self.path))?;
        Ok(HEXLOWER.encode(&self.hash.finalize()))
    }
}

/// Replaces a file by one with these bytes.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let folder = path.parent().expect("every file of the store lies in a folder");
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // As any other file: a store may be shared with other users, who read it.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o644));
    }
    let mut file = builder
        .prefix(UNFINISHED)
        .tempfile_in(folder)
        .map_err(file_error("make a file in", folder))?;
    file.write_all(bytes).map_err(file_error("write", path))?;
    file.as_file().sync_all().map_err(file_error("write", path))?;
    persist(file, path)?;
    sync_folder(folder)
}

fn persist(file: NamedTempFile, path: &Path) -> Result<(), StoreError> {
    file.persist(path).map_err(|error| file_error("write", path)(error.error))?;
    Ok(())
}

/// Makes a rename last through a power cut.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(file_error("sync the folder", folder))
}

/// For `map_err`: what was tried, with which file.
pub(crate) fn file_error(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path: PathBuf = path.to_owned();
    move |source| {
        if source.kind() == io::ErrorKind::StorageFull {
            let free = path.parent().and_then(|dir| fs4::available_space(dir).ok()).unwrap_or(0);
            return StoreError::Full { doing, path, free };
        }
        StoreError::File { doing, path, source }
    }
}

/// How files begin that are not yet under their name.
pub(super) const UNFINISHED: &str = ".unfinished-";

const OWNER: &str = "owner";

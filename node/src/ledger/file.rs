//! The ledger's file: opened sound, or begun anew; and opened again after the disk refused.

use std::any::Any;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{Database, DatabaseError, StorageError};

use super::LedgerError;
use crate::driver::clock::Clock;

/// Memory for pages of the file.
const CACHE: usize = 4 << 20;

/// Why there is no ledger.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("it is no regular file")]
    NotAFile,
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it cannot be moved aside")]
    Aside(#[source] std::io::Error),
    #[error(transparent)]
    Refused(DatabaseError),
}

/// The file, which is closed and opened again where that is the remedy.
#[derive(Debug)]
pub(super) struct Shelf {
    path: PathBuf,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    /// None where it could not be opened again.
    database: Option<Database>,
    /// Why the last write failed, if it did.
    trouble: Option<String>,
}

impl Shelf {
    pub(super) fn open(path: PathBuf) -> Result<Self, OpenError> {
        let state = State { database: Some(open(&path)?), trouble: None };
        Ok(Self { path, state: RwLock::new(state) })
    }

    /// Why the last write failed, if it did.
    pub(super) fn trouble(&self) -> Option<String> {
        self.read().trouble.clone()
    }

    /// Works on the file. A damaged page panics in redb: that is an error like another.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let state = self.read();
        let Some(database) = &state.database else { return Err(LedgerError::Closed) };
        guarded(|| work(database)).unwrap_or_else(|told| Err(LedgerError::Panicked(told)))
    }

    /// Writes. After a failure redb refuses everything until its file is opened again, so it is, and
    /// the work is done once more.
    pub(super) fn write(&self, work: impl Fn(&Database) -> Result<(), LedgerError>) {
        let mut done = self.with(&work);
        if done.is_err() {
            done = self.reopen().and_then(|()| self.with(&work));
        }
        let trouble = done.err().map(|error| error.to_string());
        let before = std::mem::replace(&mut self.change().trouble, trouble.clone());
        match (before, trouble) {
            (None, Some(error)) => tracing::error!(
                %error,
                "the ledger cannot be written; what happens now is not remembered"
            ),
            (Some(_), None) => tracing::warn!("the ledger is written again"),
            _ => {}
        }
    }

    fn reopen(&self) -> Result<(), LedgerError> {
        let mut state = self.change();
        // Closed before it is opened: it has a lock.
        let closed = state.database.take();
        let _ = guarded(|| drop(closed));
        state.database = Some(open(&self.path)?);
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the file, making it where there is none. A damaged one is moved aside and named: what was
/// remembered is lost, the node is not.
fn open(path: &Path) -> Result<Database, OpenError> {
    match sound(path) {
        Err(OpenError::Damaged(why)) => {
            let aside = path.with_extension(format!("broken-{}", Clock::wall().0));
            fs::rename(path, &aside).map_err(OpenError::Aside)?;
            crate::stderr::tell(&format!(
                "warning: {} is broken ({why}); it is now {}, and standings begin anew",
                path.display(),
                aside.display()
            ));
            sound(path)
        }
        opened => opened,
    }
}

/// Opens the file and looks at every page of it: redb trusts a file that was closed well, and a
/// damaged one would panic later, at each start again.
fn sound(path: &Path) -> Result<Database, OpenError> {
    if fs::metadata(path).is_ok_and(|about| !about.is_file()) {
        return Err(OpenError::NotAFile);
    }
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    match guarded(|| builder.create(path)) {
        Ok(opened) => opened.map_err(OpenError::of),
        Err(panicked) => Err(OpenError::Damaged(panicked)),
    }
}

/// Looks at a copy of the file, so that nothing of it changes. Whether there is one.
pub(super) fn check(path: &Path) -> Result<bool, OpenError> {
    let io = |error| OpenError::Refused(StorageError::Io(error).into());
    match fs::metadata(path) {
        Ok(about) if !about.is_file() => return Err(OpenError::NotAFile),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io(error)),
    }
    let dir = tempfile::tempdir().map_err(io)?;
    let copy = dir.path().join("ledger.redb");
    fs::copy(path, &copy).map_err(io)?;
    sound(&copy).map(|_| true)
}

impl OpenError {
    fn of(error: DatabaseError) -> Self {
        match &error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                Self::Refused(error)
            }
            DatabaseError::Storage(StorageError::Io(io))
                if io.kind() != std::io::ErrorKind::InvalidData
                    && io.kind() != std::io::ErrorKind::UnexpectedEof =>
            {
                Self::Refused(error)
            }
            _ => Self::Damaged(error.to_string()),
        }
    }
}

fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| told(&*panic))
}

fn told(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason").to_owned()
}

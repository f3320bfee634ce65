//! A node's home directory: its key, its lock, and the note that tells other commands where its
//! API is.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use taimatsu_model::whole_file;
use zeroize::Zeroizing;

use crate::failure::{Code, Failure};

/// A home that this process alone uses, until it is dropped.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    /// Held, never read: the lock goes with it.
    _lock: File,
}

/// What a running node writes down for other commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeNote {
    /// Where its API listens.
    pub(crate) api: SocketAddr,
    /// Its process.
    pub(crate) pid: u32,
    /// Its full peer id.
    pub(crate) peer: String,
}

impl Home {
    /// Takes the home at `path`, making it where there is none.
    ///
    /// # Errors
    /// Another node uses it, or it cannot be written.
    pub(crate) fn take(path: &Path) -> Result<Self, Failure> {
        let unusable = |error: io::Error| {
            Failure::of(Code::Resources, format!("cannot use {} as home", path.display()), &error)
                .try_this("--home DIR, with a directory that you can write to")
        };
        make_private_dir(path).map_err(unusable)?;
        let lock = path.join("lock");
        let lock = whole_file::open_lock(&lock).map_err(|error| {
            unusable(io::Error::new(error.kind(), format!("{}: {error}", lock.display())))
        })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_path_buf(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(in_use(path)),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The node's ed25519 seed; drawn and written (mode 0600) where there is none.
    ///
    /// # Errors
    /// It cannot be read or written, or is not 32 bytes.
    pub(crate) fn key(&self) -> Result<Zeroizing<[u8; 32]>, Failure> {
        if let Some(key) = read_key(&self.path)? {
            return Ok(key);
        }
        let path = self.path.join(KEY);
        let key = Zeroizing::new(crate::entropy::bytes::<32>());
        write_private(&path, key.as_slice()).map_err(|error| key_refused(&path, &error))?;
        Ok(key)
    }

    /// Writes down where this node's API is.
    ///
    /// # Errors
    /// The home cannot be written.
    pub(crate) fn note(&self, note: &NodeNote) -> Result<(), Failure> {
        let text = serde_json::to_vec(note).unwrap_or_default();
        write_private(&self.path.join("node.json"), &text).map_err(|error| {
            Failure::of(Code::Resources, format!("cannot write to {}", self.path.display()), &error)
                .try_this("room on the disk, and a home that you can write to")
        })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path.join("node.json"));
    }
}

/// The ed25519 seed of the home at `path`, if it has one. It may be another process's home.
///
/// # Errors
/// It cannot be read, or is not 32 bytes.
pub(crate) fn read_key(home: &Path) -> Result<Option<Zeroizing<[u8; 32]>>, Failure> {
    let path = home.join(KEY);
    let broken = |cause: &str| {
        Failure::new(Code::Resources, format!("cannot use the key {}", path.display()))
            .because(cause)
            .try_this("its backup, or remove it to become a new node")
    };
    let bytes = match whole_file::read(&path, MAX_KEY) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if is_odd(&error) => return Err(broken(&error.to_string())),
        Err(error) => return Err(key_refused(&path, &error)),
    };
    let length = bytes.len();
    let key = <[u8; 32]>::try_from(bytes.as_slice());
    let key = key.map_err(|_| broken(&format!("it has {length} bytes, not 32")))?;
    Ok(Some(Zeroizing::new(key)))
}

/// Something else than a key lies there; the disk is well.
fn is_odd(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge)
}

fn key_refused(path: &Path, error: &io::Error) -> Failure {
    Failure::of(Code::Resources, format!("cannot use the key {}", path.display()), error)
        .try_this("room on the disk, and a home that you can read and write")
}

/// The note of the node that runs on the home at `path`, if one does.
pub(crate) fn note_of(path: &Path) -> Option<NodeNote> {
    let note = whole_file::read(&path.join("node.json"), MAX_NOTE).ok()?;
    serde_json::from_slice(&note).ok()
}

fn in_use(path: &Path) -> Failure {
    let cause = note_of(path).map_or_else(
        || "another process holds its lock".to_owned(),
        |note| format!("process {} runs there, its API at {}", note.pid, note.api),
    );
    Failure::new(Code::Resources, format!("a node already runs on {}", path.display()))
        .because(cause)
        .try_this("taimatsu status, or --home DIR for a second node")
}

fn make_private_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The longest key and the longest note that are read, in bytes.
const MAX_KEY: u64 = 64;
const MAX_NOTE: u64 = 4_096;

/// The file that holds the seed.
const KEY: &str = "node.key";

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_one_node_and_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::take(dir.path()).unwrap();
        let key = home.key().unwrap();
        assert_eq!(home.key().unwrap(), key);
        let second = Home::take(dir.path()).unwrap_err();
        assert_eq!(second.code, Code::Resources);
        assert!(second.to_string().contains("already runs"));
        drop(home);
        assert_eq!(Home::take(dir.path()).unwrap().key().unwrap(), key);
    }

    #[test]
    fn a_key_that_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::take(dir.path()).unwrap();
        fs::create_dir(dir.path().join("node.key")).unwrap();
        let text = home.key().unwrap_err().to_string();
        assert!(text.contains("no regular file"), "{text}");
    }

    #[test]
    fn a_lock_that_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lock")).unwrap();
        let text = Home::take(dir.path()).unwrap_err().to_string();
        assert!(text.contains("lock") && text.contains("no regular file"), "{text}");
    }

    #[test]
    fn a_note_that_cannot_be_written_leaves_nothing_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::take(dir.path()).unwrap();
        fs::create_dir_all(dir.path().join("node.json").join("x")).unwrap();
        let api = SocketAddr::from(([127, 0, 0, 1], 1));
        let note = NodeNote { api, pid: 1, peer: "p".into() };
        let text = home.note(&note).unwrap_err().to_string();
        assert!(text.contains("cause: ") && text.contains("try:   "), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the lock, and what was there");
    }

    #[test]
    fn a_broken_key_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::take(dir.path()).unwrap();
        fs::write(dir.path().join("node.key"), b"short").unwrap();
        assert!(home.key().unwrap_err().to_string().contains("node.key"));
        assert_eq!(fs::read(dir.path().join("node.key")).unwrap(), b"short");
    }
}

//! The key file: the 32 bytes that a bootstrap node's id, and so its address, come from.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use zeroize::Zeroizing;

/// Why a key file is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("cannot use the key file {path}; name one that you can write to: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is no key of 32 bytes; restore it, or remove it to become a new node")]
    Broken { path: PathBuf },
    #[cfg(unix)]
    #[error("others can read the key {path}; take that away: chmod 600 {path}")]
    Exposed { path: PathBuf },
    #[error("the system gives no random bytes; start again later: {0}")]
    Entropy(getrandom::Error),
}

/// The key in `path`; drawn and written there, readable by its owner alone, where there is none.
pub(crate) fn load_or_create(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    match load(path) {
        Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            create(path)?;
            load(path)
        }
        other => other,
    }
}

fn load(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let file = File::open(path).map_err(at(path))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(at(path))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_path_buf() });
        }
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(33));
    file.take(33).read_to_end(&mut bytes).map_err(at(path))?;
    let broken = |_| KeyError::Broken { path: path.to_path_buf() };
    <[u8; 32]>::try_from(bytes.as_slice()).map(Zeroizing::new).map_err(broken)
}

/// Whole or not at all; where another process was first, its key stays.
fn create(path: &Path) -> Result<(), KeyError> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(key.as_mut_slice()).map_err(KeyError::Entropy)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut file =
        NamedTempFile::new_in(dir.unwrap_or_else(|| Path::new("."))).map_err(at(path))?;
    file.write_all(key.as_slice()).map_err(at(path))?;
    file.as_file().sync_all().map_err(at(path))?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(late) if late.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(failed) => Err(at(path)(failed.error)),
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> KeyError {
    move |source| KeyError::Io { path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_is_drawn_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = load_or_create(&path).unwrap();
        assert_ne!(*key, [0; 32]);
        assert_eq!(load_or_create(&path).unwrap(), key);
        assert_ne!(load_or_create(&dir.path().join("other")).unwrap(), key);
        create(&path).unwrap();
        assert_eq!(load(&path).unwrap(), key);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            assert!(matches!(load_or_create(&path), Err(KeyError::Exposed { .. })));
        }
    }

    #[test]
    fn a_broken_key_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [&b""[..], &[1; 31], &[1; 33]] {
            let path = dir.path().join(bytes.len().to_string());
            fs::write(&path, bytes).unwrap();
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            }
            assert!(matches!(load_or_create(&path), Err(KeyError::Broken { .. })));
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        let nowhere = dir.path().join("no/such/dir/key");
        assert!(matches!(load_or_create(&nowhere), Err(KeyError::Io { .. })));
    }
}

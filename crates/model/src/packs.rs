//! A cache of tensors in the form that a machine's kernels read: made once, mapped by every process.
//!
//! A file is named by what it holds and ends with the BLAKE3 of the rest. One that is damaged, or
//! that cannot be written, is a file that is not there: the caller makes the bytes anew.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use taimatsu_protocol::Digest;

use crate::mapped::Mapped;
use crate::store::Store;
use crate::whole_file;

const DIGEST: usize = 32;

/// Begins the name of a file that is being written.
const PARTIAL: &str = "partial-";

/// After so long nobody writes it any more: whoever did was killed.
const STALE: Duration = Duration::from_secs(3600);

/// A folder of packed tensors.
#[derive(Debug, Clone)]
pub struct Packs {
    dir: PathBuf,
}

/// A packed tensor, mapped.
#[derive(Debug)]
pub struct Pack {
    mapped: Mapped,
}

impl Packs {
    /// The cache in this folder, which need not be there.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The tensor of this digest in this form, if it is there, of that size, and whole.
    #[must_use]
    pub fn get(&self, tensor: &Digest, form: &str, size: usize) -> Option<Pack> {
        let path = self.path(tensor, form);
        whole_file::need_regular(&path).ok()?;
        let mapped = Mapped::new(File::open(path).ok()?).ok()?;
        if mapped.bytes().len() != size + DIGEST {
            return None;
        }
        let (bytes, digest) = mapped.bytes().split_at(size);
        (Digest::of(bytes).as_bytes() == digest).then_some(Pack { mapped })
    }

    /// Keeps a tensor in a form, and maps it; `None` where that cannot be done.
    #[must_use]
    pub fn put(&self, tensor: &Digest, form: &str, bytes: &[u8]) -> Option<Pack> {
        fs::create_dir_all(&self.dir).ok()?;
        self.sweep();
        let mut file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(&self.dir).ok()?;
        let digest = Digest::of(bytes);
        file.write_all(bytes).and_then(|()| file.write_all(digest.as_bytes())).ok()?;
        file.persist(self.path(tensor, form)).ok()?;
        self.get(tensor, form, bytes.len())
    }

    /// Removes all forms of these tensors. What another model shares is made anew when it is wanted.
    pub(crate) fn forget(&self, tensors: &BTreeSet<Digest>) {
        let named: BTreeSet<String> = tensors.iter().map(hex).collect();
        self.remove(|name, _| {
            name.split_once('-').is_some_and(|(tensor, _)| named.contains(tensor))
        });
    }

    /// Removes what somebody who was killed has left.
    fn sweep(&self) {
        self.remove(|name, entry| {
            let written = || entry.metadata().and_then(|about| about.modified()).ok();
            let age = || written().and_then(|at| at.elapsed().ok());
            name.starts_with(PARTIAL) && age().is_some_and(|age| age > STALE)
        });
    }

    fn remove(&self, is_meant: impl Fn(&str, &DirEntry) -> bool) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| is_meant(name, &entry)) {
                // A cache: what cannot be removed does no harm.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn path(&self, tensor: &Digest, form: &str) -> PathBuf {
        self.dir.join(format!("{}-{form}", hex(tensor)))
    }
}

fn hex(digest: &Digest) -> String {
    HEXLOWER.encode(digest.as_bytes())
}

impl Store {
    /// The cache beside this store's models.
    #[must_use]
    pub fn packs(&self) -> Packs {
        Packs::new(&self.dir().join("packs"))
    }
}

impl Pack {
    /// The tensor's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.mapped.bytes();
        &bytes[..bytes.len() - DIGEST]
    }

    /// Whether nobody has written to it since.
    #[must_use]
    pub fn is_as_opened(&self) -> bool {
        self.mapped.is_as_opened()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn what_is_damaged_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let packs = Packs::new(&dir.path().join("packs"));
        let [one, other] = [b"one", b"two"].map(|tensor| Digest::of(tensor));
        assert!(packs.get(&one, "a", 3).is_none());
        let pack = packs.put(&one, "a", &[1, 2, 3]).unwrap();
        assert_eq!(pack.bytes(), [1, 2, 3]);
        assert_eq!(packs.get(&one, "a", 3).unwrap().bytes(), [1, 2, 3]);
        assert!(packs.get(&one, "a", 4).is_none() && packs.get(&one, "b", 3).is_none());
        let path = packs.path(&one, "a");
        let mut bytes = fs::read(&path).unwrap();
        bytes[1] ^= 1;
        assert!(pack.is_as_opened());
        fs::write(&path, bytes).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        assert!(!pack.is_as_opened());
        assert!(packs.get(&one, "a", 3).is_none());
        assert_eq!(packs.put(&one, "a", &[1, 2, 3]).unwrap().bytes(), [1, 2, 3]);
        assert!(packs.put(&other, "a", &[4]).is_some());
        packs.forget(&BTreeSet::from([other]));
        assert!(packs.get(&other, "a", 1).is_none() && packs.get(&one, "a", 3).is_some());
    }

    #[test]
    fn what_a_killed_packer_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let packs = Packs::new(dir.path());
        let [stale, fresh] = ["partial-1", "partial-2"].map(|name| dir.path().join(name));
        for path in [&stale, &fresh] {
            fs::write(path, b"half").unwrap();
        }
        let old = SystemTime::now() - 2 * STALE;
        File::options().write(true).open(&stale).unwrap().set_modified(old).unwrap();
        assert!(packs.put(&Digest::of(b"one"), "a", &[1]).is_some());
        assert_eq!((stale.exists(), fresh.exists()), (false, true));
    }
}

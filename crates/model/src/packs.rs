//! A cache of tensors in the form that a machine's kernels read: made once, mapped by every process.
//!
//! A file is named by what it holds and ends with the BLAKE3 of the rest. One that is damaged, or
//! that cannot be written, is a file that is not there: the caller makes the bytes anew.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memmap2::Mmap;
use taimatsu_protocol::Digest;

use crate::store::Store;

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
    map: Mmap,
}

impl Packs {
    /// The cache in this folder, which need not be there.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The bytes under this name, if they are there, as many, and whole.
    #[must_use]
    pub fn get(&self, name: &str, size: usize) -> Option<Pack> {
        let file = File::open(self.dir.join(name)).ok()?;
        if file.metadata().ok()?.len() != (size + DIGEST) as u64 {
            return None;
        }
        let map = crate::mapped::map(&file).ok()?;
        let (bytes, digest) = map.split_at(size);
        (Digest::of(bytes).as_bytes() == digest).then_some(Pack { map })
    }

    /// Removes what was packed of these tensors: names end with a tensor's digest. What another
    /// model shares is made anew when it is wanted.
    pub(crate) fn forget(&self, tensors: &BTreeSet<Digest>) {
        let ends: BTreeSet<String> = tensors.iter().map(ToString::to_string).collect();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let end = name.to_str().and_then(|name| name.rsplit_once('-'));
            if end.is_some_and(|(_, digest)| ends.contains(digest)) {
                // A cache: what cannot be removed does no harm.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Keeps bytes under a name, and maps them; `None` where that cannot be done.
    #[must_use]
    pub fn put(&self, name: &str, bytes: &[u8]) -> Option<Pack> {
        fs::create_dir_all(&self.dir).ok()?;
        self.sweep();
        let mut file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(&self.dir).ok()?;
        let digest = Digest::of(bytes);
        file.write_all(bytes).and_then(|()| file.write_all(digest.as_bytes())).ok()?;
        file.persist(self.dir.join(name)).ok()?;
        self.get(name, bytes.len())
    }
}

impl Packs {
    /// Removes what somebody who was killed has left.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let age = entry.metadata().and_then(|about| about.modified()).map(|at| at.elapsed());
            let is_partial = entry.file_name().to_string_lossy().starts_with(PARTIAL);
            if is_partial && matches!(age, Ok(Ok(age)) if age > STALE) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
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
        &self.map[..self.map.len() - DIGEST]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let packs = Packs::new(&dir.path().join("packs"));
        assert!(packs.get("a", 3).is_none());
        assert_eq!(packs.put("a", &[1, 2, 3]).unwrap().bytes(), [1, 2, 3]);
        assert_eq!(packs.get("a", 3).unwrap().bytes(), [1, 2, 3]);
        assert!(packs.get("a", 4).is_none());
        let digest = Digest::of(b"tensor");
        let name = format!("k1-{digest}");
        assert!(packs.put(&name, &[4]).is_some());
        packs.forget(&BTreeSet::from([digest]));
        assert!(packs.get(&name, 1).is_none() && packs.get("a", 3).is_some());
        let [stale, fresh] =
            ["partial-1", "partial-2"].map(|name| dir.path().join("packs").join(name));
        for path in [&stale, &fresh] {
            fs::write(path, b"half").unwrap();
        }
        let old = std::time::SystemTime::now() - 2 * STALE;
        File::options().write(true).open(&stale).unwrap().set_modified(old).unwrap();
        let path = dir.path().join("packs/a");
        let mut bytes = fs::read(&path).unwrap();
        bytes[1] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(packs.get("a", 3).is_none());
        assert_eq!(packs.put("a", &[1, 2, 3]).unwrap().bytes(), [1, 2, 3]);
        assert_eq!((stale.exists(), fresh.exists()), (false, true));
    }
}

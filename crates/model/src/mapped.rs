//! The one place that maps files into memory.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::time::SystemTime;

use memmap2::Mmap;
use taimatsu_protocol::Digest;

/// What is read at a time.
const PIECE: usize = 1 << 20;

/// A file in memory. It is held to see whether somebody writes to it.
#[derive(Debug)]
pub(crate) struct Mapped {
    map: Mmap,
    file: File,
    /// When it was written to last.
    written: Option<SystemTime>,
}

impl Mapped {
    /// Maps a file that is only read.
    ///
    /// # Errors
    /// The system cannot map it.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let written = file.metadata()?.modified().ok();
        // Whoever would remove it sees that it is in use; where files cannot be locked, nobody does.
        let _ = file.try_lock_shared();
        #[allow(unsafe_code, reason = "there is no other way to map a file")]
        // SAFETY: the mapping is read-only. A file that another process shortens meanwhile raises
        // SIGBUS; files of the store are never written again after their rename into place.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map, file, written })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The digest of a part, read from the file.
    pub(crate) fn digest_of(&self, part: Range<usize>) -> io::Result<Digest> {
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE.min(part.len())];
        let mut at = part.start;
        while at < part.end {
            let piece = &mut piece[..PIECE.min(part.end - at)];
            read_at(&self.file, piece, at as u64)?;
            hasher.update(piece);
            at += piece.len();
        }
        Ok(Digest::from_bytes(hasher.finalize().into()))
    }

    /// Whether nobody has written to it: what was written would be computed with, and reading one
    /// that was shortened ends the process.
    pub(crate) fn is_as_opened(&self) -> bool {
        self.file.metadata().is_ok_and(|about| {
            about.len() >= self.map.len() as u64 && about.modified().ok() == self.written
        })
    }
}

#[cfg(unix)]
fn read_at(file: &File, into: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut into: &mut [u8], mut at: u64) -> io::Result<()> {
    while !into.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, into, at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (into, at) = (&mut into[read..], at + read as u64);
    }
    Ok(())
}

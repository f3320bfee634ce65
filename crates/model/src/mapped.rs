//! The one place that maps files into memory.

use std::fs::File;
use std::io;
use std::time::SystemTime;

use memmap2::Mmap;

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

    /// Whether nobody has written to it: what was written would be computed with, and reading one
    /// that was shortened ends the process.
    pub(crate) fn is_as_opened(&self) -> bool {
        self.file.metadata().is_ok_and(|about| {
            about.len() >= self.map.len() as u64 && about.modified().ok() == self.written
        })
    }
}

//! The one place that maps files into memory.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a file that is only read.
///
/// # Errors
/// The system cannot map it.
#[allow(unsafe_code, reason = "there is no other way to map a file")]
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is read-only. A file that another process shortens meanwhile raises
    // SIGBUS; files of the store are never written again after their rename into place.
    unsafe { Mmap::map(file) }
}

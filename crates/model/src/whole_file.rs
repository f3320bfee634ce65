//! Small files that anybody may have written: read whole or not at all, and never waited for.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// It cannot be read, is longer, or is something else: a pipe would be waited for, for ever.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    need_regular(path)?;
    let file = File::open(path)?;
    let length = file.metadata()?.len().min(most);
    // One go, so that no copy of a secret is left behind by growing.
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0).saturating_add(1));
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("longer than {most} bytes")));
    }
    Ok(bytes)
}

/// Refuses what is there and is no regular file.
///
/// # Errors
/// There is none, or something else.
pub fn need_regular(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(about) if !about.is_file() => {
            Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A file that is only locked; made where there is none.
///
/// # Errors
/// It cannot be made or opened, or is something else.
pub fn open_lock(path: &Path) -> io::Result<File> {
    match need_regular(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => File::options().create(true).truncate(false).write(true).open(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(read(&dir.path().join("none"), 5).unwrap_err().kind(), ErrorKind::NotFound);
        for other in [dir.path(), Path::new("/dev/zero")] {
            assert!(read(other, 5).unwrap_err().to_string().contains("no regular file"));
        }
    }
}

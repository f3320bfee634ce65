//! What goes to stdout: the answer, and nothing else.

use std::io::Write;

use crate::failure::{Code, Failure};

/// Prints a line.
///
/// # Errors
/// See [`print`].
pub(crate) fn say(line: impl std::fmt::Display) -> Result<(), Failure> {
    print(&format!("{line}\n"))
}

/// Prints a text as it stands.
///
/// # Errors
/// The reader has gone (`| head`), or the disk behind it is full.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        Failure::of(Code::Failure, "the answer cannot be written to stdout", &error)
            .try_this("a reader that reads to the end")
    })
}

//! What goes to stdout: the answer, and nothing else.

use std::io::{IsTerminal, Write};

use crate::failure::{Code, Failure};
use crate::text::visible;

/// Prints a line. What would steer a terminal is shown and not obeyed: names and addresses may be
/// a stranger's. In JSON it means the same.
///
/// # Errors
/// See [`print`].
pub(crate) fn say(line: impl std::fmt::Display) -> Result<(), Failure> {
    write(&format!("{}\n", visible(&line.to_string())))
}

/// Prints a text: as it stands, where it is not for a terminal.
///
/// # Errors
/// The reader has gone (`| head`), or the disk behind it is full.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().is_terminal() {
        true => write(&visible(text)),
        false => write(text),
    }
}

fn write(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        Failure::of(Code::Failure, "the answer cannot be written to stdout", &error)
            .try_this("a reader that reads to the end")
    })
}

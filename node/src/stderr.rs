//! What people are told beside the answer. Whoever read it may be gone: that ends nothing, least
//! of all a node.

use std::io::Write;

use crate::text::visible;

/// A line for people.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", visible(line));
}

/// The beginning of one.
pub(crate) fn begin(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(visible(text).as_bytes()).and_then(|()| err.flush());
}

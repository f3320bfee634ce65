//! A stranger's template on a thread of its own, with a deep stack and a deadline.
//!
//! The engine counts steps, but not everything: its parser, and dropping or comparing values that
//! lie within each other, recurse once a level, and an overflowing stack would end the whole
//! process; a list that is added to itself sixty times takes 360 steps to make and for ever to
//! walk. The stack holds the deepest values that the steps and the template's length allow (about
//! 2 kB a level, measured without optimisation); the deadline ends the waiting.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use super::TemplateError;

/// Runs `work` and waits for it, at most `limit`. What is not done by then goes on without anybody
/// waiting, as a thread cannot be ended: its caller must not start such work again.
pub(super) fn run<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> Result<T, TemplateError> + Send + 'static,
) -> Result<T, TemplateError> {
    let (done, result) = sync_channel(1);
    let started =
        thread::Builder::new().name("template".into()).stack_size(STACK).spawn(move || {
            // Nobody may be waiting any more.
            let _ = done.send(work());
        });
    if started.is_err() {
        return Err(TemplateError::Stack);
    }
    match result.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(TemplateError::Stuck),
        Err(RecvTimeoutError::Disconnected) => {
            Err(TemplateError::Refused("the template engine failed on it".into()))
        }
    }
}

/// Address space, not memory: only what is touched is ever there.
const STACK: usize = 256 << 20;

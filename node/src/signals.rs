//! Signals that mean "stop": Ctrl-C, SIGTERM and SIGHUP, where there are such.

/// Completes at the first of them.
pub(crate) async fn stop() {
    Stops::listen().next().await;
}

/// From now on a file that may not grow (`ulimit -f`) is an error of the write, and not the end of
/// the process. Needs a runtime.
#[cfg(unix)]
pub(crate) fn outlive_file_limits() {
    use tokio::signal::unix::{SignalKind, signal};
    // The handler stays when its stream is dropped. A signal that cannot be taken kills as before.
    drop(signal(SignalKind::from_raw(SIGXFSZ)));
}

/// On every system that Rust knows but MIPS, where 25 is a window's change of size.
#[cfg(unix)]
const SIGXFSZ: i32 = if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 31 } else { 25 };

/// All of them from now on, so that a second one counts however soon it comes.
#[cfg(unix)]
pub(crate) struct Stops(Vec<tokio::signal::unix::Signal>);

#[cfg(unix)]
impl Stops {
    /// Begins to listen. A signal that cannot be heard ends the process, as it would by itself.
    pub(crate) fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Self(kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect())
    }

    /// The next one.
    pub(crate) async fn next(&mut self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let all = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures::future::select_all(all).await;
    }
}

/// Ctrl-C, from now on.
#[cfg(not(unix))]
pub(crate) struct Stops;

#[cfg(not(unix))]
pub(crate) fn outlive_file_limits() {}

#[cfg(not(unix))]
impl Stops {
    /// Begins to listen.
    pub(crate) fn listen() -> Self {
        Self
    }

    /// The next one.
    pub(crate) async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}

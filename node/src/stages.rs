//! What a person sees while one waits: a line for each stage, with the seconds so far, on stderr.

use std::time::Instant;

/// Stages, told as they pass.
pub(crate) struct Stages {
    began: Instant,
    quiet: bool,
}

impl Stages {
    /// The first stage begins now.
    pub(crate) fn start(quiet: bool) -> Self {
        Self { began: Instant::now(), quiet }
    }

    /// A stage is done.
    pub(crate) fn done(&self, what: &str, detail: &str) {
        if !self.quiet {
            crate::stderr::tell(&format!(
                "  ✓ {what:<10} {detail:<62} {:>5.1}s",
                self.began.elapsed().as_secs_f64()
            ));
        }
    }

    /// Any other line.
    pub(crate) fn line(&self, text: &str) {
        if !self.quiet {
            crate::stderr::tell(text);
        }
    }
}

/// A form of a peer's id for eyes: its last six letters.
pub(crate) fn short(peer: &str) -> String {
    let start = peer.len().saturating_sub(6);
    format!("…{}", peer.get(start..).unwrap_or(peer))
}

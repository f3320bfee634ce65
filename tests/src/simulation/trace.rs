//! What happened: a hash over every event, and lines for eyes.

use taimatsu_protocol::Moment;

/// A run's record.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    aloud: bool,
}

impl Trace {
    /// An empty record; `aloud` prints lines as they come.
    #[must_use]
    pub const fn new(aloud: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, aloud }
    }

    /// Adds an event to the hash.
    pub fn note(&mut self, now: Moment, parts: [u64; 3]) {
        self.events += 1;
        for part in [now.as_micros()].into_iter().chain(parts) {
            self.hash = (self.hash ^ part).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    /// Prints a line, if anybody listens.
    pub fn say(&self, now: Moment, line: impl FnOnce() -> String) {
        if self.aloud {
            let micros = now.as_micros();
            println!("{:>6}.{:06}  {}", micros / 1_000_000, micros % 1_000_000, line());
        }
    }

    /// Equal runs have equal hashes.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// Events so far.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }
}

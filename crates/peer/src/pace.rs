//! How fast an answer really comes: the one figure of speed that no host can make up.

use std::collections::VecDeque;
use std::time::Duration;

use taimatsu_protocol::Moment;

/// Gaps between tokens that are remembered, the latest ones.
const GAPS: usize = 65;

/// Fewer than this many say nothing: a burst, a hiccup.
const ENOUGH: usize = 8;

/// When the tokens of one answer came. Bounded.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    last: Option<Moment>,
    gaps: VecDeque<Duration>,
}

impl Pace {
    /// No token as yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A token is here.
    pub fn token(&mut self, now: Moment) {
        if let Some(last) = self.last.replace(now) {
            if self.gaps.len() == GAPS {
                self.gaps.pop_front();
            }
            self.gaps.push_back(now.since(last));
        }
    }

    /// How long a token takes; none before there are enough. The median: a reader that pauses,
    /// and a packet that is sent again, make few gaps long and do not count.
    #[must_use]
    pub fn lap(&self) -> Option<Duration> {
        let mut gaps: Vec<_> = self.gaps.iter().copied().collect();
        gaps.sort_unstable();
        (gaps.len() >= ENOUGH).then(|| gaps[gaps.len() / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_do_not_count() {
        let mut pace = Pace::new();
        let mut now = Moment::default();
        for token in 0..100 {
            now = now + Duration::from_millis(if token % 20 == 0 { 9_000 } else { 30 });
            pace.token(now);
            assert_eq!(pace.lap().is_some(), token >= ENOUGH);
        }
        assert_eq!(pace.lap(), Some(Duration::from_millis(30)));
        assert_eq!(pace.gaps.len(), GAPS);
    }
}

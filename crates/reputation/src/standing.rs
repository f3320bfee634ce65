//! One peer's standing with one model: two scores, and why they are what they are.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use taimatsu_protocol::UnixSeconds;

use crate::beta::{Beta, HalfLives};
use crate::policy::{
    AVAILABLE_HALF_LIFE, CORRECT_HALF_LIFE, FAULT_HALF_LIFE, MOST_REASONS, MOST_UNAUDITED,
    UNAUDITED_WORTH,
};

/// What this node has seen a peer do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Evidence {
    /// Its part of an answer was there in time.
    InTime,
    /// It was not.
    Missed(Miss),
    /// The receipts of its part of an answer hold together.
    Receipted,
    /// It did what no correct host does.
    Fault(Fault),
}

/// How a deadline was missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Miss {
    /// It did not open the session in time, or could not be reached.
    Opening,
    /// It was lost, or fell silent, in the middle of an answer.
    Lost,
    /// It computed nothing for a minute.
    Stalled,
    /// It failed by its own account.
    Failed,
}

/// What no correct host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fault {
    /// A frame that does not open, has a wrong shape, or is out of place.
    Protocol,
    /// Receipts that do not hold together.
    Receipts,
}

/// Why a score moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// When.
    pub at: UnixSeconds,
    /// What was seen.
    pub evidence: Evidence,
    /// How often in a row, so that a thousand good answers are one line.
    pub times: u32,
}

/// Two scores that are kept apart: who is often away is not a liar, and who is always there is
/// not honest for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    correct: Beta,
    available: Beta,
    /// Unaudited work that stands in `correct`.
    unaudited: f64,
    reasons: VecDeque<Reason>,
    updated: UnixSeconds,
}

const CORRECT: HalfLives = HalfLives { good: CORRECT_HALF_LIFE, bad: FAULT_HALF_LIFE };
const AVAILABLE: HalfLives = HalfLives { good: AVAILABLE_HALF_LIFE, bad: AVAILABLE_HALF_LIFE };

impl Standing {
    /// Of a peer that nothing is known of.
    #[must_use]
    pub fn new(now: UnixSeconds) -> Self {
        Self {
            correct: Beta::new(now),
            available: Beta::new(now),
            unaudited: 0.0,
            reasons: VecDeque::new(),
            updated: now,
        }
    }

    /// Takes evidence in. `worth` is less than 1 where others failed at the same time.
    pub(crate) fn add(&mut self, now: UnixSeconds, evidence: Evidence, worth: f64) {
        self.settle(now);
        match evidence {
            Evidence::InTime => self.available.add_good(1.0),
            Evidence::Missed(_) => self.available.add_bad(worth),
            Evidence::Receipted => {
                let more = UNAUDITED_WORTH.min(MOST_UNAUDITED - self.unaudited).max(0.0);
                self.unaudited += more;
                self.correct.add_good(more);
            }
            Evidence::Fault(_) => self.correct.add_bad(1.0),
        }
        match self.reasons.back_mut() {
            Some(last) if last.evidence == evidence => {
                (last.times, last.at) = (last.times.saturating_add(1), now);
            }
            _ => self.reasons.push_back(Reason { at: now, evidence, times: 1 }),
        }
        while self.reasons.len() > MOST_REASONS {
            self.reasons.pop_front();
        }
    }

    /// The scores as they are at `now`.
    #[must_use]
    pub fn at(&self, now: UnixSeconds) -> (Beta, Beta) {
        (self.correct.decayed(now, CORRECT), self.available.decayed(now, AVAILABLE))
    }

    /// Why the scores moved, oldest first.
    pub fn reasons(&self) -> impl Iterator<Item = &Reason> {
        self.reasons.iter()
    }

    /// When evidence came last.
    #[must_use]
    pub const fn updated(&self) -> UnixSeconds {
        self.updated
    }

    /// Whether a fault of it still counts.
    #[must_use]
    pub fn has_fault(&self, now: UnixSeconds) -> bool {
        self.at(now).0.bad() > 0.01
    }

    fn settle(&mut self, now: UnixSeconds) {
        let before = self.correct.good();
        (self.correct, self.available) = self.at(now);
        if before > 0.0 {
            self.unaudited *= self.correct.good() / before;
        }
        self.updated = UnixSeconds(self.updated.0.max(now.0));
    }
}

impl Evidence {
    /// The word for it, in JSON and for eyes.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::InTime => "in_time",
            Self::Missed(Miss::Opening) => "missed_opening",
            Self::Missed(Miss::Lost) => "lost",
            Self::Missed(Miss::Stalled) => "stalled",
            Self::Missed(Miss::Failed) => "failed",
            Self::Receipted => "receipts_hold",
            Self::Fault(Fault::Protocol) => "broke_protocol",
            Self::Fault(Fault::Receipts) => "broken_receipts",
        }
    }
}

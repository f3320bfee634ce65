//! Whose loss it is: hops that lose a neighbour speak before the client can know who is gone.
//!
//! A hop that loses a neighbour ends, and so its other neighbour loses it in turn. Which of these
//! complaints reaches the client first is a matter of distances. A complaint is therefore held for
//! a moment: who has complained himself is not the one that is gone.

use taimatsu_protocol::Moment;
use taimatsu_protocol::control::HopFailure;

use super::{Failure, Origin, State};
use crate::policy::LOSS_GRACE;

/// A hop that says that a neighbour is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Complaint {
    hop: u8,
    lane: u8,
}

impl Complaint {
    /// Lane i leads from hop i to the next: whichever end does not complain is meant.
    const fn means(self, hops: u8) -> u8 {
        if self.lane == self.hop { (self.lane + 1) % hops } else { self.lane }
    }

    const fn failure(self) -> Failure {
        let failure = HopFailure::NeighbourLost { lane: self.lane };
        Failure::HopFailed { hop: self.hop, failure }
    }
}

impl Origin {
    /// A hop has given up.
    pub(super) fn gave_up(&mut self, now: Moment, hop: u8, failure: HopFailure) {
        let HopFailure::NeighbourLost { lane } = failure else {
            return self.fail(Failure::HopFailed { hop, failure });
        };
        if self.complaints.is_empty() {
            self.complained_at = now;
        }
        self.complaints.push(Complaint { hop, lane });
        // Alone with the client, or everybody else has spoken: nothing more will come.
        if self.complaints.len() + 1 >= self.hops.len() {
            self.judge_complaints();
        }
    }

    /// A hop's stream has ended.
    pub(super) fn lost(&mut self, hop: u8) {
        // After its complaint a hop leaves.
        if !self.complaints.iter().any(|complaint| complaint.hop == hop) {
            self.fail(Failure::HopLost { hop });
        }
    }

    /// When complaints are judged.
    pub(super) fn complaints_due(&self) -> Option<Moment> {
        let open = matches!(self.state, State::Opening | State::Running);
        (open && !self.complaints.is_empty()).then(|| self.complained_at + LOSS_GRACE)
    }

    /// Of all complaints the first that means a hop which has not complained itself.
    pub(super) fn judge_complaints(&mut self) {
        let hops = self.config.hops;
        let complained = |hop: u8| self.complaints.iter().any(|other| other.hop == hop);
        let mut true_ones = self.complaints.iter().filter(|one| !complained(one.means(hops)));
        let complaint = true_ones.next().or_else(|| self.complaints.first());
        if let Some(failure) = complaint.map(|complaint| complaint.failure()) {
            self.fail(failure);
        }
    }
}

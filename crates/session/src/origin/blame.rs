//! Which hop an answer is lost by, as far as the client can tell.

use taimatsu_protocol::Moment;
use taimatsu_protocol::control::HopFailure;

use super::{Failure, HopView, Origin};
use crate::policy::{HEARSAY, HOP_SILENCE};

/// A hop's last word: that it lost its neighbour.
#[derive(Debug, Clone, Copy)]
pub(super) struct Complaint {
    lane: u8,
    at: Moment,
}

impl Origin {
    /// A hop that loses a neighbour ends, and so its other neighbour loses it: complaints run
    /// around the ring, and the first one that is heard need not be the first one that was made.
    /// So they are gathered for a moment. The hop that is really lost ends its stream without a
    /// word, or says what ailed it; either ends the answer at once.
    pub(super) fn complained(&mut self, now: Moment, hop: u8, lane: u8) {
        let view = &mut self.hops[usize::from(hop)];
        view.complaint = view.complaint.or(Some(Complaint { lane, at: now }));
    }

    /// A hop's stream ended.
    pub(super) fn lost(&mut self, hop: u8) {
        let view = &mut self.hops[usize::from(hop)];
        if view.complaint.is_some() {
            view.closed = true;
            return;
        }
        self.fail(Failure::HopLost { hop });
    }

    /// When the gathering of complaints is over.
    pub(super) fn verdict_at(&self) -> Option<Moment> {
        let complaints = self.hops.iter().filter_map(|hop| hop.complaint);
        complaints.map(|complaint| complaint.at + HEARSAY).min()
    }

    /// The complaint to believe: the first about a hop that did not complain itself.
    pub(super) fn judged(&self, now: Moment) -> Option<Failure> {
        self.verdict_at().filter(|at| now >= *at)?;
        let mut complaints: Vec<(u8, Complaint)> = (0..self.config.hops)
            .filter_map(|hop| Some((hop, self.hops[usize::from(hop)].complaint?)))
            .collect();
        complaints.sort_by_key(|(_, complaint)| complaint.at);
        let is_fair = |(hop, complaint): &&(u8, Complaint)| {
            let (source, target) = self.ends(complaint.lane);
            let accused = if *hop == source { target } else { source };
            self.hops.get(usize::from(accused)).is_some_and(|hop| hop.complaint.is_none())
        };
        let (hop, Complaint { lane, .. }) =
            *complaints.iter().find(is_fair).or_else(|| complaints.first())?;
        Some(Failure::HopFailed { hop, failure: HopFailure::NeighbourLost { lane } })
    }

    /// When the first hop will have been silent for too long.
    pub(super) fn silence_at(&self) -> Option<Moment> {
        let heard = self.hops.iter().filter(|hop| hop.speaks()).map(|hop| hop.heard_at).min();
        heard.map(|heard| heard + HOP_SILENCE)
    }

    pub(super) fn silent(&self, now: Moment) -> Option<Failure> {
        let lost = |hop: &HopView| hop.speaks() && now.since(hop.heard_at) >= HOP_SILENCE;
        let hop = self.hops.iter().position(lost)?;
        Some(Failure::HopLost { hop: hop as u8 })
    }

    pub(super) fn first_not_open(&self) -> u8 {
        let refused = self.hops.iter().position(|hop| !hop.accepted);
        let unlinked = self.lanes.iter().position(|lane| !lane.up_at_source || !lane.up_at_target);
        refused.or(unlinked).unwrap_or(0) as u8
    }

    pub(super) fn furthest_behind(&self) -> u8 {
        let behind = self.hops.iter().enumerate().min_by_key(|(_, hop)| hop.kv_len);
        behind.map_or(0, |(hop, _)| hop as u8)
    }
}

impl HopView {
    /// Whether something is still to be heard of it.
    const fn speaks(&self) -> bool {
        self.accepted && self.complaint.is_none()
    }
}

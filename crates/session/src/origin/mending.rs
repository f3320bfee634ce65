//! Losses, and what takes their places (docs/protocol.md 3.8).

use std::ops::Range;
use std::time::Duration;

use taimatsu_protocol::Moment;
use taimatsu_protocol::control::{HopFailure, ToHop};
use taimatsu_protocol::opening::MAX_NUMBERS;

use super::views::{Ends, HopView, LaneView};
use super::{Failure, LaneEnd, Newcomer, Origin, OriginOutput, State};
use crate::policy::{DISPUTES, HOP_SILENCE, LOSSES, NEWCOMER, SEEK_AGAIN};

/// A ring that is not whole.
#[derive(Debug)]
pub(super) struct Mending {
    /// Since when.
    pub(super) since: Moment,
    /// What happened first.
    pub(super) failure: Failure,
    /// The ring at that time.
    pub(super) ring: Vec<u8>,
}

/// The search for hosts.
#[derive(Debug)]
pub(super) struct Seek {
    number: u32,
    /// Asked, and not answered.
    open: Option<Range<usize>>,
    pub(super) again_at: Option<Moment>,
    pause: Duration,
}

/// What a failure means for the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Nobody would do better.
    All,
    /// The hop, or the one before it: nobody knows which.
    Two,
    /// The hop.
    One,
}

impl Seek {
    pub(super) const fn new() -> Self {
        Self { number: 0, open: None, again_at: None, pause: SEEK_AGAIN.0 }
    }
}

impl Extent {
    fn of(failure: &Failure) -> Self {
        match failure {
            Failure::HopFailed { failure: HopFailure::UnknownToken { .. }, .. } => Self::All,
            // Into the leader go ids: it cannot compute them, and so say all.
            Failure::HopFailed { hop: 0, failure: HopFailure::NonFinite { .. } } => Self::All,
            Failure::HopFailed {
                failure:
                    HopFailure::NonFinite { .. } | HopFailure::BadFrame(_) | HopFailure::Disputed { .. },
                ..
            } => Self::Two,
            _ => Self::One,
        }
    }
}

impl Origin {
    /// A hop is lost: its place is to be taken, where that is of use.
    pub(super) fn lose(&mut self, now: Moment, hop: u8, failure: Failure) {
        match self.state {
            State::Closing => return self.closed(hop, None),
            State::Done => return,
            State::Opening | State::Running => {}
        }
        if self.hops[usize::from(hop)].gone {
            return;
        }
        let extent = Extent::of(&failure);
        let violated = matches!(failure, Failure::Violation { .. });
        self.losses += 1;
        self.disputes += u32::from(violated || extent == Extent::Two);
        let hopeless = self.state == State::Opening
            || self.config.score
            || self.config.patience.is_zero()
            || extent == Extent::All
            || self.losses > LOSSES
            || self.disputes > DISPUTES;
        if hopeless {
            return self.fail(failure);
        }
        self.tell_loss(failure.clone());
        let before = self.before(hop);
        self.mend(now, failure);
        self.let_go(hop);
        if extent == Extent::Two && before != hop {
            self.let_go(before);
        }
        self.seek.pause = SEEK_AGAIN.0;
        self.seek_now();
    }

    fn tell_loss(&mut self, failure: Failure) {
        self.outputs.push_back(OriginOutput::Lost { failure, ring: self.ring.clone() });
    }

    /// The ring is not whole from now on.
    pub(super) fn mend(&mut self, now: Moment, failure: Failure) {
        if self.mending.is_none() {
            self.mending = Some(Mending { since: now, failure, ring: self.ring.clone() });
        }
    }

    /// Nobody has taken the place of what was lost first.
    pub(super) fn give_up(&mut self) {
        if let Some(Mending { failure, ring, .. }) = self.mending.take() {
            self.fail(failure);
            self.blamed = ring;
        }
    }

    fn let_go(&mut self, hop: u8) {
        let view = &mut self.hops[usize::from(hop)];
        if std::mem::replace(&mut view.gone, true) {
            return;
        }
        if view.accepted {
            // One that is there after all has no use for what it holds.
            self.send(hop, ToHop::Close { through: 0 }, None);
        }
        self.outputs.push_back(OriginOutput::Drop { hop });
    }

    /// Asks for hosts for the first places that are vacant, else for that of a hop that leaves.
    pub(super) fn seek_now(&mut self) {
        (self.seek.open, self.seek.again_at) = (None, None);
        let gone = |hop: &u8| self.hops[usize::from(*hop)].gone;
        let places = match self.ring.iter().position(gone) {
            Some(first) => first..first + self.ring[first..].iter().take_while(|h| gone(h)).count(),
            None => {
                let leaving = |hop: &u8| self.hops[usize::from(*hop)].leaving;
                let whole = self.mending.is_none() && self.state == State::Running;
                let Some(first) = self.ring.iter().position(leaving).filter(|_| whole) else {
                    return;
                };
                first..first + 1
            }
        };
        self.seek.number += 1;
        self.seek.open = Some(places.clone());
        self.outputs.push_back(OriginOutput::Seek { seek: self.seek.number, places });
    }

    pub(super) fn nobody(&mut self, now: Moment, seek: u32) {
        if seek == self.seek.number && self.seek.open.take().is_some() {
            self.seek.again_at = Some(now + self.seek.pause);
            self.seek.pause = (self.seek.pause * 2).min(SEEK_AGAIN.1);
        }
    }

    pub(super) fn found(&mut self, now: Moment, seek: u32, hops: u8) {
        if seek != self.seek.number || self.state != State::Running {
            return;
        }
        let Some(places) = self.seek.open.take() else { return };
        for place in places.clone() {
            let hop = self.ring[place];
            if !self.hops[usize::from(hop)].gone {
                let failure = Failure::Leaves { hop: place as u8 };
                self.tell_loss(failure.clone());
                self.mend(now, failure);
                self.let_go(hop);
            }
        }
        let numbered = self.hops.len() + usize::from(hops) <= usize::from(MAX_NUMBERS);
        if !numbered || hops == 0 {
            return self.give_up();
        }
        self.splice(now, places, hops);
        self.seek_now();
    }

    /// Newcomers take places: they are opened, and their neighbours told.
    fn splice(&mut self, now: Moment, places: Range<usize>, count: u8) {
        let first = self.hops.len() as u8;
        let new: Vec<u8> = (first..first + count).collect();
        self.hops.extend(new.iter().map(|_| HopView::new(now, true)));
        self.ring.splice(places, new.iter().copied());
        let before = self.before(first);
        if self.has_lanes() {
            for source in std::iter::once(before).chain(new.iter().copied()) {
                self.generation += 1;
                let to = self.after(source);
                // A leader has the answer's ids, of which its opening tells.
                let fresh = to >= first && (to != self.ring[0] || self.handed == 0);
                self.hops[usize::from(source)].lane =
                    LaneView::new(now, to, self.generation, fresh);
            }
        }
        for hop in new {
            self.knock(hop);
        }
        self.tell_lane(before);
        if let Some(last) = self.hops.len().checked_sub(1) {
            self.tell_lane(last as u8);
        }
    }

    /// Asks for a hop to be opened, with its lanes as they are now.
    pub(super) fn knock(&mut self, hop: u8) {
        let (before, after) = (self.before(hop), self.after(hop));
        let lanes = self.has_lanes();
        let lane = |source: u8, other: u8| {
            let LaneView { generation, fresh, .. } = self.hops[usize::from(source)].lane;
            lanes.then_some(LaneEnd { lane: source, other, generation, fresh })
        };
        let (inward, out, credit) = (lane(before, before), lane(hop, after), self.granted);
        let place = usize::from(self.place(hop));
        let newcomer = Newcomer { hop, place, inward, out, credit };
        self.outputs.push_back(OriginOutput::Knock(Box::new(newcomer)));
        self.hops[usize::from(hop)].credit = credit;
        for (lane, end) in [(before, inward), (hop, out)] {
            let Some(LaneEnd { generation, .. }) = end else { continue };
            let told = &mut self.hops[usize::from(lane)].lane.told;
            *told = match lane == hop {
                true => Ends { source: generation, ..*told },
                false => Ends { target: generation, ..*told },
            };
        }
    }

    /// The hop's place in the ring.
    pub(super) fn place(&self, hop: u8) -> u8 {
        self.ring.iter().position(|number| *number == hop).unwrap_or(0) as u8
    }

    fn before(&self, hop: u8) -> u8 {
        let place = usize::from(self.place(hop));
        self.ring[(place + self.ring.len() - 1) % self.ring.len()]
    }

    fn after(&self, hop: u8) -> u8 {
        self.ring[(usize::from(self.place(hop)) + 1) % self.ring.len()]
    }

    /// The lanes to and from a hop.
    pub(super) fn lanes_of(&self, hop: u8) -> [u8; 2] {
        [self.before(hop), hop]
    }

    pub(super) fn mended_by(&self) -> Option<Moment> {
        self.mending.as_ref().map(|mending| mending.since + self.config.patience)
    }

    /// When the first newcomer has had long enough to accept.
    pub(super) fn newcomer_by(&self) -> Option<Moment> {
        let late = self.ring.iter().map(|hop| &self.hops[usize::from(*hop)]);
        let late = late.filter(|hop| hop.newcomer && !hop.accepted && !hop.gone);
        late.map(|hop| hop.asked_at + NEWCOMER).min()
    }

    /// When the first hop will have been silent for too long.
    pub(super) fn silence_at(&self) -> Option<Moment> {
        let here = self.ring.iter().map(|hop| &self.hops[usize::from(*hop)]);
        let heard = here.filter(|hop| hop.is_here()).map(|hop| hop.heard_at).min();
        heard.map(|heard| heard + HOP_SILENCE)
    }

    /// Whom nothing is heard of for too long, and what that is called.
    pub(super) fn overdue(&self, now: Moment) -> Option<(u8, Failure)> {
        let view = |hop: &u8| &self.hops[usize::from(*hop)];
        let silent =
            |hop: &&u8| view(hop).is_here() && now.since(view(hop).heard_at) >= HOP_SILENCE;
        if let Some(hop) = self.ring.iter().find(silent) {
            return Some((*hop, Failure::HopLost { hop: self.place(*hop) }));
        }
        let late = |hop: &&u8| {
            let view = view(hop);
            let waited = view.newcomer && !view.accepted && !view.gone;
            waited && now.since(view.asked_at) >= NEWCOMER
        };
        if let Some(hop) = self.ring.iter().find(late) {
            return Some((*hop, Failure::OpenTimeout { hop: self.place(*hop) }));
        }
        let (lane, _) = self.late_lane().filter(|(_, at)| self.mending.is_some() && now >= *at)?;
        let LaneView { to, up_at_source, .. } = self.hops[usize::from(lane)].lane;
        let hop = if up_at_source { to } else { lane };
        Some((hop, Failure::OpenTimeout { hop: self.place(hop) }))
    }

    pub(super) fn first_not_open(&self) -> u8 {
        let view = |hop: &u8| &self.hops[usize::from(*hop)];
        let refused = self.ring.iter().position(|hop| !view(hop).accepted);
        let unlinked = self.ring.iter().position(|hop| !view(hop).lane.stands());
        refused.or(unlinked).unwrap_or(0) as u8
    }

    /// The number of the hop that has computed least.
    pub(super) fn furthest_behind(&self) -> u8 {
        let behind = self.ring.iter().min_by_key(|hop| self.hops[usize::from(**hop)].kv_len);
        behind.copied().unwrap_or(0)
    }
}

//! Lanes as the client sees them: linked at both ends, failed, made anew, relayed through it.

use bytes::Bytes;
use taimatsu_protocol::Moment;
use taimatsu_protocol::control::{Forward, ToHop};

use super::views::{Ends, LaneView};
use super::{Failure, LaneEnd, Origin, OriginOutput, State};
use crate::policy::{HEARSAY, LANE_STALL, OPEN_TIMEOUT};

impl Origin {
    pub(super) fn linked(&mut self, now: Moment, hop: u8, lane: u8, generation: u32) {
        let Some(Ends { source, target }) = self.ends(lane) else {
            return self.violated(now, hop, lane);
        };
        let view = &mut self.hops[usize::from(lane)].lane;
        if generation != view.generation {
            return;
        }
        match hop {
            _ if hop == source => view.up_at_source = true,
            _ if hop == target => view.up_at_target = true,
            _ => return self.violation(now, hop),
        }
        self.opened(now);
    }

    pub(super) fn link_failed(&mut self, now: Moment, hop: u8, lane: u8, generation: u32) {
        let Some(Ends { source, target }) = self.ends(lane) else {
            return self.violated(now, hop, lane);
        };
        let view = &mut self.hops[usize::from(lane)].lane;
        if generation != view.generation {
            return;
        }
        if hop != source && hop != target {
            return self.violation(now, hop);
        }
        if view.stands() {
            // A hop that is gone takes its stream with it: that is soon heard of.
            view.failed_at = view.failed_at.or(Some(now));
        } else if view.relayed {
            let failure = Failure::Unlinkable { lane: self.place(source) };
            self.lose(now, target, failure);
        } else {
            self.renew(now, lane, true);
        }
    }

    /// Lanes that stood, and are lost: made anew where both their ends are heard of since, else
    /// the end that is not is lost.
    pub(super) fn renew_failed(&mut self, now: Moment) {
        let due = |lane: &u8| self.hearsay_of(*lane).is_some_and(|(at, _)| now >= at);
        let Some(lane) = self.ring.iter().copied().find(due) else { return };
        if let Some((_, Some(silent))) = self.hearsay_of(lane) {
            let failure = Failure::HopLost { hop: self.place(silent) };
            return self.lose(now, silent, failure);
        }
        let relayed = self.hops[usize::from(lane)].lane.relayed;
        let place = self.place(lane);
        self.mend(now, Failure::Unlinkable { lane: place });
        self.renew(now, lane, relayed);
    }

    /// A lane whose receiver lacks what its sender has, while nothing moves.
    pub(super) fn stalled_lane(&self) -> Option<(u8, Moment)> {
        if self.mending.is_some() || self.state != State::Running || !self.has_lanes() {
            return None;
        }
        let lacks = |lane: &&u8| {
            let source = &self.hops[usize::from(**lane)];
            let target = &self.hops[usize::from(source.lane.to)];
            // Ids that the tail has told of, but for the last, which it may keep back.
            let ids = (self.config.prompt_len + self.handed).saturating_sub(1);
            let sent = if **lane == self.tail() { ids } else { source.kv_len };
            target.received < sent
        };
        let lane = *self.ring.iter().find(lacks)?;
        // A new connection is given its time.
        let since = self.progress_at.max(self.hops[usize::from(lane)].lane.made_at);
        self.is_owed().then_some((lane, since + LANE_STALL))
    }

    pub(super) fn renew_stalled(&mut self, now: Moment) {
        let Some((lane, _)) = self.stalled_lane().filter(|(_, at)| now >= *at) else { return };
        let place = self.place(lane);
        self.mend(now, Failure::Unlinkable { lane: place });
        self.renew(now, lane, false);
    }

    /// When the gathering of news of a lost lane is over.
    pub(super) fn hearsay_at(&self) -> Option<Moment> {
        self.ring.iter().filter_map(|lane| self.hearsay_of(*lane)).map(|(at, _)| at).min()
    }

    /// When the gathering of news of this lane is over, and an end of it that was not heard of
    /// since. One that is there speaks within a heartbeat.
    fn hearsay_of(&self, lane: u8) -> Option<(Moment, Option<u8>)> {
        let view = &self.hops[usize::from(lane)];
        let target = &self.hops[usize::from(view.lane.to)];
        let at = view.lane.failed_at.filter(|_| view.is_here() && target.is_here())?;
        let silent = match (target.heard_at < at, view.heard_at < at) {
            (true, _) => Some(view.lane.to),
            (false, true) => Some(lane),
            (false, false) => return Some((at + HEARSAY, None)),
        };
        Some((at + HEARSAY * 3, silent))
    }

    /// The first lane that is not made in time, of those whose ends are both there.
    pub(super) fn late_lane(&self) -> Option<(u8, Moment)> {
        let late = |lane: &u8| {
            let view = &self.hops[usize::from(*lane)];
            let both = view.is_here() && self.hops[usize::from(view.lane.to)].is_here();
            let waits = both && self.has_lanes() && !view.lane.stands();
            waits.then_some((*lane, view.lane.made_at + OPEN_TIMEOUT))
        };
        self.ring.iter().filter_map(late).min_by_key(|(_, at)| *at)
    }

    /// A lane between the same hops, on another connection.
    fn renew(&mut self, now: Moment, lane: u8, relayed: bool) {
        self.generation += 1;
        let view = &mut self.hops[usize::from(lane)].lane;
        *view = LaneView {
            relayed,
            told: view.told,
            ..LaneView::new(now, view.to, self.generation, false)
        };
        self.tell_lane(lane);
    }

    /// Tells those ends of a lane that do not know its connection yet. Of one through this client
    /// both or none: what one says goes to the other.
    pub(super) fn tell_lane(&mut self, lane: u8) {
        if !self.has_lanes() {
            return;
        }
        let LaneView { to, generation, relayed, fresh, told, .. } =
            self.hops[usize::from(lane)].lane;
        let here = |hop: u8| self.hops[usize::from(hop)].is_here();
        let ends = [(to, lane, told.target), (lane, to, told.source)];
        let late = ends.iter().any(|(hop, _, _)| !here(*hop));
        let due = ends.map(|(hop, other, told)| {
            let due = told < generation && here(hop) && !(relayed && late);
            due.then_some((hop, other))
        });
        for (hop, other) in due.into_iter().flatten() {
            let view = &mut self.hops[usize::from(lane)].lane;
            let told = if hop == lane { &mut view.told.source } else { &mut view.told.target };
            *told = generation;
            if relayed {
                self.send(hop, ToHop::Relay { lane, generation }, None);
            } else {
                let lane = LaneEnd { lane, other, generation, fresh };
                self.outputs.push_back(OriginOutput::Relink { hop, lane });
            }
        }
    }

    pub(super) fn forward(&mut self, now: Moment, hop: u8, forward: Forward, frame: Option<Bytes>) {
        let Some(Ends { source, target }) = self.ends(forward.lane) else {
            return self.violated(now, hop, forward.lane);
        };
        let LaneView { generation, relayed, .. } = self.hops[usize::from(forward.lane)].lane;
        if forward.generation < generation {
            return;
        }
        let to = if hop == source { target } else { source };
        let (true, true, Some(frame)) = (relayed, hop == source || hop == target, frame) else {
            return self.violation(now, hop);
        };
        self.forwarded += 1;
        self.send(to, ToHop::Forward(forward), Some(frame));
    }

    /// The hops at the ends of a lane; none where no hop that is left has one of this number.
    fn ends(&self, lane: u8) -> Option<Ends<u8>> {
        let source = self.hops.get(usize::from(lane))?;
        let stands = self.has_lanes() && !source.gone;
        stands.then_some(Ends { source: lane, target: source.lane.to })
    }

    /// A hop speaks of a lane that is none: of a lost hop's it may not know yet.
    fn violated(&mut self, now: Moment, hop: u8, lane: u8) {
        if self.hops.get(usize::from(lane)).is_none_or(|source| !source.gone) {
            self.violation(now, hop);
        }
    }

    pub(super) fn violation(&mut self, now: Moment, hop: u8) {
        let failure = Failure::Violation { hop: self.place(hop) };
        self.lose(now, hop, failure);
    }

    pub(super) fn has_lanes(&self) -> bool {
        self.ring.len() > 1
    }

    /// Once every lane has been reported by both ends, and everybody is there.
    pub(super) fn opened(&mut self, now: Moment) {
        let ready = |hop: &u8| {
            let hop = &self.hops[usize::from(*hop)];
            hop.is_here() && (!self.has_lanes() || hop.lane.stands())
        };
        let news = self.state == State::Opening || self.mending.is_some();
        if !news || !self.ring.iter().all(ready) {
            return;
        }
        (self.state, self.mending, self.progress_at) = (State::Running, None, now);
        self.outputs.push_back(OriginOutput::Open);
        self.seek_now();
    }

    pub(super) fn send(&mut self, hop: u8, message: ToHop, frame: Option<Bytes>) {
        self.outputs.push_back(OriginOutput::ToHop { hop, message, frame });
    }
}

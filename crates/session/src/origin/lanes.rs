//! Lanes as the client sees them: linked at both ends, failed, relayed through the client.

use bytes::Bytes;
use taimatsu_protocol::Moment;
use taimatsu_protocol::control::{Forward, ToHop};

use super::{Failure, Origin, OriginOutput};

impl Origin {
    pub(super) fn linked(&mut self, now: Moment, hop: u8, lane: u8, generation: u32) {
        let (source, target) = self.ends(lane);
        let Some(view) = self.lanes.get_mut(usize::from(lane)) else {
            return self.fail(Failure::Violation { hop });
        };
        if generation != view.generation {
            return;
        }
        match hop {
            _ if hop == source => view.up_at_source = true,
            _ if hop == target => view.up_at_target = true,
            _ => return self.fail(Failure::Violation { hop }),
        }
        self.opened(now);
    }

    pub(super) fn link_failed(&mut self, hop: u8, lane: u8, generation: u32) {
        let (source, target) = self.ends(lane);
        let Some(view) = self.lanes.get_mut(usize::from(lane)) else {
            return self.fail(Failure::Violation { hop });
        };
        if hop != source && hop != target {
            return self.fail(Failure::Violation { hop });
        }
        if generation != view.generation {
            return;
        }
        if view.relayed {
            return self.fail(Failure::Unlinkable { lane });
        }
        view.generation += 1;
        (view.relayed, view.up_at_source, view.up_at_target) = (true, false, false);
        self.relay(lane);
    }

    /// Joins the ends of a lane through this client, once both are there: to one that has not
    /// accepted yet nothing can be said, neither this nor the other end's frames.
    fn relay(&mut self, lane: u8) {
        let (source, target) = self.ends(lane);
        let both = [target, source];
        if both.iter().any(|hop| !self.hops[usize::from(*hop)].accepted) {
            return;
        }
        let generation = self.lanes[usize::from(lane)].generation;
        for hop in both {
            self.send(hop, ToHop::Relay { lane, generation }, None);
        }
    }

    /// A hop has accepted after a neighbour had found that it cannot reach it.
    pub(super) fn relay_late(&mut self, hop: u8) {
        for lane in 0..self.lanes.len() as u8 {
            let (source, target) = self.ends(lane);
            if self.is_relayed(lane) && (hop == source || hop == target) {
                self.relay(lane);
            }
        }
    }

    pub(super) fn forward(&mut self, hop: u8, forward: Forward, frame: Option<Bytes>) {
        let (source, target) = self.ends(forward.lane);
        let relayed = self.is_relayed(forward.lane);
        let to = if hop == source { target } else { source };
        let (true, true, Some(frame)) = (relayed, hop == source || hop == target, frame) else {
            return self.fail(Failure::Violation { hop });
        };
        self.forwarded += 1;
        self.send(to, ToHop::Forward(forward), Some(frame));
    }

    fn ends(&self, lane: u8) -> (u8, u8) {
        (lane, (lane + 1) % self.config.hops)
    }

    pub(super) fn send(&mut self, hop: u8, message: ToHop, frame: Option<Bytes>) {
        self.outputs.push_back(OriginOutput::ToHop { hop, message, frame });
    }
}

//! Lanes as the client sees them: linked at both ends, failed, relayed through the client.

use bytes::Bytes;
use taimatsu_protocol::Moment;
use taimatsu_protocol::control::{Forward, ToHop};

use super::{Failure, Origin, OriginOutput};

/// Messages that wait for a hop to accept: a relay for each of its lanes, and a hello or two.
const MOST_EARLY: usize = 16;

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
        let message = ToHop::Relay { lane, generation: view.generation };
        for hop in [target, source] {
            self.send(hop, message.clone(), None);
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

    pub(super) fn ends(&self, lane: u8) -> (u8, u8) {
        (lane, (lane + 1) % self.config.hops)
    }

    pub(super) fn send(&mut self, hop: u8, message: ToHop, frame: Option<Bytes>) {
        let view = &mut self.hops[usize::from(hop)];
        if view.accepted {
            self.outputs.push_back(OriginOutput::ToHop { hop, message, frame });
        } else if view.early.len() < MOST_EARLY {
            view.early.push((message, frame));
        } else {
            self.fail(Failure::Violation { hop });
        }
    }
}

//! The hop's two lanes: up, lost, relayed through the client, led to another neighbour.

use taimatsu_protocol::Moment;
use taimatsu_protocol::control::ToClient;
use taimatsu_protocol::link::LinkAck;
use taimatsu_protocol::opening::LaneOpening;

use super::{End, Hop, HopOutput, Lane, State};
use crate::policy::WINDOW;

impl Hop {
    pub(super) fn lane(&mut self, end: End) -> &mut Lane {
        match end {
            End::In => &mut self.lane_in,
            End::Out => &mut self.lane_out,
        }
    }

    pub(super) fn lane_up(&mut self, now: Moment, end: End, generation: u32) {
        let lane = self.lane(end);
        if generation != lane.generation || lane.up {
            return;
        }
        (lane.up, lane.failed) = (true, false);
        let (number, fresh) = (lane.number, lane.fresh);
        self.tell_client(now, ToClient::Linked { lane: number, generation });
        match end {
            End::In if !fresh => self.permit(),
            End::In => {}
            End::Out if fresh => self.go_on(self.first_to_send(), WINDOW),
            // Whoever was here before says first what it has.
            End::Out => {}
        }
        if self.lane_in.up && self.lane_out.up {
            (self.state, self.started) = (State::Running, true);
        }
    }

    /// Tells the previous hop what is here, and how far it may go.
    pub(super) fn permit(&mut self) {
        let (received, kv_len, until) = (self.received, self.kv_len, self.permitted);
        self.outputs.push_back(HopOutput::Up(LinkAck { received, kv_len, until }));
    }

    /// The next hop has everything below `position`.
    pub(super) fn go_on(&mut self, position: u32, until: u32) {
        (self.sending, self.sent, self.may_send_until) = (true, position, until);
        if let Some(book) = &mut self.book {
            book.hand_on_again();
        }
        self.send_on();
    }

    /// The next hop says what it has, and how far this one may go.
    pub(super) fn acknowledged(&mut self, ack: LinkAck) {
        if !self.lane_out.up {
            return;
        }
        if !self.sending {
            return self.go_on(ack.received, ack.until);
        }
        self.may_send_until = self.may_send_until.max(ack.until);
        self.send_on();
    }

    /// What is lost with a lane is sent again on the next connection; till then the client is
    /// waited for.
    pub(super) fn lane_lost(&mut self, now: Moment, end: End, generation: u32) {
        let lane = self.lane(end);
        if generation != lane.generation || lane.failed {
            return;
        }
        (lane.up, lane.failed) = (false, true);
        let number = lane.number;
        self.state = State::Linking;
        self.sending &= end == End::In;
        self.tell_client(now, ToClient::LinkFailed { lane: number, generation });
    }

    pub(super) fn relay(&mut self, number: u8, generation: u32) {
        for end in [End::Out, End::In] {
            let lane = self.lane(end);
            if lane.number == number && generation > lane.generation {
                self.renew(end, Lane { relayed: true, ..Lane::new(number, generation, false) });
            }
        }
    }

    /// Another neighbour, or the same one on another connection.
    pub(super) fn relink(&mut self, opening: LaneOpening) {
        let end = if opening.lane == self.config.hop { End::Out } else { End::In };
        let LaneOpening { lane, generation, fresh, peer, .. } = opening;
        // One that is alone has no lanes.
        if self.config.lanes.is_none() || generation <= self.lane(end).generation {
            return;
        }
        if let (End::In, Some(book)) = (end, &mut self.book) {
            book.led_from(peer, self.leader);
        }
        self.outputs.push_back(HopOutput::Neighbour { end, lane: Box::new(opening) });
        self.renew(end, Lane::new(lane, generation, fresh));
    }

    fn renew(&mut self, end: End, lane: Lane) {
        let Lane { generation, relayed, .. } = lane;
        *self.lane(end) = lane;
        self.state = State::Linking;
        self.sending &= end == End::In;
        self.outputs.push_back(match end {
            End::Out => HopOutput::Dial { generation, relayed },
            End::In => HopOutput::Expect { generation, relayed },
        });
    }
}

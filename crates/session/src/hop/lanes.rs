//! The hop's two lanes: up, lost, relayed through the client.

use taimatsu_protocol::Moment;
use taimatsu_protocol::control::{HopFailure, ToClient};

use super::{End, Hop, HopOutput, Lane, State};
use crate::policy::LANE_GRACE;

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
        lane.up = true;
        let number = lane.number;
        self.tell_client(now, ToClient::Linked { lane: number, generation });
        if self.lane_in.up && self.lane_out.up {
            self.state = State::Running;
        }
    }

    pub(super) fn lane_lost(&mut self, now: Moment, end: End, generation: u32) {
        let running = self.state == State::Running;
        let lane = self.lane(end);
        if generation != lane.generation {
            return;
        }
        let number = lane.number;
        if running {
            // Neighbours of an answer that is over may leave before the client's word is here;
            // and of a real loss the client knows already.
            if self.lost.is_none() {
                self.lost = Some((number, now));
                self.ack(now);
            }
        } else {
            lane.up = false;
            self.tell_client(now, ToClient::LinkFailed { lane: number, generation });
        }
    }

    /// A lane has been lost for so long that nobody is closing this session.
    pub(super) fn complain(&mut self, now: Moment) {
        if let Some((lane, _)) = self.lost.filter(|(_, at)| now.since(*at) >= LANE_GRACE) {
            self.fail(HopFailure::NeighbourLost { lane });
        }
    }

    pub(super) fn relay(&mut self, number: u8, generation: u32) {
        for end in [End::Out, End::In] {
            let lane = self.lane(end);
            if lane.number != number || generation <= lane.generation {
                continue;
            }
            (lane.generation, lane.up, lane.relayed) = (generation, false, true);
            self.state = State::Linking;
            self.outputs.push_back(match end {
                End::Out => HopOutput::Dial { generation, relayed: true },
                End::In => HopOutput::Expect { generation, relayed: true },
            });
        }
    }
}

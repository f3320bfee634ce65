//! Lanes whose ends cannot dial each other: their frames go through the client.

use bytes::Bytes;
use taimatsu_peer::session::{End, HopInput};
use taimatsu_protocol::SessionId;
use taimatsu_protocol::control::{Forward, ToClient, Violation};

use super::hop::lane_input;
use super::streams::LaneFrame;
use super::world::{NodeId, World};

impl World {
    pub(crate) fn on_forward(
        &mut self,
        node: NodeId,
        session: SessionId,
        forward: Forward,
        ticket: &Bytes,
    ) {
        let Some(frame) = self.uncarry(ticket) else { return };
        let Some(task) = self.nodes[node].hops.get_mut(&session) else { return };
        let Forward { lane: number, generation } = forward;
        for end in [End::In, End::Out] {
            let lane = task.lane(end);
            let it = lane.relayed && lane.number == number && lane.generation == generation;
            if !it {
                continue;
            }
            let stood = std::mem::replace(&mut lane.through_client, true);
            let input = match (stood, end, frame) {
                (false, End::In, LaneFrame::Hello(_)) => {
                    lane.to_client.push_back(LaneFrame::Reply(true));
                    HopInput::LaneUp(end, generation)
                }
                (false, End::Out, LaneFrame::Reply(true)) => HopInput::LaneUp(end, generation),
                (true, end, frame) => lane_input(end, frame),
                _ => HopInput::Broken(Violation::Seal),
            };
            self.flush_relayed(node, session, end);
            return self.hop_input(node, session, input);
        }
    }

    pub(crate) fn flush_relayed(&mut self, node: NodeId, session: SessionId, end: End) {
        loop {
            let Some(task) = self.nodes[node].hops.get_mut(&session) else { return };
            let lane = task.lane(end);
            let Some(frame) = lane.to_client.pop_front() else { return };
            let forward = Forward { lane: lane.number, generation: lane.generation };
            let ticket = self.carry(frame);
            self.tell_client(node, session, ToClient::Forward(forward), Some(ticket));
        }
    }

    fn carry(&mut self, frame: LaneFrame) -> Bytes {
        self.next_ticket += 1;
        self.carried.insert(self.next_ticket, frame);
        Bytes::copy_from_slice(&self.next_ticket.to_le_bytes())
    }

    fn uncarry(&mut self, ticket: &Bytes) -> Option<LaneFrame> {
        let number = u64::from_le_bytes(ticket[..].try_into().ok()?);
        self.carried.remove(&number)
    }
}

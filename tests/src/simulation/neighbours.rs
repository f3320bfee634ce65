//! Neighbours in a ring: dialled, awaited, and heard.

use taimatsu_peer::session::policy::DIAL;
use taimatsu_peer::session::{End, HopInput};
use taimatsu_protocol::SessionId;
use taimatsu_protocol::control::Violation;

use super::events::Event;
use super::hop::lane_input;
use super::streams::{Frame, Kind, LaneFrame, LinkHello, StreamId, lane_end};
use super::world::{NodeId, World};

/// As the node's: neighbours that wait for the client's word of them.
const EARLY_NEIGHBOURS: usize = 4;

impl World {
    pub(super) fn dial_lane(&mut self, node: NodeId, session: SessionId) {
        let Some(task) = self.nodes[node].hops.get_mut(&session) else { return };
        let lane = &mut task.lane_out;
        let generation = lane.generation;
        let hello = LaneFrame::Hello(LinkHello { session, lane: lane.number, generation });
        if lane.relayed {
            lane.to_client.push_back(hello);
            return self.flush_relayed(node, session, End::Out);
        }
        let Some(peer) = lane.peer else { return };
        let kind = Kind::Link { session, generation };
        let stream = self.dial(kind, [node, peer], Frame::Lane(hello));
        if let Some(task) = self.nodes[node].hops.get_mut(&session) {
            task.lane_out.dialing = Some(stream);
        }
        self.after(DIAL, Event::LaneLate { node, session, generation });
    }

    pub(crate) fn lane_late(&mut self, node: NodeId, session: SessionId, generation: u32) {
        let Some(task) = self.nodes[node].hops.get_mut(&session) else { return };
        if task.lane_out.generation != generation {
            return;
        }
        if let Some(stream) = task.lane_out.dialing.take() {
            self.close(stream, 0);
            self.hop_input(node, session, HopInput::LaneLost(End::Out, generation));
        }
    }

    /// The previous hop is here.
    pub(crate) fn neighbour(
        &mut self,
        node: NodeId,
        from: NodeId,
        stream: StreamId,
        hello: LinkHello,
    ) {
        if self.is_neighbour(node, from, stream, hello) {
            let LinkHello { session, generation, .. } = hello;
            self.hop_input(node, session, HopInput::LaneUp(End::In, generation));
        }
    }

    /// Whether the lane stands now.
    pub(super) fn is_neighbour(
        &mut self,
        node: NodeId,
        from: NodeId,
        stream: StreamId,
        hello: LinkHello,
    ) -> bool {
        let LinkHello { session, lane, generation } = hello;
        let Some(task) = self.nodes[node].hops.get_mut(&session) else { return false };
        if generation > task.lane_in.generation {
            task.early.push_back((stream, from, hello));
            if task.early.len() > EARLY_NEIGHBOURS
                && let Some((stream, ..)) = task.early.pop_front()
            {
                self.close(stream, 1);
            }
            return false;
        }
        let end = &mut task.lane_in;
        let stands = end.stream.is_some() || end.relayed;
        let good = !stands && end.peer == Some(from) && end.number == lane;
        if !good || end.generation != generation {
            self.send(stream, 1, Frame::Lane(LaneFrame::Reply(false)));
            self.close(stream, 1);
            return false;
        }
        end.stream = Some(stream);
        self.send(stream, 1, Frame::Lane(LaneFrame::Reply(true)))
    }

    /// Something has come on a link stream.
    pub(crate) fn at_lane(
        &mut self,
        node: NodeId,
        session: SessionId,
        generation: u32,
        (stream, at): (StreamId, usize),
        frame: Frame,
    ) {
        let end = lane_end(at);
        let Some(task) = self.nodes[node].hops.get_mut(&session) else {
            return self.unowned(node, (stream, at), &frame);
        };
        let lane = task.lane(end);
        if lane.dialing == Some(stream) {
            lane.dialing = None;
            let up = matches!(frame, Frame::Lane(LaneFrame::Reply(true)));
            let up = up && lane.is_direct_as(generation);
            lane.stream = up.then_some(stream);
            if !up {
                self.close(stream, at);
            }
            return self.hop_input(
                node,
                session,
                match up {
                    true => HopInput::LaneUp(End::Out, generation),
                    false => HopInput::LaneLost(End::Out, generation),
                },
            );
        }
        if lane.stream != Some(stream) {
            return self.unowned(node, (stream, at), &frame);
        }
        if lane.is_direct_as(generation) {
            self.hop_input(
                node,
                session,
                match frame {
                    Frame::Lane(frame) => lane_input(end, frame),
                    Frame::Fin => HopInput::LaneLost(end, generation),
                    _ => HopInput::Broken(Violation::Seal),
                },
            );
        }
    }
}

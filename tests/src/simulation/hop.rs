//! A host's session, performed as `node/src/driver/{hop_task,lane}.rs` do.

use std::collections::VecDeque;

use bytes::Bytes;
use taimatsu_executor::KvId;
use taimatsu_peer::Input;
use taimatsu_peer::session::{End, Hop, HopConfig, HopInput, HopOutput, LaneTerms};
use taimatsu_protocol::control::{ToClient, ToHop, Violation};
use taimatsu_protocol::signed::Verified;
use taimatsu_protocol::{Moment, SessionId};

use super::events::Timer;
use super::serving::short;
use super::streams::{Frame, LaneFrame, LinkHello, StreamId};
use super::worker::{Command, Order};
use super::world::{NodeId, World};

/// A session on a host.
#[derive(Debug)]
pub(crate) struct HopTask {
    machine: Hop,
    control: StreamId,
    worker: usize,
    kv: KvId,
    prompt_len: u32,
    pub(super) lane_in: LaneEnd,
    pub(super) lane_out: LaneEnd,
    /// Neighbours of whom the client has not told yet: their streams, who they are, what they said.
    pub(super) early: VecDeque<(StreamId, NodeId, LinkHello)>,
    over: bool,
    armed: Option<Moment>,
}

/// One end of a lane.
#[derive(Debug)]
pub(super) struct LaneEnd {
    pub(super) number: u8,
    pub(super) peer: Option<NodeId>,
    pub(super) generation: u32,
    pub(super) relayed: bool,
    pub(super) dialing: Option<StreamId>,
    /// The stream of a lane that stands and is straight.
    pub(super) stream: Option<StreamId>,
    /// A relayed lane stands.
    pub(super) through_client: bool,
    pub(super) to_client: VecDeque<LaneFrame>,
}

impl HopTask {
    pub(crate) fn new(
        now: Moment,
        config: HopConfig,
        control: StreamId,
        (worker, kv): (usize, KvId),
        [previous, next]: [Option<NodeId>; 2],
    ) -> Self {
        let lane = |lane: Option<LaneTerms>, peer| LaneEnd {
            number: lane.map_or(u8::MAX, |lane| lane.number),
            peer,
            generation: lane.map_or(0, |lane| lane.generation),
            relayed: false,
            dialing: None,
            stream: None,
            through_client: false,
            to_client: VecDeque::new(),
        };
        Self {
            lane_in: lane(config.lanes.map(|lanes| lanes.inward), previous),
            lane_out: lane(config.lanes.map(|lanes| lanes.out), next),
            early: VecDeque::new(),
            prompt_len: config.prompt_len,
            machine: Hop::new(now, config),
            control,
            worker,
            kv,
            over: false,
            armed: None,
        }
    }

    pub(super) fn lane(&mut self, end: End) -> &mut LaneEnd {
        match end {
            End::In => &mut self.lane_in,
            End::Out => &mut self.lane_out,
        }
    }
}

impl LaneEnd {
    pub(super) const fn is_direct_as(&self, generation: u32) -> bool {
        !self.relayed && self.generation == generation
    }

    /// A new connection is to be made: what stood is given back, to be closed.
    fn renew(&mut self, generation: u32, relayed: bool) -> [Option<StreamId>; 2] {
        (self.generation, self.relayed, self.through_client) = (generation, relayed, false);
        [self.dialing.take(), self.stream.take()]
    }
}

impl World {
    /// A machine of a session is told something.
    pub(crate) fn hop_input(&mut self, node: NodeId, session: SessionId, input: HopInput) {
        let now = self.now;
        let Some(task) = self.nodes[node].hops.get_mut(&session) else { return };
        task.machine.handle(now, input);
        self.perform_hop(node, session);
    }

    pub(crate) fn wake_hop(&mut self, node: NodeId, session: SessionId, at: Moment) {
        let now = self.now;
        let Some(task) = self.nodes[node].hops.get_mut(&session) else { return };
        if task.armed != Some(at) {
            return;
        }
        task.armed = None;
        if task.machine.poll_timeout().is_some_and(|due| due <= now) {
            task.machine.handle_timeout(now);
        }
        self.perform_hop(node, session);
    }

    /// A job is done.
    pub(crate) fn executed(&mut self, node: NodeId, session: SessionId, kv: KvId, input: HopInput) {
        if self.nodes[node].hops.get(&session).is_some_and(|task| task.kv == kv) {
            self.hop_input(node, session, input);
        }
    }

    /// The node's sessions are told that it takes nobody new.
    pub(crate) fn warn_hops(&mut self, node: NodeId) {
        let sessions: Vec<_> = self.nodes[node].hops.keys().copied().collect();
        for session in sessions {
            self.hop_input(node, session, HopInput::Leaving);
        }
    }

    /// The node's sessions are told that it leaves.
    pub(crate) fn drain_hops(&mut self, node: NodeId) {
        let sessions: Vec<_> = self.nodes[node].hops.keys().copied().collect();
        for session in sessions {
            self.hop_input(node, session, HopInput::Drain);
        }
    }

    pub(crate) fn on_control(
        &mut self,
        node: NodeId,
        session: SessionId,
        stream: StreamId,
        frame: Frame,
    ) {
        if self.nodes[node].hops.get(&session).is_none_or(|task| task.control != stream) {
            return;
        }
        match frame {
            Frame::ToHop(ToHop::Forward(forward), Some(ticket)) => {
                self.on_forward(node, session, forward, &ticket);
            }
            Frame::ToHop(message, _) => {
                self.hop_input(node, session, HopInput::FromClient(message))
            }
            Frame::Fin => self.hop_input(node, session, HopInput::ClientLost),
            _ => self.hop_input(node, session, HopInput::Broken(Violation::Seal)),
        }
    }

    /// Does what the machine says, to the last.
    pub(crate) fn perform_hop(&mut self, node: NodeId, session: SessionId) {
        loop {
            let Some(task) = self.nodes[node].hops.get_mut(&session) else { return };
            let Some(output) = task.machine.poll_output() else { break };
            if task.over {
                self.fail(|| format!("n{node} goes on after a session's end: {output:?}"));
                break;
            }
            self.perform_hop_output(node, session, output);
        }
        let Some(task) = self.nodes[node].hops.get(&session) else { return };
        if task.over {
            return self.end_hop(node, session);
        }
        let (armed, timeout) = (task.armed, task.machine.poll_timeout());
        let armed = self.arm(Timer::Hop(node, session), armed, timeout);
        if let Some(task) = self.nodes[node].hops.get_mut(&session) {
            task.armed = armed;
        }
    }

    fn perform_hop_output(&mut self, node: NodeId, session: SessionId, output: HopOutput) {
        let this = &mut self.nodes[node];
        let Some(task) = this.hops.get_mut(&session) else { return };
        match output {
            HopOutput::Dial { generation, relayed } => {
                let old = task.lane_out.renew(generation, relayed);
                self.dial_lane(node, session);
                self.close_all(old, 0);
            }
            HopOutput::Expect { generation, relayed } => {
                let old = task.lane_in.renew(generation, relayed);
                let early = std::mem::take(&mut task.early);
                self.close_all(old, 1);
                for (stream, from, hello) in early {
                    if self.is_neighbour(node, from, stream, hello)
                        && let Some(task) = self.nodes[node].hops.get_mut(&session)
                    {
                        task.machine.handle(self.now, HopInput::LaneUp(End::In, generation));
                    }
                }
            }
            HopOutput::Neighbour { end, lane } => {
                let peer = self.node_of(&lane.peer);
                if let Some(task) = self.nodes[node].hops.get_mut(&session) {
                    let end = task.lane(end);
                    (end.number, end.peer) = (lane.lane, peer);
                }
            }
            HopOutput::ToClient(message) => {
                if let ToClient::Verdict { index, .. } = message {
                    let (worker, kv, prompt) = (task.worker, task.kv, task.prompt_len);
                    let have = this.workers[worker].kv_len(kv);
                    if have < prompt + index {
                        self.fail(|| format!("n{node} releases {index}, and has {have} positions"));
                    }
                }
                self.tell_client(node, session, message, None);
            }
            HopOutput::Down { mark, message, tensor } => {
                let frame = LaneFrame::Down { mark, message, tensor };
                self.send_lane(node, session, End::Out, frame);
            }
            HopOutput::Up(ack) => self.send_lane(node, session, End::In, LaneFrame::Up(ack)),
            HopOutput::Execute(job) => {
                let (worker, kv) = (task.worker, task.kv);
                self.command(node, worker, Command::Run(Order { session, kv, job }));
            }
            HopOutput::Sign(receipt) => {
                let signed =
                    Verified::sign(*receipt, &this.key).expect("a hop signs in its host's name");
                let signed = HopInput::Signed(signed.wire().clone());
                task.machine.handle(self.now, signed);
            }
            HopOutput::End => task.over = true,
        }
    }

    fn end_hop(&mut self, node: NodeId, session: SessionId) {
        let Some(task) = self.nodes[node].hops.remove(&session) else { return };
        self.trace.say(self.now, || format!("n{node} has freed {}", short(&session)));
        self.command(node, task.worker, Command::Close(task.kv));
        self.close(task.control, 1);
        self.close_all([task.lane_out.dialing, task.lane_out.stream], 0);
        self.close_all([task.lane_in.dialing, task.lane_in.stream], 1);
        for (stream, ..) in task.early {
            self.close(stream, 1);
        }
        self.tell(node, Input::SessionEnded { session });
    }

    fn close_all(&mut self, streams: [Option<StreamId>; 2], end: usize) {
        for stream in streams.into_iter().flatten() {
            self.close(stream, end);
        }
    }

    fn send_lane(&mut self, node: NodeId, session: SessionId, end: End, frame: LaneFrame) {
        let now = self.now;
        let Some(task) = self.nodes[node].hops.get_mut(&session) else { return };
        let lane = task.lane(end);
        let generation = lane.generation;
        if lane.relayed && lane.through_client {
            lane.to_client.push_back(frame);
            return self.flush_relayed(node, session, end);
        }
        let at = usize::from(end == End::In);
        let stream = lane.stream;
        let sent = stream.is_some_and(|stream| self.send(stream, at, Frame::Lane(frame)));
        if !sent && let Some(task) = self.nodes[node].hops.get_mut(&session) {
            task.machine.handle(now, HopInput::LaneLost(end, generation));
        }
    }

    pub(super) fn tell_client(
        &mut self,
        node: NodeId,
        session: SessionId,
        message: ToClient,
        frame: Option<Bytes>,
    ) {
        let now = self.now;
        let Some(task) = self.nodes[node].hops.get(&session) else { return };
        let (control, over) = (task.control, task.over);
        let sent = self.send(control, 1, Frame::ToClient(message, frame));
        if !sent
            && !over
            && let Some(task) = self.nodes[node].hops.get_mut(&session)
        {
            task.machine.handle(now, HopInput::ClientLost);
        }
    }
}

pub(super) fn lane_input(end: End, frame: LaneFrame) -> HopInput {
    match (end, frame) {
        (End::In, LaneFrame::Down { mark, message, tensor }) => {
            HopInput::FromUpstream { mark, message, tensor }
        }
        (End::Out, LaneFrame::Up(ack)) => HopInput::FromDownstream(ack),
        _ => HopInput::Broken(Violation::Seal),
    }
}

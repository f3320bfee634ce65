//! The scenario's hand: what it does to the world.

use taimatsu_peer::Input;
use taimatsu_protocol::PeerId;

use super::asking::Outcome;
use super::events::{Action, Event};
use super::streams::{Frame, Kind, StreamId};
use super::worker::Speed;
use super::world::{AskId, NodeId, World};

impl World {
    /// The ask of whoever sends copies of other people's openings.
    pub(crate) const REPLAY: AskId = usize::MAX;

    pub(crate) fn node_of(&self, peer: &PeerId) -> Option<NodeId> {
        self.names.iter().position(|name| name == peer)
    }

    pub(crate) fn perform(&mut self, action: Action) {
        self.trace.say(self.now, || format!("-- {action:?}"));
        match action {
            Action::Ask(ask) => self.ask(ask),
            Action::Crash { node, silent } => self.crash(node, silent),
            Action::CrashHop { ask, hop, silent } => {
                if let Some(node) = self.hop_of(ask, hop) {
                    self.crash(node, silent);
                }
            }
            Action::Stop { ask, hop, pause } => {
                if let Some(node) = self.hop_of(ask, hop) {
                    self.links.isolate(node);
                    self.after(pause, Event::Act(Action::Wake(node)));
                }
            }
            Action::Wake(node) => {
                self.links.join(node);
                self.release_held();
            }
            Action::CutLane { ask, lane } => self.cut_lane(ask, lane),
            Action::HalfLane { ask, lane } => self.half_lane(ask, lane),
            Action::DrainHop { ask, hop, patience } => {
                if let Some(node) = self.hop_of(ask, hop) {
                    self.perform(Action::Drain { node, patience });
                }
            }
            Action::HalfOpen { ask, hop, outward } => {
                if let Some(node) = self.hop_of(ask, hop) {
                    let client = self.asks[ask].question.node;
                    let (from, to) = if outward { (client, node) } else { (node, client) };
                    self.links.cut(from, to);
                }
            }
            Action::Restart(node) => {
                if !self.nodes[node].up {
                    self.start(node);
                }
            }
            Action::Host { node, span } => {
                let speed = Speed {
                    decode_micros: 10_000,
                    prefill_micros: 500,
                    lie: None,
                    capacity: 4_096,
                };
                if self.nodes[node].up {
                    self.host(node, 0, span, speed);
                }
            }
            Action::Drain { node, patience } => {
                if self.nodes[node].up {
                    self.tell(node, Input::Drain);
                    self.warn_hops(node);
                    self.after(patience, Event::Act(Action::DrainEnds(node)));
                }
            }
            Action::DrainEnds(node) => self.drain_hops(node),
            Action::Part(sides) => self.links.part(sides),
            Action::Heal => {
                self.links.heal();
                self.release_held();
            }
            Action::Replay { ask, from } => self.replay(ask, from),
        }
    }

    fn hop_of(&self, ask: AskId, hop: usize) -> Option<NodeId> {
        let chain = self.asks[ask].chains.last()?;
        chain.get(hop.min(chain.len() - 1)).copied()
    }

    fn half_lane(&mut self, ask: AskId, lane: usize) {
        let ends = self.hop_of(ask, lane).and_then(|from| {
            let chain = self.asks[ask].chains.last()?;
            let place = chain.iter().position(|node| *node == from)?;
            Some((from, chain[(place + 1) % chain.len()]))
        });
        if let Some((from, to)) = ends.filter(|(from, to)| from != to) {
            self.links.cut(from, to);
        }
    }

    fn cut_lane(&mut self, ask: AskId, lane: usize) {
        let Some(from) = self.hop_of(ask, lane) else { return };
        let Some(run) = &self.asks[ask].run else { return };
        let session = run.session;
        let it = |stream: &super::streams::Stream| {
            matches!(stream.kind, Kind::Link { session: of, .. } if of == session)
                && stream.ends[0] == from
                && stream.open == [true; 2]
        };
        let found =
            self.streams.iter().filter(|(_, stream)| it(stream)).map(|(id, _)| *id).next_back();
        if let Some(id) = found {
            self.launch(id, 0, Frame::Fin);
            self.launch(id, 1, Frame::Fin);
        }
    }

    fn crash(&mut self, node: NodeId, silent: bool) {
        if !self.nodes[node].up {
            return;
        }
        self.nodes[node].die(silent);
        let others = 0..self.nodes.len();
        for other in others {
            self.nodes[other].met.remove(&node);
        }
        let held = |stream: &super::streams::Stream, end: usize| {
            stream.ends[end] == node && stream.open[end]
        };
        let ends: Vec<(StreamId, usize)> = self
            .streams
            .iter()
            .flat_map(|(id, stream)| [(*id, 0, stream), (*id, 1, stream)])
            .filter(|(_, end, stream)| held(stream, *end))
            .map(|(id, end, _)| (id, end))
            .collect();
        for (id, end) in ends {
            if silent {
                self.forget(id, end);
            } else {
                self.close(id, end);
            }
        }
        for ask in 0..self.asks.len() {
            let asking = &self.asks[ask];
            if asking.question.node == node && asking.asked.is_some() && !asking.is_over() {
                self.asks[ask].run = None;
                self.end_ask(ask, Outcome::Gone);
            }
        }
    }

    fn replay(&mut self, ask: AskId, from: NodeId) {
        for (to, hello) in self.asks[ask].accepted.clone() {
            let (session, hop) = (hello.session, hello.hop);
            let kind = Kind::Control { ask: Self::REPLAY, session, hop };
            self.replays_sent += 1;
            self.dial(kind, [from, to], Frame::Hello(Box::new(hello)));
        }
    }

    /// What a host said to a copied opening.
    pub(crate) fn replayed(&mut self, stream: StreamId, frame: &Frame) {
        match frame {
            Frame::Reply(Ok(())) => self.fail(|| "a copied opening was accepted".to_owned()),
            Frame::Reply(Err(refusal)) => {
                let said = format!("a copied opening is refused: {refusal}");
                self.trace.say(self.now, || said);
                self.replays_refused += 1;
            }
            _ => self.close(stream, 0),
        }
    }
}

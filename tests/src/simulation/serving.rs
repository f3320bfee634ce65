//! What strangers ask of a host, as `node/src/driver/{serving,registry}.rs` have it.

use taimatsu_executor::{ExecutorError, KvId};
use taimatsu_peer::policy::RETRY_MS;
use taimatsu_peer::session::HopConfig;
use taimatsu_peer::session::policy::{EARLY, EARLY_HELLOS};
use taimatsu_peer::{Input, OpeningSummary};
use taimatsu_protocol::SessionId;
use taimatsu_protocol::opening::{Opening, Refusal};

use super::events::Event;
use super::hop::HopTask;
use super::node::PREKEY_GRACE;
use super::streams::{Frame, Hello, LaneFrame, LinkHello, StreamId};
use super::worker::Command;
use super::world::{NodeId, World};

/// A neighbour that came before the opening did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Early {
    pub(crate) stream: StreamId,
    pub(crate) from: NodeId,
    pub(crate) hello: LinkHello,
}

/// An opening that was admitted and waits for its KV.
#[derive(Debug)]
pub(crate) struct Opened {
    stream: StreamId,
    hop: u8,
    opening: Opening,
}

impl World {
    /// Something has come to a host on a control stream.
    pub(crate) fn at_host(
        &mut self,
        node: NodeId,
        session: SessionId,
        stream: StreamId,
        frame: Frame,
    ) {
        match frame {
            Frame::Hello(hello) => match self.admit(node, &hello) {
                Ok(worker) => {
                    let Hello { session, hop, opening, .. } = *hello;
                    let answer = opening.answer.to_vec();
                    let tail = opening.tail_prompt().map(|(_, prompt)| [prompt, &answer].concat());
                    let (positions, part) = (opening.positions, opening.span);
                    self.nodes[node].opened.insert(session, Opened { stream, hop, opening });
                    self.command(node, worker, Command::Open { session, positions, part, tail });
                }
                Err(refusal) => {
                    let said = format!("n{node} refuses: {refusal}");
                    self.trace.say(self.now, || said);
                    self.send(stream, 1, Frame::Reply(Err(refusal)));
                    self.close(stream, 1);
                }
            },
            frame => self.on_control(node, session, stream, frame),
        }
    }

    fn admit(&mut self, node: NodeId, hello: &Hello) -> Result<usize, Refusal> {
        let wall = self.wall(node);
        let this = &self.nodes[node];
        if hello.prekey != this.prekey.id {
            let own = this.peer.own_announcements(wall).next().cloned();
            let stale = own.map(|signed| Refusal::StalePrekey(Box::new(signed)));
            return Err(stale.unwrap_or(Refusal::Unreadable));
        }
        if !hello.opening.is_consistent(hello.hop) {
            return Err(Refusal::Unreadable);
        }
        let Opening { model, span, numerics, positions, prompt_len, .. } = hello.opening;
        let summary = OpeningSummary {
            id: 0,
            session: hello.session,
            hop: hello.hop,
            model,
            span,
            numerics,
            positions,
            prompt_len,
            accepted_until: this.prekey.not_after.plus(PREKEY_GRACE),
        };
        self.tell(node, Input::Opening(summary));
        let verdict = self.nodes[node].verdict.take();
        let within = verdict.expect("a peer answers an opening at once")?;
        self.nodes[node].admitted += 1;
        let serves =
            |worker: &super::worker::Worker| worker.model == model && worker.span == within;
        let worker = self.nodes[node].workers.iter().position(serves);
        if worker.is_none() {
            self.tell(node, Input::SessionEnded { session: hello.session });
        }
        worker.ok_or(Refusal::UnknownModel)
    }

    /// The executor has reserved KV, or has none.
    pub(crate) fn seated(
        &mut self,
        node: NodeId,
        session: SessionId,
        worker: usize,
        kv: Result<KvId, ExecutorError>,
    ) {
        let Some(opened) = self.nodes[node].opened.remove(&session) else { return };
        let Opened { stream, hop, mut opening } = opened;
        let kv = match kv {
            Ok(kv) => kv,
            Err(error) => {
                self.tell(node, Input::SessionEnded { session });
                let refusal = match error {
                    ExecutorError::NoKv { free, .. } => Refusal::NoKv { free },
                    ExecutorError::NotHere { span, .. } => Refusal::WrongSpan(span),
                    _ => Refusal::Busy { retry_ms: RETRY_MS },
                };
                self.send(stream, 1, Frame::Reply(Err(refusal)));
                return self.close(stream, 1);
            }
        };
        if !self.send(stream, 1, Frame::Reply(Ok(()))) {
            self.command(node, worker, Command::Close(kv));
            return self.tell(node, Input::SessionEnded { session });
        }
        let hidden = self.nodes[node].workers[worker].shape.hidden;
        let peers = [&opening.inward, &opening.out]
            .map(|lane| lane.as_ref().and_then(|lane| self.node_of(&lane.peer)));
        let host = self.nodes[node].id;
        let config = HopConfig::of(host, session, hop, &mut opening, hidden);
        let task = HopTask::new(self.now, config, stream, (worker, kv), peers);
        self.nodes[node].hops.insert(session, task);
        self.trace.say(self.now, || {
            format!("n{node} serves {}, hop {hop}, blocks {}", short(&session), opening.span)
        });
        self.perform_hop(node, session);
        let waiting = std::mem::take(&mut self.nodes[node].early);
        let (ours, others) = waiting.into_iter().partition(|early| early.hello.session == session);
        self.nodes[node].early = others;
        let ours: Vec<Early> = ours;
        for early in ours {
            self.greeted(node, early);
        }
        if self.streams.get(&stream).is_some_and(|stream| stream.finished[1]) {
            self.on_control(node, session, stream, Frame::Fin);
        }
    }

    /// A neighbour's stream has come.
    pub(crate) fn greeted(&mut self, node: NodeId, early: Early) {
        let Early { stream, from, hello } = early;
        if self.nodes[node].hops.contains_key(&hello.session) {
            return self.neighbour(node, from, stream, hello);
        }
        if self.nodes[node].early.len() >= EARLY_HELLOS {
            return self.close(stream, 1);
        }
        self.nodes[node].early.push(early);
        self.after(EARLY, Event::EarlyLate { node, stream });
    }

    pub(crate) fn early_late(&mut self, node: NodeId, stream: StreamId) {
        let early = &mut self.nodes[node].early;
        let before = early.len();
        early.retain(|early| early.stream != stream);
        if early.len() < before {
            self.close(stream, 1);
        }
    }

    /// A frame for a lane whose hop is not here.
    pub(crate) fn unowned(
        &mut self,
        node: NodeId,
        (stream, end): (StreamId, usize),
        frame: &Frame,
    ) {
        match frame {
            Frame::Lane(LaneFrame::Hello(hello)) if end == 1 => {
                let from = self.streams[&stream].ends[0];
                self.greeted(node, Early { stream, from, hello: *hello });
            }
            _ => {
                self.nodes[node].early.retain(|early| early.stream != stream);
                self.close(stream, end);
            }
        }
    }
}

/// Eyes are content with few digits.
pub(crate) fn short(session: &SessionId) -> String {
    session.to_string()[..6].to_owned()
}

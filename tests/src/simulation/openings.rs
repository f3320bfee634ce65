//! The openings of a client's session: to the hops that it begins with, and to newcomers.

use taimatsu_peer::routing::Hop;
use taimatsu_peer::session::{LaneEnd, Newcomer};
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::opening::{LaneOpening, Opening, PrekeyId, TailOpening, TailTask};
use taimatsu_protocol::sealed::Secret;
use taimatsu_protocol::{Sampling, SessionId};

use super::run::Line;
use super::streams::{Frame, Hello, Kind, StreamId};
use super::world::{AskId, NodeId, World};

impl World {
    pub(super) fn newcomer(&mut self, ask: AskId, newcomer: &Newcomer) {
        let Some(run) = self.asks[ask].run.as_mut() else { return };
        let session = run.session;
        let new: Vec<Hop> = run.found.drain(..).collect();
        for hop in new {
            let node = self.node_of(&hop.peer).expect("only nodes of this world announce");
            if let Some(run) = self.asks[ask].run.as_mut() {
                let (stream, opening) = (StreamId::MAX, None);
                let (stands, dropped, again) = (false, false, false);
                run.lines.push(Line { hop, node, stream, opening, stands, dropped, again });
            }
        }
        let opening = self.opening(ask, newcomer);
        let Some(run) = self.asks[ask].run.as_mut() else { return };
        let line = &mut run.lines[usize::from(newcomer.hop)];
        line.opening = Some(opening.clone());
        let to = (line.node, line.hop.prekey.id);
        let stream = self.knock(ask, session, newcomer.hop, to, opening);
        if let Some(run) = self.asks[ask].run.as_mut() {
            run.lines[usize::from(newcomer.hop)].stream = stream;
        }
    }

    pub(super) fn knock(
        &mut self,
        ask: AskId,
        session: SessionId,
        hop: u8,
        (node, prekey): (NodeId, PrekeyId),
        opening: Opening,
    ) -> StreamId {
        let hello = Hello { session, hop, prekey, opening };
        self.asks[ask].sent.push((node, hello.clone()));
        let from = self.asks[ask].question.node;
        let kind = Kind::Control { ask, session, hop };
        self.dial(kind, [from, node], Frame::Hello(Box::new(hello)))
    }

    pub(super) fn lane(&mut self, ask: AskId, end: LaneEnd) -> LaneOpening {
        let LaneEnd { lane, other, generation, fresh } = end;
        let new = Secret::from_bytes(self.luck.bytes());
        let run = self.asks[ask].run.as_mut().expect("it is under way");
        let secret = run.secrets.entry((lane, generation)).or_insert(new).clone();
        let peer = run.lines[usize::from(other)].hop.peer;
        LaneOpening { lane, peer, secret, generation, fresh }
    }

    fn opening(&mut self, ask: AskId, newcomer: &Newcomer) -> Opening {
        let out = newcomer.out.map(|end| self.lane(ask, end));
        let inward = newcomer.inward.map(|end| self.lane(ask, end));
        let run = self.asks[ask].run.as_ref().expect("it is under way");
        let question = &self.asks[ask].question;
        let span = run.lines[usize::from(newcomer.hop)].hop.span;
        let prompt = |here: bool| {
            BoundedVec::truncated(question.prompt.iter().copied().filter(move |_| here))
        };
        let prompt_len = question.prompt.len() as u32;
        let ends = span.embed || span.head;
        Opening {
            model: self.models[question.model].id,
            span,
            numerics: run.numerics,
            prompt_len,
            positions: prompt_len + question.max_tokens.saturating_sub(1),
            receipts: true,
            out,
            inward,
            prompt: prompt(span.embed),
            answer: BoundedVec::truncated(run.answer.iter().copied().filter(|_| ends)),
            tail: span.head.then(|| TailOpening {
                task: TailTask::Generate {
                    sampling: Sampling::greedy(),
                    end_ids: BoundedVec::new(),
                    credit: newcomer.credit,
                    logprobs: None,
                },
                prompt: prompt(!span.embed),
            }),
        }
    }
}

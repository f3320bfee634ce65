//! A client's session on hosts, performed as `node/src/driver/chain_run.rs` does.

use std::collections::VecDeque;

use taimatsu_peer::pace::Pace;
use taimatsu_peer::routing::{Chain, Hop};
use taimatsu_peer::session::{Failure, Finish, Origin, OriginConfig, OriginInput, OriginOutput};
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::control::Token;
use taimatsu_protocol::opening::{LaneOpening, Opening, PrekeyId, Refusal, TailOpening, TailTask};
use taimatsu_protocol::receipt::{self, BrokenReceipts, Claim, Expected};
use taimatsu_protocol::sealed::Secret;
use taimatsu_protocol::{Announcement, ModelId, Moment, Sampling, SessionId};

use super::events::Timer;
use super::streams::{Frame, Hello, Kind, StreamId};
use super::world::{AskId, NodeId, World};

/// An [`Origin`] and its control streams.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) machine: Origin,
    pub(crate) pace: Pace,
    session: SessionId,
    /// Every id that was made.
    answer: Vec<u32>,
    lines: Vec<Line>,
    openings: Vec<Opening>,
    made: VecDeque<Made>,
    ended: bool,
    armed: Option<Moment>,
}

/// One hop's control stream.
#[derive(Debug)]
struct Line {
    node: NodeId,
    stream: StreamId,
    stands: bool,
    /// Its opening was sealed to a prekey that is gone, and was sent again.
    again: bool,
}

#[derive(Debug)]
enum Made {
    Token(Token),
    Ended(Result<Finish, Failure>),
}

impl Run {
    /// Whether the receipts hold together, where every hop has said all.
    pub(crate) fn receipts(
        &self,
        model: ModelId,
        chain: &Chain,
        prompt: &[u32],
    ) -> Option<Result<(), BrokenReceipts>> {
        let expected = |hop: &Hop| Expected { host: hop.peer, span: hop.span };
        let hops: Vec<Expected> = chain.hops().iter().map(expected).collect();
        let claim = Claim {
            session: self.session,
            model,
            numerics: chain.numerics(),
            hops: &hops,
            prompt,
            answer: &self.answer,
            late: self.machine.late(),
        };
        self.machine.is_told_all().then(|| receipt::check(&claim, self.machine.receipts()))
    }
}

impl World {
    /// Sends the openings.
    pub(crate) fn begin_run(&mut self, ask: AskId, chain: Chain) {
        self.drop_run(ask);
        let question = &self.asks[ask].question;
        let config = OriginConfig {
            hops: chain.hops().len() as u8,
            prompt_len: question.prompt.len() as u32,
            max_tokens: question.max_tokens,
            score: false,
        };
        let openings = self.openings(ask, &chain, config.first_credit());
        let session = SessionId::from_bytes(self.luck.bytes());
        let mut lines = Vec::new();
        for (number, hop) in chain.hops().iter().enumerate() {
            let node = self.node_of(&hop.peer).expect("only nodes of this world announce");
            let opening = openings[number].clone();
            let stream = self.knock(ask, session, number as u8, (node, hop.prekey.id), opening);
            lines.push(Line { node, stream, stands: false, again: false });
        }
        let this = &mut self.asks[ask];
        this.chain = Some(chain);
        this.run = Some(Run {
            machine: Origin::new(self.now, config),
            pace: Pace::new(),
            session,
            answer: Vec::new(),
            lines,
            openings,
            made: VecDeque::new(),
            ended: false,
            armed: None,
        });
        self.perform_run(ask);
    }

    fn knock(
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

    /// The opening of each hop, with fresh secrets for the lanes.
    fn openings(&mut self, ask: AskId, chain: &Chain, credit: u32) -> Vec<Opening> {
        let hops = chain.hops();
        let secrets: Vec<Secret> =
            hops.iter().map(|_| Secret::from_bytes(self.luck.bytes())).collect();
        let lane = |to: usize, number: usize| {
            let (peer, secret) = (hops[to].peer, secrets[number].clone());
            (hops.len() > 1).then_some(LaneOpening { peer, secret, generation: 1 })
        };
        let last = hops.len() - 1;
        let question = &self.asks[ask].question;
        let prompt = || BoundedVec::truncated(question.prompt.iter().copied());
        let task = TailTask::Generate {
            sampling: Sampling::greedy(),
            end_ids: BoundedVec::new(),
            credit,
            logprobs: None,
        };
        let prompt_len = question.prompt.len() as u32;
        let opening = |(number, hop): (usize, &Hop)| Opening {
            model: self.models[question.model].id,
            span: hop.span,
            hops: hops.len() as u8,
            numerics: chain.numerics(),
            prompt_len,
            positions: prompt_len + question.max_tokens.saturating_sub(1),
            receipts: true,
            out: lane(if number == last { 0 } else { number + 1 }, number),
            inward: {
                let previous = if number == 0 { last } else { number - 1 };
                lane(previous, previous)
            },
            prompt: if number == 0 { prompt() } else { BoundedVec::new() },
            tail: (number == last).then(|| TailOpening {
                task: task.clone(),
                prompt: if last == 0 { BoundedVec::new() } else { prompt() },
            }),
        };
        hops.iter().enumerate().map(opening).collect()
    }

    /// Something has come to a client on a control stream.
    pub(crate) fn at_client(&mut self, ask: AskId, hop: u8, stream: StreamId, frame: Frame) {
        if ask == Self::REPLAY {
            return self.replayed(stream, &frame);
        }
        let Some(run) = self.asks[ask].run.as_mut() else { return };
        let Some(line) = run.lines.get_mut(usize::from(hop)) else { return };
        if line.stream != stream {
            return;
        }
        let input = match frame {
            Frame::Reply(Ok(())) => {
                line.stands = true;
                let (node, session) = (line.node, run.session);
                self.opening_accepted(ask, node, session, hop);
                OriginInput::Accepted { hop }
            }
            Frame::Reply(Err(Refusal::StalePrekey(signed))) if !line.again => {
                line.again = true;
                let (node, session) = (line.node, run.session);
                let opening = run.openings[usize::from(hop)].clone();
                let said = signed.verify::<Announcement>().map(|said| said.record().clone());
                let said = said.ok().filter(|said| said.host == self.nodes[node].id);
                let Some(said) = said else {
                    return self.run_input(ask, OriginInput::Lost { hop });
                };
                let stream = self.knock(ask, session, hop, (node, said.prekey.id), opening);
                if let Some(run) = &mut self.asks[ask].run {
                    let old = std::mem::replace(&mut run.lines[usize::from(hop)].stream, stream);
                    self.close(old, 0);
                }
                return;
            }
            Frame::Reply(Err(refusal)) => OriginInput::Refused { hop, refusal },
            Frame::ToClient(message, frame) => OriginInput::FromHop { hop, message, frame },
            Frame::Fin => OriginInput::Lost { hop },
            _ => OriginInput::Broken { hop },
        };
        self.run_input(ask, input);
    }

    fn opening_accepted(&mut self, ask: AskId, node: NodeId, session: SessionId, hop: u8) {
        let this = &mut self.asks[ask];
        let it = |(to, hello): &(NodeId, Hello)| {
            *to == node && hello.session == session && hello.hop == hop
        };
        if let Some(at) = this.sent.iter().rposition(it) {
            this.accepted.push(this.sent.remove(at));
        }
    }

    pub(crate) fn consumed(&mut self, ask: AskId, total: u32) {
        self.run_input(ask, OriginInput::Consumed(total));
    }

    pub(crate) fn cancel_run(&mut self, ask: AskId) {
        self.run_input(ask, OriginInput::Cancel);
    }

    /// Lets every stream go.
    pub(crate) fn drop_run(&mut self, ask: AskId) {
        let Some(run) = self.asks[ask].run.take() else { return };
        for line in run.lines {
            self.close(line.stream, 0);
        }
    }

    pub(crate) fn wake_run(&mut self, ask: AskId, at: Moment) {
        let now = self.now;
        let Some(run) = self.asks[ask].run.as_mut() else { return };
        if run.armed != Some(at) {
            return;
        }
        run.armed = None;
        if run.machine.poll_timeout().is_some_and(|due| due <= now) {
            run.machine.handle_timeout(now);
        }
        self.perform_run(ask);
    }

    fn run_input(&mut self, ask: AskId, input: OriginInput) {
        let now = self.now;
        let Some(run) = self.asks[ask].run.as_mut() else { return };
        run.machine.handle(now, input);
        self.perform_run(ask);
    }

    fn perform_run(&mut self, ask: AskId) {
        let now = self.now;
        while let Some(run) = self.asks[ask].run.as_mut() {
            let Some(output) = run.machine.poll_output() else { break };
            if run.ended {
                return self.fail(|| format!("ask {ask}: after its end comes {output:?}"));
            }
            match output {
                OriginOutput::ToHop { hop, message, frame } => {
                    let line = &run.lines[usize::from(hop)];
                    if !line.stands {
                        continue;
                    }
                    let stream = line.stream;
                    let sent = self.send(stream, 0, Frame::ToHop(message, frame));
                    if !sent && let Some(run) = self.asks[ask].run.as_mut() {
                        run.machine.handle(now, OriginInput::Lost { hop });
                    }
                }
                OriginOutput::Open => self.trace.say(now, || format!("ask {ask} is open")),
                OriginOutput::Token(token) => {
                    run.pace.token(now);
                    run.answer.push(token.id);
                    run.made.push_back(Made::Token(token));
                }
                OriginOutput::Scored(_) => {}
                OriginOutput::Ended(outcome) => {
                    run.ended = true;
                    run.made.push_back(Made::Ended(outcome));
                }
            }
        }
        self.hand_on(ask);
        let Some(run) = self.asks[ask].run.as_mut() else { return };
        let (armed, timeout) = (run.armed, run.machine.poll_timeout());
        let armed = self.arm(Timer::Run(ask), armed, timeout);
        if let Some(run) = self.asks[ask].run.as_mut() {
            run.armed = armed;
        }
    }

    fn hand_on(&mut self, ask: AskId) {
        while !self.asks[ask].is_over()
            && let Some(made) = self.asks[ask].run.as_mut().and_then(|run| run.made.pop_front())
        {
            match made {
                Made::Token(token) => self.token(ask, &token),
                Made::Ended(outcome) => self.made_end(ask, outcome),
            }
        }
    }
}

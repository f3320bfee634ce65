//! A client's session on hosts, performed as `node/src/driver/chain_run.rs` does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use taimatsu_peer::pace::Pace;
use taimatsu_peer::routing::{Chain, Hop, Part};
use taimatsu_peer::session::{Failure, Finish, Origin, OriginConfig, OriginInput, OriginOutput};
use taimatsu_peer::{AnswerEnd, AnswerReport, Blame, Input};
use taimatsu_protocol::control::{ToHop, Token};
use taimatsu_protocol::opening::{Opening, Refusal};
use taimatsu_protocol::receipt::{self, BrokenReceipts, Claim, Expected};
use taimatsu_protocol::sealed::Secret;
use taimatsu_protocol::{Announcement, ModelId, Moment, Numerics, PeerId, SessionId};

use super::events::{Timer, name};
use super::streams::{Frame, Hello, StreamId};
use super::world::{AskId, NodeId, World};

/// As the node's: a lost host is asked again after this.
const COOLS: Duration = Duration::from_secs(1);

/// At most.
const COOLS_MOST: Duration = Duration::from_secs(8);

/// An [`Origin`] and its control streams.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) machine: Origin,
    pub(crate) pace: Pace,
    pub(crate) session: SessionId,
    pub(super) numerics: Numerics,
    /// Every id that was made.
    pub(super) answer: Vec<u32>,
    /// By number.
    pub(super) lines: Vec<Line>,
    /// Found, and without a number yet.
    pub(super) found: VecDeque<Hop>,
    pub(super) secrets: BTreeMap<(u8, u32), Secret>,
    /// Hosts that were lost, until when they are not asked, and how long that was.
    cooling: BTreeMap<PeerId, (Moment, Duration)>,
    made: VecDeque<Made>,
    ended: bool,
    armed: Option<Moment>,
}

/// One hop's control stream.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) hop: Hop,
    pub(super) node: NodeId,
    pub(super) stream: StreamId,
    pub(super) opening: Option<Opening>,
    pub(super) stands: bool,
    pub(super) dropped: bool,
    /// Its opening was sealed to a prekey that is gone, and was sent again.
    pub(super) again: bool,
}

#[derive(Debug)]
enum Made {
    Token(Token),
    Ended(Result<Finish, Failure>),
}

impl Run {
    /// The hops of this ring.
    pub(crate) fn hops(&self, ring: &[u8]) -> Vec<Hop> {
        ring.iter().filter_map(|hop| Some(self.lines.get(usize::from(*hop))?.hop)).collect()
    }

    /// Whether the receipts hold together, where every hop has said all.
    pub(crate) fn receipts(
        &self,
        model: ModelId,
        prompt: &[u32],
    ) -> Option<Result<(), BrokenReceipts>> {
        let ring = self.machine.ring();
        let expected = |(hop, number): (Hop, &u8)| Expected {
            host: hop.peer,
            span: hop.span,
            replaced: self.machine.is_newcomer(*number),
        };
        let hops: Vec<Expected> = self.hops(ring).into_iter().zip(ring).map(expected).collect();
        let claim = Claim {
            session: self.session,
            model,
            numerics: self.numerics,
            hops: &hops,
            prompt,
            answer: &self.answer,
            late: self.machine.late(),
        };
        self.machine.is_told_all().then(|| receipt::check(&claim, &self.machine.receipts()))
    }

    fn cools(&mut self, now: Moment, peer: PeerId, pause: Option<Duration>) {
        let before = self.cooling.get(&peer).map(|(_, pause)| (*pause * 2).min(COOLS_MOST));
        let pause = pause.or(before).unwrap_or(COOLS);
        self.cooling.insert(peer, (now + pause, pause));
    }
}

impl World {
    /// Sends the openings.
    pub(crate) fn begin_run(&mut self, ask: AskId, chain: &Chain) {
        self.drop_run(ask);
        let question = &self.asks[ask].question;
        let config = OriginConfig {
            hops: chain.hops().len() as u8,
            prompt_len: question.prompt.len() as u32,
            max_tokens: question.max_tokens,
            score: false,
            patience: self.patience,
        };
        let session = SessionId::from_bytes(self.luck.bytes());
        self.asks[ask].run = Some(Run {
            machine: Origin::new(self.now, config),
            pace: Pace::new(),
            session,
            numerics: chain.numerics(),
            answer: Vec::new(),
            lines: Vec::new(),
            found: chain.hops().iter().copied().collect(),
            secrets: BTreeMap::new(),
            cooling: BTreeMap::new(),
            made: VecDeque::new(),
            ended: false,
            armed: None,
        });
        self.perform_run(ask);
    }

    /// Looks for others for these places of the ring.
    fn look_for_others(&mut self, ask: AskId, seek: u32, places: std::ops::Range<usize>) {
        let now = self.now;
        let Some(run) = self.asks[ask].run.as_ref() else { return };
        let ring = run.hops(run.machine.ring());
        let (first, last) = (ring[places.start].span, ring[places.end - 1].span);
        let others = ring.iter().enumerate().filter(|(place, _)| !places.contains(place));
        let mut without: BTreeSet<PeerId> = others.map(|(_, hop)| hop.peer).collect();
        let here = run.machine.ring()[places.clone()].iter();
        let here = here.map(|hop| &run.lines[usize::from(*hop)]).filter(|line| !line.dropped);
        without.extend(here.map(|line| line.hop.peer));
        let cool = run.cooling.iter().filter(|(_, (until, _))| *until > now);
        without.extend(cool.map(|(peer, _)| *peer));
        let blocks = first.blocks().start..last.blocks().end;
        let part = Part { blocks, without, numerics: run.numerics };
        self.seek(ask, Some((seek, part)));
    }

    /// Somebody was found for places of an answer, or nobody.
    pub(crate) fn sought(&mut self, ask: AskId, seek: u32, hops: Vec<Hop>) {
        let Some(run) = self.asks[ask].run.as_mut() else { return };
        if hops.is_empty() {
            return self.run_input(ask, OriginInput::Nobody { seek });
        }
        let count = hops.len() as u8;
        run.found = hops.into();
        self.run_input(ask, OriginInput::Found { seek, hops: count });
        if let Some(run) = self.asks[ask].run.as_mut() {
            run.found.clear();
        }
    }

    /// All lanes stand, for the first time or again.
    fn opened(&mut self, ask: AskId) {
        let Some(run) = self.asks[ask].run.as_ref() else { return };
        let hops = run.hops(run.machine.ring());
        let hosts: Vec<NodeId> = hops.iter().filter_map(|hop| self.node_of(&hop.peer)).collect();
        self.trace.say(self.now, || format!("ask {ask} is open, by {hosts:?}"));
        if self.asks[ask].chains.last() != Some(&hosts) {
            self.asks[ask].chains.push(hosts);
        }
    }

    fn lost(&mut self, ask: AskId, failure: Failure, ring: &[u8]) {
        let now = self.now;
        let (node, model) = (self.asks[ask].question.node, self.asks[ask].question.model);
        let model = self.models[model].id;
        self.asks[ask].losses += 1;
        let Some(run) = self.asks[ask].run.as_mut() else { return };
        let hosts: Vec<PeerId> = run.hops(ring).into_iter().map(|hop| hop.peer).collect();
        let blame = Blame::of(&failure, hosts.len());
        if let Failure::Refused { refusal: Refusal::Busy { retry_ms }, .. } = &failure {
            let pause = Duration::from_millis((*retry_ms).into()).min(COOLS_MOST);
            run.cools(now, hosts[blame.hop], Some(pause / 2));
        }
        let said = format!(
            "ask {ask} goes on without {}: {failure}",
            name(&self.names, &hosts[blame.hop])
        );
        self.trace.say(now, || said);
        let end = AnswerEnd::Failed(failure);
        self.tell(node, Input::Answered(AnswerReport { model, hosts, end }));
    }

    fn let_go(&mut self, ask: AskId, hop: u8) {
        let now = self.now;
        let Some(run) = self.asks[ask].run.as_mut() else { return };
        let line = &mut run.lines[usize::from(hop)];
        (line.stands, line.dropped) = (false, true);
        let (stream, peer) = (line.stream, line.hop.peer);
        run.cools(now, peer, None);
        self.close(stream, 0);
    }

    /// Something has come to a client on a control stream.
    pub(crate) fn at_client(&mut self, ask: AskId, hop: u8, stream: StreamId, frame: Frame) {
        if ask == Self::REPLAY {
            return self.replayed(stream, &frame);
        }
        let Some(run) = self.asks[ask].run.as_mut() else { return };
        let Some(line) = run.lines.get_mut(usize::from(hop)) else { return };
        if line.stream != stream || line.dropped {
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
                let opening = line.opening.clone().expect("it was sent");
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
                    self.tell_hop(ask, hop, message, frame);
                }
                OriginOutput::Relink { hop, lane } => {
                    let lane = self.lane(ask, lane);
                    self.tell_hop(ask, hop, ToHop::Relink(lane), None);
                }
                OriginOutput::Knock(newcomer) => self.newcomer(ask, &newcomer),
                OriginOutput::Seek { seek, places } => self.look_for_others(ask, seek, places),
                OriginOutput::Lost { failure, ring } => self.lost(ask, failure, &ring),
                OriginOutput::Drop { hop } => self.let_go(ask, hop),
                OriginOutput::Open => self.opened(ask),
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

    fn tell_hop(&mut self, ask: AskId, hop: u8, message: ToHop, frame: Option<bytes::Bytes>) {
        let now = self.now;
        let Some(run) = self.asks[ask].run.as_mut() else { return };
        let line = &run.lines[usize::from(hop)];
        if !line.stands {
            return;
        }
        let stream = line.stream;
        let sent = self.send(stream, 0, Frame::ToHop(message, frame));
        if !sent && let Some(run) = self.asks[ask].run.as_mut() {
            run.machine.handle(now, OriginInput::Lost { hop });
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

//! An inference on hosts: one task's worth of streams around one [`Origin`] machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use taimatsu_network::{FrameReader, Network};
use taimatsu_peer::Blame;
use taimatsu_peer::pace::Pace;
use taimatsu_peer::routing::{Chain, Hop};
use taimatsu_peer::session::{LaneEnd, Newcomer, Origin, OriginConfig, OriginInput, OriginOutput};
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::control::{HopStats, ToClient, ToHop};
use taimatsu_protocol::opening::{LaneOpening, Opening, Refusal, TailOpening};
use taimatsu_protocol::sealed::{Channel, Mark, Secret};
use taimatsu_protocol::{ModelId, Numerics, PeerId, SessionId, SwarmId};
use tokio::sync::{mpsc, watch};

use super::clock::Clock;
use super::streams::{FrameQueue, pump};
use crate::run::{Made, RunFailure, Task};

mod knock;
mod mender;
mod proof;

use knock::Knock;
use mender::Cooling;

pub(crate) use mender::Mender;
pub(crate) use proof::Proof;

/// Events that may wait; the hops' readers wait with theirs.
const WAITING_EVENTS: usize = 256;

/// What a chain is asked through.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The node's streams.
    pub(crate) network: Network,
    /// The node's clock.
    pub(crate) clock: Clock,
    /// The swarm.
    pub(crate) swarm: SwarmId,
}

/// See the module's page.
pub(crate) struct ChainRun {
    machine: Origin,
    caller: Caller,
    /// For the hops' readers, who stop when the receiver is dropped.
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    /// By number.
    hops: Vec<Member>,
    /// Hops that were found, and have no number yet.
    found: VecDeque<Hop>,
    /// Of each lane, in its last generation.
    secrets: BTreeMap<u8, (u32, Secret)>,
    made: VecDeque<Made>,
    session: SessionId,
    model: ModelId,
    blocks: u32,
    numerics: Numerics,
    task: Task,
    /// Every id that was made, also past a stop text.
    answer: Vec<u32>,
    mender: Mender,
    cooling: Cooling,
    pace: Pace,
}

/// A hop of the session.
struct Member {
    hop: Hop,
    /// Its control stream, when it stands.
    line: Option<Line>,
    /// It has taken the opening, and so seen what is in it.
    accepted: bool,
    /// Nothing is wanted of it any more.
    dropped: bool,
}

/// A control stream that stands.
#[derive(Debug)]
struct Line {
    channel: Channel,
    queue: FrameQueue,
}

#[derive(Debug)]
enum Event {
    Opened { hop: u8, opened: Box<Result<(Line, FrameReader), Option<Refusal>>> },
    Frame { hop: u8, frame: Option<Bytes> },
    Sought { seek: u32, found: Vec<Hop> },
}

impl ChainRun {
    /// Sends the openings.
    pub(crate) fn begin(caller: &Caller, chain: &Chain, task: &Task, mender: Mender) -> Self {
        let prompt_len = u32::try_from(task.prompt.len()).unwrap_or(u32::MAX);
        let score = task.is_score();
        let config = OriginConfig {
            hops: chain.hops().len() as u8,
            prompt_len,
            max_tokens: if score { 0 } else { task.max_tokens },
            score,
            patience: mender.patience,
        };
        let (sender, events) = mpsc::channel(WAITING_EVENTS);
        let mut run = Self {
            machine: Origin::new(caller.clock.now(), config),
            caller: caller.clone(),
            sender,
            events,
            hops: Vec::new(),
            found: chain.hops().iter().copied().collect(),
            secrets: BTreeMap::new(),
            made: VecDeque::new(),
            session: SessionId::from_bytes(crate::entropy::bytes()),
            model: mender.ask.model,
            blocks: mender.ask.blocks,
            numerics: chain.numerics(),
            task: task.clone(),
            answer: Vec::new(),
            mender,
            cooling: Cooling::default(),
            pace: Pace::new(),
        };
        run.perform();
        run
    }

    /// See [`crate::run::Run::next`].
    pub(crate) async fn next(&mut self, consumed: &mut watch::Receiver<u32>) -> Made {
        loop {
            if let Some(made) = self.made.pop_front() {
                return made;
            }
            let timeout = self.machine.poll_timeout();
            tokio::select! {
                Some(event) = self.events.recv() => self.on_event(event),
                Ok(()) = consumed.changed() => {
                    let total = *consumed.borrow_and_update();
                    self.input(OriginInput::Consumed(total));
                }
                () = self.caller.clock.sleep_until(timeout) => {
                    self.machine.handle_timeout(self.caller.clock.now());
                    self.perform();
                }
            }
        }
    }

    /// See [`crate::run::Run::cancel`].
    pub(crate) fn cancel(&mut self) {
        self.input(OriginInput::Cancel);
    }

    /// See [`crate::run::Run::stats`].
    pub(crate) fn stats(&self) -> Vec<HopStats> {
        self.machine.stats().collect()
    }

    /// See [`crate::run::Run::lap`].
    pub(crate) fn lap(&self) -> Option<Duration> {
        self.pace.lap()
    }

    /// See [`crate::run::Run::forwarded`].
    pub(crate) const fn forwarded(&self) -> u32 {
        self.machine.forwarded()
    }

    /// Who computes now, leader first.
    pub(crate) fn hops(&self) -> Vec<Hop> {
        self.hops_of(self.machine.ring())
    }

    /// Who was lost on the way, and had accepted.
    pub(crate) fn lost(&self) -> Vec<Hop> {
        let lost = self.hops.iter().filter(|member| member.dropped && member.accepted);
        lost.map(|member| member.hop).collect()
    }

    fn hops_of(&self, ring: &[u8]) -> Vec<Hop> {
        ring.iter().filter_map(|hop| Some(self.hops.get(usize::from(*hop))?.hop)).collect()
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Opened { hop, opened } => self.on_opened(hop, *opened),
            Event::Frame { hop, frame: None } => self.input(OriginInput::Lost { hop }),
            Event::Frame { hop, frame: Some(frame) } => {
                let Some(line) = &mut self.hops[usize::from(hop)].line else { return };
                let input = match line.channel.opener.open::<ToClient>(frame) {
                    Ok(opened) => {
                        let (message, frame) = (opened.message, opened.tensor);
                        OriginInput::FromHop { hop, message, frame }
                    }
                    Err(_) => OriginInput::Broken { hop },
                };
                self.input(input);
            }
            Event::Sought { seek, found } if found.is_empty() => {
                self.input(OriginInput::Nobody { seek });
            }
            Event::Sought { seek, found } => {
                let hops = found.len() as u8;
                self.found = found.into();
                self.input(OriginInput::Found { seek, hops });
                self.found.clear();
            }
        }
    }

    fn on_opened(&mut self, hop: u8, opened: Result<(Line, FrameReader), Option<Refusal>>) {
        let member = &mut self.hops[usize::from(hop)];
        match opened {
            // Letting the stream go frees whatever is held for it.
            Ok(_) if member.dropped => {}
            Ok((line, reader)) => {
                (member.line, member.accepted) = (Some(line), true);
                pump(reader, self.sender.clone(), move |frame| Event::Frame { hop, frame });
                self.input(OriginInput::Accepted { hop });
            }
            Err(Some(refusal)) => self.input(OriginInput::Refused { hop, refusal }),
            Err(None) => self.input(OriginInput::Lost { hop }),
        }
    }

    fn input(&mut self, input: OriginInput) {
        self.machine.handle(self.caller.clock.now(), input);
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                OriginOutput::ToHop { hop, message, frame } => {
                    self.tell(hop, &message, frame.as_deref());
                }
                OriginOutput::Relink { hop, lane } => {
                    let lane = self.lane(lane);
                    self.tell(hop, &ToHop::Relink(lane), None);
                }
                OriginOutput::Knock(newcomer) => self.knock(*newcomer),
                OriginOutput::Seek { seek, places } => self.seek(seek, places),
                OriginOutput::Lost { failure, ring } => {
                    let hosts: Vec<PeerId> =
                        self.hops_of(&ring).into_iter().map(|hop| hop.peer).collect();
                    let blame = Blame::of(&failure, hosts.len());
                    tracing::info!(session = %self.session, %failure, "an answer goes on without");
                    if let Some(host) = hosts.get(blame.hop) {
                        self.cooling.refused(self.caller.clock.now(), *host, &failure);
                    }
                    self.mender.report(failure, hosts);
                }
                OriginOutput::Drop { hop } => {
                    let member = &mut self.hops[usize::from(hop)];
                    (member.line, member.dropped) = (None, true);
                    self.cooling.lost(self.caller.clock.now(), member.hop.peer);
                }
                OriginOutput::Open => {}
                OriginOutput::Token(token) => {
                    self.answer.push(token.id);
                    self.pace.token(self.caller.clock.now());
                    self.made.push_back(Made::Token(token));
                }
                OriginOutput::Scored(row) => self.made.push_back(Made::Scored(row)),
                OriginOutput::Ended(outcome) => {
                    let (blamed, told) = self.machine.blamed();
                    let hops = self.hops_of(blamed);
                    let ended =
                        outcome.map_err(|failure| RunFailure::Chain { failure, hops, told });
                    self.made.push_back(Made::Ended(ended));
                }
            }
        }
    }

    fn tell(&mut self, hop: u8, message: &ToHop, frame: Option<&[u8]>) {
        let Some(line) = &mut self.hops[usize::from(hop)].line else { return };
        let sealed = line.channel.sealer.seal(Mark::default(), message, frame);
        if !sealed.is_ok_and(|frame| line.queue.send(frame).is_ok()) {
            self.machine.handle(self.caller.clock.now(), OriginInput::Lost { hop });
        }
    }

    /// Looks for others for these places of the ring.
    fn seek(&mut self, seek: u32, places: Range<usize>) {
        let ring = self.hops();
        let parts = || ring[places.clone()].iter().map(|hop| hop.span.blocks());
        let blocks = parts().map(|blocks| blocks.start).min().unwrap_or(0)
            ..parts().map(|blocks| blocks.end).max().unwrap_or(0);
        let others = ring.iter().enumerate().filter(|(place, _)| !places.contains(place));
        let mut without: BTreeSet<PeerId> = others.map(|(_, hop)| hop.peer).collect();
        // One that leaves, and is there still, is none of the others.
        let here = self.machine.ring()[places.clone()].iter();
        let here = here.map(|hop| &self.hops[usize::from(*hop)]).filter(|hop| !hop.dropped);
        without.extend(here.map(|member| member.hop.peer));
        without.extend(self.cooling.all(self.caller.clock.now()));
        let (mender, numerics, sender) = (self.mender.clone(), self.numerics, self.sender.clone());
        tokio::spawn(async move {
            let found = tokio::select! {
                found = mender.seek(blocks, without, numerics) => found,
                () = sender.closed() => return,
            };
            let _ = sender.send(Event::Sought { seek, found }).await;
        });
    }

    fn knock(&mut self, newcomer: Newcomer) {
        // All that were found together have their numbers now: each may be another's neighbour.
        let new = |hop| Member { hop, line: None, accepted: false, dropped: false };
        self.hops.extend(self.found.drain(..).map(new));
        let Some(hop) = self.hops.get(usize::from(newcomer.hop)).map(|member| member.hop) else {
            return;
        };
        let opening = self.opening(&newcomer, &hop);
        let knock = Knock {
            caller: self.caller.clone(),
            session: self.session,
            hop: newcomer.hop,
            peer: hop.peer,
            prekey: hop.prekey,
            opening,
        };
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let hop = knock.hop;
            let opened = tokio::select! {
                opened = knock.open() => Box::new(opened),
                () = sender.closed() => return,
            };
            let _ = sender.send(Event::Opened { hop, opened }).await;
        });
    }

    fn opening(&mut self, newcomer: &Newcomer, hop: &Hop) -> Opening {
        let Newcomer { inward, out, credit, .. } = *newcomer;
        let (span, task) = (hop.span, &self.task);
        let prompt = || BoundedVec::truncated(task.prompt.iter().copied());
        let ends = span.embed || span.head;
        let tail = span.head.then(|| TailOpening {
            task: task.tail_task(credit),
            prompt: if span.embed { BoundedVec::new() } else { prompt() },
        });
        Opening {
            model: self.model,
            span,
            numerics: self.numerics,
            prompt_len: task.prompt.len() as u32,
            positions: task.positions(),
            receipts: !task.is_score(),
            prompt: if span.embed { prompt() } else { BoundedVec::new() },
            answer: BoundedVec::truncated(self.answer.iter().copied().filter(|_| ends)),
            tail,
            out: out.map(|lane| self.lane(lane)),
            inward: inward.map(|lane| self.lane(lane)),
        }
    }

    /// A lane as its ends are told; both are told the same secret, and nobody that of the
    /// connection before.
    fn lane(&mut self, end: LaneEnd) -> LaneOpening {
        let LaneEnd { lane, other, generation, fresh } = end;
        let new = || (generation, Secret::from_bytes(crate::entropy::bytes()));
        let secret = self.secrets.entry(lane).or_insert_with(new);
        if secret.0 < generation {
            *secret = new();
        }
        let peer = self.hops[usize::from(other)].hop.peer;
        LaneOpening { lane, peer, secret: secret.1.clone(), generation, fresh }
    }
}

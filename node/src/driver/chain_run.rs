//! An inference on hosts: one task's worth of streams around one [`Origin`] machine.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use taimatsu_network::{FrameReader, Network, StreamKind};
use taimatsu_peer::pace::Pace;
use taimatsu_peer::routing::{Chain, Hop};
use taimatsu_peer::session::{Origin, OriginConfig, OriginInput, OriginOutput};
use taimatsu_protocol::codec::{self, BoundedVec};
use taimatsu_protocol::control::{HopStats, ToClient};
use taimatsu_protocol::opening::{
    Hello, LaneOpening, Opening, Prekey, Refusal, Reply, TailOpening,
};
use taimatsu_protocol::receipt::{self, BrokenReceipts, Claim, Expected};
use taimatsu_protocol::sealed::{Channel, Direction, Mark, Place, Secret};
use taimatsu_protocol::signed::SignedBytes;
use taimatsu_protocol::{Announcement, ModelId, PeerId, SessionId, SwarmId};
use tokio::sync::{mpsc, watch};

use super::clock::Clock;
use super::streams::{FrameQueue, pump};
use crate::run::{Made, RunFailure, Task};

/// Events that may wait; the hops' readers wait with theirs.
const WAITING_EVENTS: usize = 256;

/// The longest reply to a hello, in bytes.
const MAX_REPLY: usize = 16 * 1024;

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
    clock: Clock,
    /// For the hops' readers, who stop when the receiver is dropped.
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    hops: Vec<Option<Line>>,
    made: VecDeque<Made>,
    session: SessionId,
    model: ModelId,
    chain: Chain,
    prompt: Vec<u32>,
    /// Every id that was made, also past a stop text.
    answer: Vec<u32>,
    receipts: bool,
    pace: Pace,
}

/// What an answer leaves behind.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    pub(crate) session: SessionId,
    pub(crate) model: ModelId,
    pub(crate) chain: Chain,
    pub(crate) prompt: Vec<u32>,
    pub(crate) answer: Vec<u32>,
    /// Ids that came after the end.
    pub(crate) late: Vec<u32>,
    /// Of each hop, in the order of positions; none where none were wanted, or a hop was cut off
    /// before it had said all.
    pub(crate) receipts: Option<Vec<Vec<SignedBytes>>>,
}

impl Proof {
    /// Whether the receipts hold together. Checks every signature: some 70 microseconds each.
    pub(crate) fn check(&self) -> Option<Result<(), BrokenReceipts>> {
        let expected = |hop: &Hop| Expected { host: hop.peer, span: hop.span };
        let hops: Vec<Expected> = self.chain.hops().iter().map(expected).collect();
        let claim = Claim {
            session: self.session,
            model: self.model,
            numerics: self.chain.numerics(),
            hops: &hops,
            prompt: &self.prompt,
            answer: &self.answer,
            late: &self.late,
        };
        self.receipts.as_ref().map(|receipts| receipt::check(&claim, receipts))
    }
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
}

/// One hop's opening on its way.
struct Knock {
    caller: Caller,
    session: SessionId,
    hop: u8,
    peer: PeerId,
    prekey: Prekey,
    opening: Opening,
}

impl ChainRun {
    /// Sends the openings.
    pub(crate) fn begin(caller: &Caller, model: ModelId, chain: &Chain, task: &Task) -> Self {
        let hops = chain.hops().len() as u8;
        let prompt_len = u32::try_from(task.prompt.len()).unwrap_or(u32::MAX);
        let score = task.is_score();
        let max_tokens = if score { 0 } else { task.max_tokens };
        let config = OriginConfig { hops, prompt_len, max_tokens, score };
        let session = SessionId::from_bytes(crate::entropy::bytes());
        let (sender, events) = mpsc::channel(WAITING_EVENTS);
        let openings = openings(model, chain, task, config.first_credit());
        for (number, (hop, opening)) in chain.hops().iter().zip(openings).enumerate() {
            let knock = Knock {
                caller: caller.clone(),
                session,
                hop: number as u8,
                peer: hop.peer,
                prekey: hop.prekey,
                opening,
            };
            let sender = sender.clone();
            tokio::spawn(async move {
                let hop = knock.hop;
                let opened = tokio::select! {
                    opened = knock.open() => Box::new(opened),
                    () = sender.closed() => return,
                };
                let _ = sender.send(Event::Opened { hop, opened }).await;
            });
        }
        let machine = Origin::new(caller.clock.now(), config);
        let lines = (0..hops).map(|_| None).collect();
        let (clock, made) = (caller.clock, VecDeque::new());
        Self {
            machine,
            clock,
            sender,
            events,
            hops: lines,
            made,
            session,
            model,
            chain: chain.clone(),
            prompt: task.prompt.clone(),
            answer: Vec::new(),
            receipts: !score,
            pace: Pace::new(),
        }
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
                () = self.clock.sleep_until(timeout) => {
                    self.machine.handle_timeout(self.clock.now());
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

    /// What the answer leaves behind, once it has ended well.
    pub(crate) fn proof(&self) -> Proof {
        let complete = self.receipts && self.machine.is_told_all();
        Proof {
            session: self.session,
            model: self.model,
            chain: self.chain.clone(),
            prompt: self.prompt.clone(),
            answer: self.answer.clone(),
            late: self.machine.late().to_vec(),
            receipts: complete.then(|| self.machine.receipts().to_vec()),
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Opened { hop, opened } => match *opened {
                Ok((line, reader)) => {
                    self.hops[usize::from(hop)] = Some(line);
                    pump(reader, self.sender.clone(), move |frame| Event::Frame { hop, frame });
                    self.input(OriginInput::Accepted { hop });
                }
                Err(Some(refusal)) => self.input(OriginInput::Refused { hop, refusal }),
                Err(None) => self.input(OriginInput::Lost { hop }),
            },
            Event::Frame { hop, frame: None } => self.input(OriginInput::Lost { hop }),
            Event::Frame { hop, frame: Some(frame) } => {
                let Some(line) = &mut self.hops[usize::from(hop)] else { return };
                let input = match line.channel.opener.open::<ToClient>(frame) {
                    Ok(opened) => {
                        let (message, frame) = (opened.message, opened.tensor);
                        OriginInput::FromHop { hop, message, frame }
                    }
                    Err(_) => OriginInput::Broken { hop },
                };
                self.input(input);
            }
        }
    }

    fn input(&mut self, input: OriginInput) {
        self.machine.handle(self.clock.now(), input);
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                OriginOutput::ToHop { hop, message, frame } => {
                    let Some(line) = &mut self.hops[usize::from(hop)] else { continue };
                    let sealed =
                        line.channel.sealer.seal(Mark::default(), &message, frame.as_deref());
                    if !sealed.is_ok_and(|frame| line.queue.send(frame).is_ok()) {
                        self.machine.handle(self.clock.now(), OriginInput::Lost { hop });
                    }
                }
                OriginOutput::Open => {}
                OriginOutput::Token(token) => {
                    self.answer.push(token.id);
                    self.pace.token(self.clock.now());
                    self.made.push_back(Made::Token(token));
                }
                OriginOutput::Scored(row) => self.made.push_back(Made::Scored(row)),
                OriginOutput::Ended(outcome) => {
                    self.made.push_back(Made::Ended(outcome.map_err(RunFailure::Chain)));
                }
            }
        }
    }
}

impl Knock {
    /// Opens the hop's control stream. `Err(None)`: it cannot be reached.
    async fn open(mut self) -> Result<(Line, FrameReader), Option<Refusal>> {
        match self.attempt().await {
            // The host has turned its keys since it was heard of: once more, with the new one.
            Err(Some(Refusal::StalePrekey(announcement))) => {
                let verified = announcement.verify::<Announcement>().map_err(|_| None)?;
                if verified.record().host != self.peer {
                    return Err(None);
                }
                self.prekey = verified.record().prekey;
                self.attempt().await
            }
            answer => answer,
        }
    }

    async fn attempt(&self) -> Result<(Line, FrameReader), Option<Refusal>> {
        let (hello, secret) = self.seal().ok_or(None)?;
        let Caller { network, .. } = &self.caller;
        let opened = network.open(self.peer, StreamKind::Control).await;
        let (mut reader, mut writer) = opened.map_err(|error| {
            tracing::debug!(peer = %self.peer, %error, "cannot open a control stream");
            None
        })?;
        writer.write(codec::encode(&hello)).await.map_err(|_| None)?;
        let frame = reader.read().await.ok().flatten().ok_or(None)?;
        match codec::decode::<Reply>(&frame, MAX_REPLY) {
            Ok(Reply::Accepted { nonce }) => {
                let place = Place::Control { hop: self.hop };
                let channel = Channel::new(&secret, self.session, place, Direction::Forth, &nonce);
                Ok((Line { channel, queue: FrameQueue::over(writer) }, reader))
            }
            Ok(Reply::Refused(refusal)) => Err(Some(refusal)),
            Err(_) => Err(None),
        }
    }

    fn seal(&self) -> Option<(Hello, Secret)> {
        let Self { caller, session, hop, peer, prekey, opening } = self;
        let rng = &mut crate::entropy::rng();
        opening.seal(&caller.swarm, peer, prekey, *session, *hop, rng).ok()
    }
}

/// The opening of each hop, with fresh secrets for the lanes.
fn openings(model: ModelId, chain: &Chain, task: &Task, credit: u32) -> Vec<Opening> {
    let hops = chain.hops();
    let secrets: Vec<Secret> =
        hops.iter().map(|_| Secret::from_bytes(crate::entropy::bytes())).collect();
    let lane = |to: usize, number: usize| {
        let (peer, secret) = (hops[to].peer, secrets[number].clone());
        (hops.len() > 1).then_some(LaneOpening { peer, secret, generation: 1 })
    };
    let last = hops.len() - 1;
    let prompt = || BoundedVec::truncated(task.prompt.iter().copied());
    let opening = |(number, hop): (usize, &Hop)| {
        let previous = if number == 0 { last } else { number - 1 };
        let next = if number == last { 0 } else { number + 1 };
        Opening {
            model,
            span: hop.span,
            hops: hops.len() as u8,
            numerics: chain.numerics(),
            prompt_len: task.prompt.len() as u32,
            positions: task.positions(),
            receipts: !task.is_score(),
            out: lane(next, number),
            inward: lane(previous, previous),
            prompt: if number == 0 { prompt() } else { BoundedVec::new() },
            tail: (number == last).then(|| TailOpening {
                task: task.tail_task(credit),
                prompt: if last == 0 { BoundedVec::new() } else { prompt() },
            }),
        }
    };
    hops.iter().enumerate().map(opening).collect()
}

//! The one task that owns the node's [`Peer`]: others tell it what happened and ask what to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use taimatsu_network::Network;
use taimatsu_peer::policy::RETRY_MS;
use taimatsu_peer::routing::{Chain, Hop, Part};
use taimatsu_peer::{Ask, Config, Input, OpeningSummary, Output, Peer, RouteError};
use taimatsu_protocol::opening::{Opening, Refusal};
use taimatsu_protocol::signed::{SignedBytes, Verified};
use taimatsu_protocol::{Announcement, ModelId, SessionId, Span, SwarmId, UnixSeconds};
use tokio::sync::{mpsc, oneshot};

use super::clock::Clock;
pub(crate) use super::coverage::{Coverage, SpanState};
use super::directory;
use crate::ledger::{Kept, Ledger};

/// Commands that may wait; whoever sends one more waits too.
const COMMANDS: usize = 256;

/// A handle to the judgement; cloned freely.
#[derive(Debug, Clone)]
pub(crate) struct Judge {
    commands: mpsc::Sender<Command>,
}

enum Command {
    Input(Box<Input>),
    Ask { ask: Ask, reply: oneshot::Sender<Result<Chain, RouteError>> },
    Mend { ask: Ask, part: Part, reply: oneshot::Sender<Result<Vec<Hop>, RouteError>> },
    Open { opening: OpeningSummary, reply: oneshot::Sender<Result<Span, Refusal>> },
    Answer { model: Option<ModelId>, reply: oneshot::Sender<Vec<SignedBytes>> },
    Own { reply: oneshot::Sender<Option<SignedBytes>> },
    Coverage { reply: oneshot::Sender<Vec<Coverage>> },
    Sessions { reply: oneshot::Sender<usize> },
    NotInForce { reply: oneshot::Sender<u64> },
    Standings { reply: oneshot::Sender<Vec<Kept>> },
}

impl Judge {
    /// Starts the task. It ends when the last handle is dropped.
    pub(crate) fn start(
        key: Arc<SigningKey>,
        network: Network,
        clock: Clock,
        swarm: SwarmId,
        max_sessions: usize,
        ledger: Ledger,
    ) -> Self {
        let wall = Clock::wall();
        let peer = Peer::new(Config {
            me: network.peer_id(),
            swarm,
            sequence: wall.0.saturating_mul(1_000),
            max_sessions,
            seed: crate::entropy::seed(),
        });
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let bench = Bench {
            peer,
            key,
            ledger,
            network,
            clock,
            swarm,
            // Weak: a lookup's task must not keep the judge alive.
            commands: commands.downgrade(),
            next: 0,
            asks: BTreeMap::new(),
            opens: BTreeMap::new(),
            blocks: BTreeMap::new(),
        };
        tokio::spawn(bench.run(inbox));
        Self { commands }
    }

    /// Tells what happened.
    pub(crate) async fn tell(&self, input: Input) {
        let _ = self.commands.send(Command::Input(Box::new(input))).await;
    }

    /// A session that was admitted is over. Never waits, and is never lost.
    pub(crate) fn session_ended(&self, session: SessionId) {
        let command = Command::Input(Box::new(Input::SessionEnded { session }));
        if let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) {
            let commands = self.commands.clone();
            tokio::spawn(async move {
                let _ = commands.send(command).await;
            });
        }
    }

    /// Hosts for an inference.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Chain, RouteError> {
        self.question(|reply| Command::Ask { ask, reply }).await.unwrap_or(Err(RouteError::Busy))
    }

    /// Hosts for a part of an inference that is under way.
    pub(crate) async fn mend(&self, ask: Ask, part: Part) -> Result<Vec<Hop>, RouteError> {
        let mended = self.question(|reply| Command::Mend { ask, part, reply }).await;
        mended.unwrap_or(Err(RouteError::Busy))
    }

    /// Whether to serve a session, and in which hosted span. `accepted_until` is when its prekey
    /// stops being accepted.
    pub(crate) async fn admit(
        &self,
        session: SessionId,
        hop: u8,
        opening: &Opening,
        accepted_until: UnixSeconds,
    ) -> Result<Span, Refusal> {
        let Opening { model, span, numerics, positions, prompt_len, .. } = *opening;
        let opening = OpeningSummary {
            id: 0,
            session,
            hop,
            model,
            span,
            numerics,
            positions,
            prompt_len,
            accepted_until,
        };
        let busy = Err(Refusal::Busy { retry_ms: RETRY_MS });
        self.question(|reply| Command::Open { opening, reply }).await.unwrap_or(busy)
    }

    /// Signed announcements for whoever asks.
    pub(crate) async fn answer(&self, model: Option<ModelId>) -> Vec<SignedBytes> {
        self.question(|reply| Command::Answer { model, reply }).await.unwrap_or_default()
    }

    /// One of this node's own announcements, for whoever has an old prekey.
    pub(crate) async fn own_announcement(&self) -> Option<SignedBytes> {
        self.question(|reply| Command::Own { reply }).await.flatten()
    }

    /// Who hosts what.
    pub(crate) async fn coverage(&self) -> Vec<Coverage> {
        self.question(|reply| Command::Coverage { reply }).await.unwrap_or_default()
    }

    /// Sessions that run here for others.
    pub(crate) async fn sessions(&self) -> usize {
        self.question(|reply| Command::Sessions { reply }).await.unwrap_or_default()
    }

    /// Announcements that came when they had expired, or claim to live too long: a clock is wrong,
    /// here or there.
    pub(crate) async fn not_in_force(&self) -> u64 {
        self.question(|reply| Command::NotInForce { reply }).await.unwrap_or_default()
    }

    /// What this node has seen of others.
    pub(crate) async fn standings(&self) -> Vec<Kept> {
        self.question(|reply| Command::Standings { reply }).await.unwrap_or_default()
    }

    async fn question<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// Who waits for a way.
enum Asker {
    Whole(oneshot::Sender<Result<Chain, RouteError>>),
    Part(oneshot::Sender<Result<Vec<Hop>, RouteError>>),
}

/// The task's state.
struct Bench {
    peer: Peer,
    key: Arc<SigningKey>,
    ledger: Ledger,
    network: Network,
    clock: Clock,
    swarm: SwarmId,
    commands: mpsc::WeakSender<Command>,
    next: u64,
    /// As many as the peer lets wait.
    asks: BTreeMap<u64, Asker>,
    /// Answered within the same call.
    opens: BTreeMap<u64, oneshot::Sender<Result<Span, Refusal>>>,
    /// Numbers of blocks of models that are being looked up.
    blocks: BTreeMap<ModelId, u32>,
}

impl Bench {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            let timeout = self.peer.poll_timeout();
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
                () = self.clock.sleep_until(timeout) => {
                    self.peer.handle_timeout(self.clock.now(), Clock::wall());
                }
            }
            self.perform();
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Input(input) => self.handle(*input),
            Command::Ask { mut ask, reply } => {
                self.next += 1;
                ask.id = self.next;
                self.asks.insert(ask.id, Asker::Whole(reply));
                self.blocks.insert(ask.model, ask.blocks);
                self.handle(Input::Ask(ask));
            }
            Command::Mend { mut ask, part, reply } => {
                self.next += 1;
                ask.id = self.next;
                self.asks.insert(ask.id, Asker::Part(reply));
                self.blocks.insert(ask.model, ask.blocks);
                self.handle(Input::Mend { ask, part: Box::new(part) });
            }
            Command::Open { mut opening, reply } => {
                self.next += 1;
                opening.id = self.next;
                self.opens.insert(opening.id, reply);
                self.handle(Input::Opening(opening));
            }
            Command::Answer { model, reply } => {
                let _ = reply.send(self.peer.answer(model, Clock::wall()));
            }
            Command::Own { reply } => {
                let _ = reply.send(self.peer.own_announcements(Clock::wall()).next().cloned());
            }
            Command::Coverage { reply } => {
                let _ = reply.send(self.coverage());
            }
            Command::Standings { reply } => {
                let all = self.peer.reputation().all();
                let all = all.map(|(peer, model, standing)| (*peer, *model, standing.clone()));
                let _ = reply.send(all.collect());
            }
            Command::Sessions { reply } => {
                let _ = reply.send(self.peer.sessions());
            }
            Command::NotInForce { reply } => {
                let _ = reply.send(self.peer.ignored().not_in_force);
            }
        }
    }

    fn handle(&mut self, input: Input) {
        self.peer.handle(self.clock.now(), Clock::wall(), input);
    }

    fn perform(&mut self) {
        while let Some(output) = self.peer.poll_output() {
            match output {
                Output::Announce(announcement) => match Verified::sign(*announcement, &self.key) {
                    Ok(signed) => self.handle(Input::Signed(Box::new(signed))),
                    Err(error) => tracing::error!(%error, "an announcement was not signed"),
                },
                Output::Remember { peer, model, standing } => {
                    self.ledger.remember(peer, model, *standing);
                }
                Output::Forget { peer, model } => self.ledger.forget(peer, model),
                Output::Lookup { model } => self.look_up(model),
                Output::Routed { id, chain } => {
                    if let Some(Asker::Whole(reply)) = self.asks.remove(&id) {
                        let _ = reply.send(Ok(chain));
                    }
                }
                Output::Mended { id, hops } => {
                    if let Some(Asker::Part(reply)) = self.asks.remove(&id) {
                        let _ = reply.send(Ok(hops));
                    }
                }
                Output::Unroutable { id, error } => match self.asks.remove(&id) {
                    Some(Asker::Whole(reply)) => drop(reply.send(Err(error))),
                    Some(Asker::Part(reply)) => drop(reply.send(Err(error))),
                    None => {}
                },
                Output::Admit { id, within } => self.opened(id, Ok(within)),
                Output::Refuse { id, refusal } => self.opened(id, Err(refusal)),
            }
        }
    }

    fn opened(&mut self, id: u64, answer: Result<Span, Refusal>) {
        if let Some(reply) = self.opens.remove(&id) {
            let _ = reply.send(answer);
        }
    }

    /// The peer lets one lookup a model run at a time.
    fn look_up(&mut self, model: ModelId) {
        let Some(blocks) = self.blocks.remove(&model) else { return };
        let Some(commands) = self.commands.upgrade() else { return };
        let (network, swarm, judge) = (self.network.clone(), self.swarm, Judge { commands });
        tokio::spawn(async move {
            directory::look_up(&network, &judge, swarm, model, blocks).await;
            judge.tell(Input::LookupDone { model }).await;
        });
    }

    fn coverage(&self) -> Vec<Coverage> {
        let (me, now) = (self.network.peer_id(), self.clock.now());
        let mut models: BTreeMap<ModelId, (u32, Vec<SpanState>)> = BTreeMap::new();
        for model in self.peer.table().models() {
            let mut count: BTreeMap<u32, usize> = BTreeMap::new();
            for said in self.peer.table().hosts(model) {
                *count.entry(said.blocks).or_default() += 1;
            }
            let most = count.into_iter().max_by_key(|(_, hosts)| *hosts);
            let blocks = most.map_or(0, |(blocks, _)| blocks);
            let stays = |said: &&Announcement| said.blocks == blocks && !said.leaving;
            let hosts = self.peer.table().hosts(model).filter(stays);
            let passed = |host| self.peer.table().is_suspended(host, now);
            let spans = hosts.map(|said| SpanState::announced(said, passed(&said.host)));
            models.insert(model, (blocks, spans.collect()));
        }
        for own in self.peer.hosting() {
            let entry = models.entry(own.model).or_insert((own.blocks, Vec::new()));
            if entry.0 == own.blocks {
                entry.1.push(SpanState::own(me, own.span));
            }
        }
        let covered = |(model, (blocks, spans)): (ModelId, (u32, Vec<SpanState>))| {
            let whole = |span: &SpanState| span.host == me && span.span.blocks() == (0..blocks);
            let missing = match spans.iter().any(whole) {
                true => Vec::new(),
                false => self.peer.table().coverage(model, blocks, now),
            };
            Coverage { model, blocks, spans, missing }
        };
        models.into_iter().map(covered).collect()
    }
}

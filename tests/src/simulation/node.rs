//! A node: its judgement, what it hosts, whom it serves.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use taimatsu_peer::{Config, Hosting, Input, Load, Output, Peer};
use taimatsu_protocol::opening::{Prekey, Refusal};
use taimatsu_protocol::signed::Verified;
use taimatsu_protocol::{ModelId, Moment, Numerics, PeerId, SessionId, Span, SwarmId};

use super::events::{Event, Model, Timer};
use super::hop::HopTask;
use super::serving::{Early, Opened};
use super::worker::{Speed, Worker};
use super::world::{AskId, NodeId, World};

/// Sessions that a host serves at once, unless the scenario says otherwise.
const MAX_SESSIONS: usize = 8;

/// Clocks differ by at most so many seconds.
const SKEW: u64 = 20;

/// How long a prekey stands in announcements, in seconds, as in the node.
const PREKEY_LIFE: u64 = 3_600;

/// After which openings to it are still accepted.
pub(crate) const PREKEY_GRACE: u64 = 900;

/// One node.
#[derive(Debug)]
pub struct Node {
    pub(crate) id: PeerId,
    pub(crate) key: SigningKey,
    pub(crate) peer: Peer,
    pub(crate) up: bool,
    /// It went without a word, and says none to whoever knocks.
    pub(crate) silent: bool,
    /// Which of its lives this is: what was meant for an earlier one is void.
    pub(crate) life: u32,
    pub(crate) skew: u64,
    pub(crate) prekey: Prekey,
    pub(crate) max_sessions: usize,
    pub(crate) workers: Vec<Worker>,
    pub(crate) hops: BTreeMap<SessionId, HopTask>,
    /// Admitted, and waiting for their KV.
    pub(crate) opened: BTreeMap<SessionId, Opened>,
    pub(crate) early: Vec<Early>,
    /// What the peer has just said of an opening.
    pub(crate) verdict: Option<Result<Span, Refusal>>,
    /// Asks that wait for a way, and which search of their run's it is.
    pub(crate) routes: BTreeMap<u64, (AskId, Option<u32>)>,
    pub(crate) next: u64,
    /// Numbers of blocks of models that are looked up.
    pub(crate) blocks: BTreeMap<ModelId, u32>,
    /// Nodes that it has a connection to.
    pub(crate) met: BTreeSet<NodeId>,
    pub(crate) looks_around: bool,
    pub(crate) pause: u64,
    armed: Option<Moment>,
    /// Sessions that it has admitted in all.
    pub(crate) admitted: u64,
}

impl Node {
    pub(crate) const fn is_up(&self) -> bool {
        self.up
    }

    /// Whether its machine still answers to strangers' packets, be it with a refusal.
    pub(crate) const fn speaks(&self) -> bool {
        self.up || !self.silent
    }

    /// Everything that a machine's end takes with it.
    pub(crate) fn die(&mut self, silent: bool) {
        (self.up, self.silent) = (false, silent);
        self.life += 1;
        self.hops.clear();
        self.opened.clear();
        self.early.clear();
        self.routes.clear();
        self.met.clear();
        self.verdict = None;
    }

    fn peer(&self, sequence: u64, seed: u64) -> Peer {
        Peer::new(Config {
            me: self.id,
            swarm: SwarmId::public(),
            sequence,
            max_sessions: self.max_sessions,
            seed,
        })
    }
}

impl World {
    /// Adds a node that hosts nothing as yet.
    pub fn add_node(&mut self) -> NodeId {
        let key = SigningKey::from_bytes(&self.luck.bytes());
        let id = PeerId::from_public_key(key.verifying_key().to_bytes());
        let config =
            Config { me: id, swarm: SwarmId::public(), sequence: 0, max_sessions: 0, seed: 0 };
        let node = self.nodes.len();
        self.nodes.push(Node {
            id,
            key,
            peer: Peer::new(config),
            up: false,
            silent: false,
            life: 0,
            skew: self.luck.below(SKEW),
            prekey: Prekey { id: [0; 8], public: [0; 32], not_after: self.wall_base() },
            max_sessions: MAX_SESSIONS,
            workers: Vec::new(),
            hops: BTreeMap::new(),
            opened: BTreeMap::new(),
            early: Vec::new(),
            verdict: None,
            routes: BTreeMap::new(),
            next: 0,
            blocks: BTreeMap::new(),
            met: BTreeSet::new(),
            looks_around: true,
            pause: 0,
            armed: None,
            admitted: 0,
        });
        self.names.push(id);
        self.links.place(&mut self.luck);
        self.start(node);
        node
    }

    /// Adds a node that hosts a span of a model.
    pub fn add_host(&mut self, model: usize, span: Span, speed: Speed) -> NodeId {
        let node = self.add_node();
        self.host(node, model, span, speed);
        node
    }

    /// The owner lets so many sessions run at once.
    pub fn limit_sessions(&mut self, node: NodeId, sessions: usize) {
        self.nodes[node].max_sessions = sessions;
        let sequence = self.wall(node).0 * 1_000;
        let seed = self.luck.below(u64::MAX);
        self.nodes[node].peer = self.nodes[node].peer(sequence, seed);
        self.offer_all(node);
    }

    /// The node begins, or begins again, with what it hosts and a new prekey.
    pub(crate) fn start(&mut self, node: NodeId) {
        let sequence = self.wall(node).0 * 1_000;
        let seed = self.luck.below(u64::MAX);
        let new = self.nodes[node].peer(sequence, seed);
        let this = &mut self.nodes[node];
        (this.peer, this.up, this.silent, this.armed) = (new, true, false, None);
        this.pause = 200;
        let not_after = self.wall(node).plus(PREKEY_LIFE);
        let prekey = Prekey { id: self.luck.bytes(), public: self.luck.bytes(), not_after };
        self.nodes[node].prekey = prekey;
        self.offer_all(node);
        let life = self.nodes[node].life;
        let delay = self.luck.millis(100, 1_500);
        if self.nodes[node].looks_around {
            self.after(delay, Event::LookAround { node, life });
        }
    }

    /// The node hosts a span from now on.
    pub(crate) fn host(&mut self, node: NodeId, model: usize, span: Span, speed: Speed) {
        let Model { id, shape } = self.models[model];
        self.nodes[node].workers.push(Worker::new(id, shape, span, speed));
        let worker = self.nodes[node].workers.len() - 1;
        self.offer(node, worker);
    }

    fn offer_all(&mut self, node: NodeId) {
        let prekey = self.nodes[node].prekey;
        self.tell(node, Input::Prekey(prekey));
        for worker in 0..self.nodes[node].workers.len() {
            self.nodes[node].workers[worker].renew();
            self.offer(node, worker);
        }
    }

    fn offer(&mut self, node: NodeId, worker: usize) {
        let this = &self.nodes[node].workers[worker];
        let hosting = Hosting {
            model: this.model,
            blocks: this.shape.blocks,
            span: this.span,
            numerics: Numerics::Echo,
            context: this.shape.context_length.min(this.capacity()),
            free_positions: this.capacity(),
        };
        self.provide(node, hosting.model, hosting.span);
        self.tell(node, Input::Hosting(hosting));
        let life = self.nodes[node].life;
        self.after(Worker::TOLD_EVERY, Event::Load { node, life, worker });
    }

    pub(crate) fn tell_load(&mut self, node: NodeId, life: u32, worker: usize) {
        if self.nodes[node].life != life || !self.nodes[node].up {
            return;
        }
        let this = &mut self.nodes[node].workers[worker];
        this.load_due = false;
        let load = Load {
            model: this.model,
            span: this.span,
            free_positions: this.free_positions(),
            decode_micros: this.said_decode_micros(),
            prefill_rate: this.prefill_rate(),
        };
        self.tell(node, Input::Load(load));
    }

    /// Tells a node's peer what happened, and does what it says.
    pub(crate) fn tell(&mut self, node: NodeId, input: Input) {
        let (now, wall) = (self.now, self.wall(node));
        self.nodes[node].peer.handle(now, wall, input);
        self.perform_peer(node);
    }

    pub(crate) fn wake_peer(&mut self, node: NodeId, at: Moment) {
        if self.nodes[node].armed != Some(at) || !self.nodes[node].up {
            return;
        }
        self.nodes[node].armed = None;
        let (now, wall) = (self.now, self.wall(node));
        if self.nodes[node].peer.poll_timeout().is_some_and(|due| due <= now) {
            self.nodes[node].peer.handle_timeout(now, wall);
        }
        self.perform_peer(node);
    }

    fn perform_peer(&mut self, node: NodeId) {
        while let Some(output) = self.nodes[node].peer.poll_output() {
            match output {
                Output::Announce(announcement) => {
                    let signed = Verified::sign(*announcement, &self.nodes[node].key)
                        .expect("a peer announces itself");
                    self.trace.say(self.now, || {
                        let said = signed.record();
                        let (span, free) = (said.span, said.free_positions);
                        format!("n{node} announces {span}, {free} free, {} µs", said.decode_micros)
                    });
                    let (now, wall) = (self.now, self.wall(node));
                    let signed = Input::Signed(Box::new(signed));
                    self.nodes[node].peer.handle(now, wall, signed);
                }
                // Nothing outlives a simulated node.
                Output::Forget { .. } => {}
                Output::Remember { peer, standing, .. } => self.check_standing(&peer, &standing),
                Output::Lookup { model } => self.look_up(node, model),
                Output::Routed { id, chain } => {
                    if let Some((ask, None)) = self.nodes[node].routes.remove(&id) {
                        self.routed(ask, chain);
                    }
                }
                Output::Mended { id, hops } => {
                    if let Some((ask, Some(seek))) = self.nodes[node].routes.remove(&id) {
                        self.sought(ask, seek, hops);
                    }
                }
                Output::Unroutable { id, error } => match self.nodes[node].routes.remove(&id) {
                    Some((ask, None)) => self.unroutable(ask, error),
                    Some((ask, Some(seek))) => self.sought(ask, seek, Vec::new()),
                    None => {}
                },
                Output::Admit { within, .. } => self.nodes[node].verdict = Some(Ok(within)),
                Output::Refuse { refusal, .. } => self.nodes[node].verdict = Some(Err(refusal)),
            }
        }
        self.check_peer(node);
        let timeout = self.nodes[node].peer.poll_timeout();
        let armed = self.nodes[node].armed;
        self.nodes[node].armed = self.arm(Timer::Peer(node), armed, timeout);
    }
}

//! A node: network, judgement, hosted spans, API; from its start to its end.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures::FutureExt;
use taimatsu_executor::Threads;
use taimatsu_model::Store;
use taimatsu_network::{
    Incoming, Limits, Multiaddr, Network, NetworkConfig, ProviderKey, StartError, StreamKind,
};
use taimatsu_peer::Input;
use taimatsu_protocol::announcement::{Answer, MAX_QUERY, Query};
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::{PeerId, SwarmId, codec};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use crate::driver::chain_run::Caller;
use crate::driver::clock::Clock;
use crate::driver::hop_task::HopEvent;
use crate::driver::judge::Judge;
use crate::driver::prekeys::PrekeyRing;
use crate::driver::registry::Registry;
use crate::driver::serving::{Hosted, Serving};
use crate::driver::{directory, hosting};
use crate::engine::SharedEngine;
use crate::failure::{Code, Failure};
use crate::good_peers::GoodPeers;
use crate::ledger::Ledger;
use crate::library::Library;
use crate::memory;
use crate::stopping::{Gate, Gated};
use crate::swarm_engine::{SwarmEngine, look_around};

mod terms;

pub use terms::{NodeConfig, Offer, Owner};

/// How often prekeys are looked at; they turn hourly.
const PREKEY_CHECK: Duration = Duration::from_secs(60);

/// Questions of other nodes that are worked on at a time; beyond it they are refused.
const QUERIES: usize = 32;

/// Streams of other nodes that are worked on at a time; beyond it they are closed.
const STREAMS: usize = 4_096;

/// How long the last writes may take at the end.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// A running node.
pub struct Node {
    network: Network,
    judge: Judge,
    registry: Registry,
    swarm: SwarmId,
    hosted: watch::Sender<Arc<Vec<Hosted>>>,
    engine: SwarmEngine,
    gate: Gate,
    good_peers: GoodPeers,
    /// Somebody is to be dialled: a bootstrap address, or a peer that was good before.
    has_ways: bool,
    owner: Owner,
    /// Shared by all spans; started with the first.
    threads: Option<Threads>,
    /// Bytes that the spans need.
    memory: u64,
    /// Under which this node announces itself.
    keys: BTreeSet<ProviderKey>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Node {
    /// Starts the network and the judgement. Nothing is hosted yet.
    ///
    /// # Errors
    /// A port is in use, an address is none of this machine's.
    pub async fn start(config: NodeConfig) -> Result<Self, Failure> {
        // Without a store it still serves as a client: all it needs comes from hosts.
        let library = Library::new(Store::open(&config.models).ok());
        Self::start_with(config, library).await
    }

    /// The same, over models of which some may have been read already.
    pub(crate) async fn start_with(config: NodeConfig, library: Library) -> Result<Self, Failure> {
        let swarm = SwarmId::named(&config.swarm);
        let clock = Clock::start();
        let good_peers = GoodPeers::of(&config.home, &config.swarm);
        let remembered = good_peers.addresses();
        let has_ways = !remembered.is_empty() || !config.bootstrap.is_empty();
        let (network, incoming) = taimatsu_network::start(network_config(&config, remembered))
            .await
            .map_err(|error| not_started(&error))?;
        let key = Arc::new(SigningKey::from_bytes(&config.key));
        let ledger = Ledger::open(&config.home)?;
        let judge = Judge::start(
            key.clone(),
            network.clone(),
            clock,
            swarm,
            config.max_sessions,
            ledger.clone(),
        );
        tell_known(&judge, &ledger, &config.owner).await;
        let prekeys = PrekeyRing::new(Clock::wall());
        judge.tell(Input::Prekey(prekeys.current())).await;
        let (hosted, hosting) = watch::channel(Arc::default());
        let registry = Registry::new();
        let serving = Serving {
            me: network.peer_id(),
            key,
            swarm,
            network: network.clone(),
            clock,
            prekeys: prekeys.clone(),
            registry: registry.clone(),
            judge: judge.clone(),
            hosted: hosting.clone(),
        };
        let engine = SwarmEngine {
            judge: judge.clone(),
            ledger: ledger.clone(),
            caller: Caller { network: network.clone(), clock, swarm },
            library: library.clone(),
            hosted: hosting,
            swarm_name: config.swarm,
            privacy: config.owner.privacy,
            patience: config.owner.patience,
            trusted: config.owner.trusted.clone().into(),
        };
        let tasks = vec![
            tokio::spawn(serve(incoming, serving, library)),
            tokio::spawn(turn_prekeys(prekeys, judge.clone())),
            tokio::spawn(look_around(engine.clone())),
            tokio::spawn(good_peers.clone().keep(network.clone())),
        ];
        Ok(Self {
            network,
            judge,
            registry,
            swarm,
            hosted,
            engine,
            gate: Gate::open(),
            good_peers,
            has_ways,
            owner: config.owner,
            threads: None,
            memory: 0,
            keys: BTreeSet::new(),
            tasks,
        })
    }

    /// This node's full id.
    #[must_use]
    pub fn peer(&self) -> String {
        self.network.peer_id().to_string()
    }

    /// Where other nodes dial it.
    pub async fn addresses(&self) -> Vec<String> {
        self.network.addresses().await.iter().map(ToString::to_string).collect()
    }

    /// Whether it has anybody to dial: a bootstrap address, or a peer that was good before.
    #[must_use]
    pub const fn has_ways(&self) -> bool {
        self.has_ways
    }

    /// Whether some node of the swarm is known, after at most ten seconds.
    pub async fn joined(&self) -> bool {
        self.network.joined().await.is_ok()
    }

    /// What answers its API.
    #[must_use]
    pub fn engine(&self) -> SharedEngine {
        Arc::new(Gated { engine: self.engine.clone(), gate: self.gate.clone() })
    }

    /// Loads a span and offers it to the swarm.
    ///
    /// # Errors
    /// Its weights are not here, the owner's memory does not suffice, or the executor refuses them.
    pub async fn host(&mut self, offer: Offer) -> Result<(), Failure> {
        let needed = offer.needed();
        let Offer { model, span, limits } = offer;
        let (loading, named) = (model.clone(), format!("{}@{span}", model.name));
        memory::check(&named, needed, self.memory, self.owner.memory)?;
        let what = format!("cannot host {named}");
        let threads = match &self.threads {
            Some(threads) => threads.clone(),
            None => Threads::start(limits.threads)
                .map_err(|error| Failure::of(Code::Resources, what.clone(), &error))?,
        };
        self.threads = Some(threads.clone());
        let work = move || hosting::load_on(&threads, &loading, span, limits.kv_positions);
        let worker = tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Failure::of(Code::Failure, what.clone(), &error))?
            .map_err(|error| Failure::of(Code::Failure, what, &error))?;
        let hosted = Hosted { model: model.id, worker };
        let (blocks, context) = (model.manifest.blocks, model.manifest.context_length);
        self.hosted.send_modify(|all| {
            let added = all.iter().cloned().chain([hosted.clone()]);
            *all = Arc::new(added.collect());
        });
        self.memory = self.memory.saturating_add(needed);
        let (network, judge) = (&self.network, &self.judge);
        let keys = hosting::offer(network, judge, self.swarm, blocks, context, &hosted).await;
        self.keys.extend(keys);
        let upkeep = hosting::Upkeep {
            judge: judge.clone(),
            network: network.clone(),
            swarm: self.swarm,
            all: self.hosted.subscribe(),
        };
        self.tasks.push(tokio::spawn(upkeep.keep(hosted)));
        Ok(())
    }

    /// Takes nothing new, says so, and lets what is under way go on for as long as the owner
    /// allows, or until somebody is in a hurry. Then it is ended with a word.
    pub async fn drain(&self, hurry: impl Future<Output = ()>) {
        self.gate.drain();
        self.judge.tell(Input::Drain).await;
        self.registry.tell_all(|| HopEvent::Leaving);
        directory::say_goodbye(&self.network, &self.judge).await;
        for key in &self.keys {
            self.network.stop_providing(*key).await;
        }
        let idle = async {
            self.gate.idle().await;
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            while self.registry.len() > 0 {
                ticks.tick().await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(self.owner.drain, idle) => {}
            () = hurry => {}
        }
        self.gate.end();
        self.registry.tell_all(|| HopEvent::Drain);
    }

    /// Leaves the swarm, and writes down what is to be remembered.
    pub async fn leave(self) {
        for task in &self.tasks {
            task.abort();
        }
        let written = async {
            self.good_peers.keep_now(&self.network).await;
            self.engine.ledger.flush().await;
        };
        if tokio::time::timeout(LAST_WRITES, written).await.is_err() {
            tracing::warn!("the disk takes too long; what happened last is not remembered");
        }
        self.network.shutdown().await;
    }
}

fn network_config(config: &NodeConfig, remembered: Vec<Multiaddr>) -> NetworkConfig {
    let upload_per_second = config.owner.upload_per_second;
    NetworkConfig {
        secret: *config.key,
        swarm: SwarmId::named(&config.swarm),
        listen: config.listen.clone(),
        bootstrap: config.bootstrap.clone(),
        remembered,
        mdns: config.owner.mdns,
        dht_server: true,
        limits: Limits { upload_per_second, ..Limits::default() },
        tap: config.tap.clone(),
    }
}

/// What the node knew of others before it started.
async fn tell_known(judge: &Judge, ledger: &Ledger, owner: &Owner) {
    for (peer, model, standing) in ledger.standings() {
        let standing = Box::new(standing);
        judge.tell(Input::Remembered { peer, model, standing }).await;
    }
    judge.tell(Input::Trust(owner.trusted.iter().copied().collect())).await;
}

/// Takes what other nodes begin, each in a task of its own.
async fn serve(mut incoming: mpsc::Receiver<Incoming>, serving: Serving, library: Library) {
    let streams = Arc::new(tokio::sync::Semaphore::new(STREAMS));
    let queries = Arc::new(tokio::sync::Semaphore::new(QUERIES));
    while let Some(arrival) = incoming.recv().await {
        match arrival {
            Incoming::Stream { peer, kind, reader, writer } => {
                let Ok(permit) = streams.clone().try_acquire_owned() else {
                    tracing::warn!(%peer, "too many streams; closed one");
                    continue;
                };
                let serving = serving.clone();
                let work = match kind {
                    StreamKind::Control => serving.control(peer, *reader, writer).boxed(),
                    StreamKind::Link => serving.link(peer, *reader, writer).boxed(),
                };
                tokio::spawn(async move {
                    work.await;
                    drop(permit);
                });
            }
            Incoming::Query { peer, bytes, reply } => {
                let Ok(permit) = queries.clone().try_acquire_owned() else {
                    tracing::warn!(%peer, "too many questions; refused one");
                    continue;
                };
                let (judge, library) = (serving.judge.clone(), library.clone());
                tokio::spawn(async move {
                    answer(peer, &bytes, reply, &judge, library).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn answer(
    peer: PeerId,
    bytes: &[u8],
    reply: oneshot::Sender<Vec<u8>>,
    judge: &Judge,
    library: Library,
) {
    let answer = match codec::decode::<Query>(bytes, MAX_QUERY) {
        Ok(Query::Announcements { model }) => {
            Answer::Announcements(BoundedVec::truncated(judge.answer(model).await))
        }
        Ok(Query::Announce(told)) => {
            directory::heard(judge, peer, told).await;
            Answer::Announcements(BoundedVec::truncated([]))
        }
        Ok(Query::Blob { digest }) => {
            let found = tokio::task::spawn_blocking(move || library.blob(&digest)).await;
            Answer::blob(found.ok().flatten())
        }
        Err(_) => Answer::NotUnderstood,
    };
    let _ = reply.send(codec::encode(&answer));
}

async fn turn_prekeys(prekeys: PrekeyRing, judge: Judge) {
    let mut ticks = tokio::time::interval(PREKEY_CHECK);
    loop {
        ticks.tick().await;
        if prekeys.rotate(Clock::wall()) {
            judge.tell(Input::Prekey(prekeys.current())).await;
        }
    }
}

/// Takes the API's port.
///
/// # Errors
/// Somebody else has it.
pub(crate) async fn bind_api(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let what = format!("cannot listen on {address} for the API");
        let remedy = match error.kind() {
            std::io::ErrorKind::AddrInUse => "--api 127.0.0.1:0 for a free port, or stop the other",
            _ => "--api 127.0.0.1:4810",
        };
        Failure::of(Code::Resources, what, &error).try_this(remedy)
    })
}

fn not_started(error: &StartError) -> Failure {
    let remedy = match error {
        StartError::AddressInUse { .. } => {
            "--listen /ip4/0.0.0.0/tcp/0 for a free port, or stop the other program"
        }
        StartError::Mdns(_) => "the same without --mdns",
        StartError::Listen { .. } => "--listen with an address of this machine",
        StartError::Noise(_) | StartError::Dns(_) => "--bootstrap with numbers instead of names",
    };
    Failure::of(Code::Resources, "the network did not start", error).try_this(remedy)
}

//! A node: network, judgement, hosted spans, API; from its start to its end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures::FutureExt;
use taimatsu_executor::ExecutorLimits;
use taimatsu_model::Store;
use taimatsu_network::{
    FrameTap, Incoming, Limits, Multiaddr, Network, NetworkConfig, StartError, StreamKind,
};
use taimatsu_peer::Input;
use taimatsu_protocol::announcement::{Answer, MAX_QUERY, Query};
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::{PeerId, Span, SwarmId, codec};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use zeroize::Zeroizing;

use crate::driver::chain_run::Caller;
use crate::driver::clock::Clock;
use crate::driver::hop_task::HopEvent;
use crate::driver::hosting;
use crate::driver::judge::Judge;
use crate::driver::prekeys::PrekeyRing;
use crate::driver::registry::Registry;
use crate::driver::serving::{Hosted, Serving};
use crate::engine::SharedEngine;
use crate::failure::{Code, Failure};
use crate::ledger::Ledger;
use crate::library::{KnownModel, Library};
use crate::swarm_engine::{SwarmEngine, look_around};

/// How often prekeys are looked at; they turn hourly.
const PREKEY_CHECK: Duration = Duration::from_secs(60);

/// Questions of other nodes that are worked on at a time; beyond it they are refused.
const QUERIES: usize = 32;

/// Streams of other nodes that are worked on at a time; beyond it they are closed.
const STREAMS: usize = 4_096;

/// What a node is made of.
pub struct NodeConfig {
    /// Its ed25519 seed.
    pub key: Zeroizing<[u8; 32]>,
    /// The swarm's name.
    pub swarm: String,
    /// Where it listens for other nodes.
    pub listen: Vec<Multiaddr>,
    /// Whom it dials first.
    pub bootstrap: Vec<Multiaddr>,
    /// Sessions at a time.
    pub max_sessions: usize,
    /// Where models are.
    pub models: PathBuf,
    /// Where it remembers others' standing, and how to reach them.
    pub home: PathBuf,
    /// What its owner allows and wishes.
    pub owner: Owner,
    /// Hears every frame of every stream; for tests.
    pub tap: Option<Arc<dyn FrameTap>>,
}

/// What a node's owner allows and wishes.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Peers that may read what is asked here.
    pub trusted: Vec<PeerId>,
    /// Bytes that may be uploaded in a second; none: as many as go.
    pub upload_per_second: Option<u64>,
    /// Bytes of tensors and KV that may be hosted; none: as many as there is room for.
    pub memory: Option<u64>,
    /// How long running answers may go on when the node is told to stop.
    pub drain: Duration,
    /// Whether nodes of this local network are looked for by multicast.
    pub mdns: bool,
}

impl Default for Owner {
    fn default() -> Self {
        let drain = Duration::from_secs(5);
        Self { trusted: Vec::new(), upload_per_second: None, memory: None, drain, mdns: false }
    }
}

/// A span to be hosted.
#[derive(Debug, Clone)]
pub struct Offer {
    pub(crate) model: Arc<KnownModel>,
    pub(crate) span: Span,
    pub(crate) limits: ExecutorLimits,
}

impl Offer {
    /// Blocks `blocks` (`A-B`, inclusive; none: all) of the model that `reference` means in the
    /// store `models`.
    ///
    /// # Errors
    /// There is no such model, or no such span of it.
    pub fn of(
        models: &Path,
        reference: &str,
        blocks: Option<&str>,
        limits: ExecutorLimits,
    ) -> Result<Self, Failure> {
        let library = Library::new(Store::open(models).ok());
        let model = library.find(reference)?.ok_or_else(|| library.unknown(reference))?;
        Self::new(model, reference, blocks, limits)
    }

    pub(crate) fn new(
        model: Arc<KnownModel>,
        reference: &str,
        blocks: Option<&str>,
        limits: ExecutorLimits,
    ) -> Result<Self, Failure> {
        let span = Self::span(reference, blocks, model.manifest.blocks)?;
        Ok(Self { model, span, limits })
    }

    /// The span that is meant, of a model of `all` blocks.
    pub(crate) fn span(reference: &str, blocks: Option<&str>, all: u32) -> Result<Span, Failure> {
        let span = match blocks {
            Some(blocks) => Span::parse_inclusive(blocks, all),
            None => Span::whole(all),
        };
        span.map_err(|error| {
            let text = blocks.map_or_else(String::new, |blocks| format!("@{blocks}"));
            Failure::new(Code::Usage, format!("cannot host {reference}{text}"))
                .because(error)
                .try_this(format!("--serve {reference}@0-{}", all.saturating_sub(1)))
        })
    }
}

/// A running node.
pub struct Node {
    network: Network,
    judge: Judge,
    registry: Registry,
    swarm: SwarmId,
    hosted: watch::Sender<Arc<Vec<Hosted>>>,
    engine: SwarmEngine,
    owner: Owner,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Node {
    /// Starts the network and the judgement. Nothing is hosted yet.
    ///
    /// # Errors
    /// A port is in use, an address is none of this machine's.
    pub async fn start(config: NodeConfig) -> Result<Self, Failure> {
        let swarm = SwarmId::named(&config.swarm);
        let clock = Clock::start();
        let (network, incoming) = taimatsu_network::start(NetworkConfig {
            secret: *config.key,
            swarm,
            listen: config.listen,
            bootstrap: config.bootstrap,
            remembered: Vec::new(),
            mdns: config.owner.mdns,
            dht_server: true,
            limits: Limits {
                upload_per_second: config.owner.upload_per_second,
                ..Limits::default()
            },
            tap: config.tap,
        })
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
        for (peer, model, standing) in ledger.standings() {
            let standing = Box::new(standing);
            judge.tell(Input::Remembered { peer, model, standing }).await;
        }
        let prekeys = PrekeyRing::new(Clock::wall());
        judge.tell(Input::Prekey(prekeys.current())).await;
        // Without a store it still serves as a client: all it needs comes from hosts.
        let library = Library::new(Store::open(&config.models).ok());
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
            trusted: config.owner.trusted.clone().into(),
        };
        let tasks = vec![
            tokio::spawn(serve(incoming, serving, library)),
            tokio::spawn(turn_prekeys(prekeys, judge.clone())),
            tokio::spawn(look_around(engine.clone())),
        ];
        let owner = config.owner;
        Ok(Self { network, judge, registry, swarm, hosted, engine, owner, tasks })
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

    /// Whether some node of the swarm is known, after at most ten seconds.
    pub async fn joined(&self) -> bool {
        self.network.joined().await.is_ok()
    }

    /// What answers its API.
    #[must_use]
    pub fn engine(&self) -> SharedEngine {
        Arc::new(self.engine.clone())
    }

    /// Loads a span and offers it to the swarm.
    ///
    /// # Errors
    /// Its weights are not here, or the executor refuses them.
    pub async fn host(&mut self, offer: Offer) -> Result<(), Failure> {
        let Offer { model, span, limits } = offer;
        let (loading, what) = (model.clone(), format!("cannot host {}@{span}", model.name));
        let work = move || hosting::load(&loading, span, limits);
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
        hosting::offer(&self.network, &self.judge, self.swarm, blocks, context, &hosted).await;
        self.tasks.push(tokio::spawn(hosting::report_load(self.judge.clone(), hosted)));
        Ok(())
    }

    /// Takes no more sessions, lets the running ones end for a while, and leaves.
    pub async fn stop(self, hurry: impl Future<Output = ()>) {
        self.judge.tell(Input::Drain).await;
        let idle = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            while self.registry.len() > 0 {
                ticks.tick().await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(self.owner.drain, idle) => {}
            () = hurry => {}
        }
        self.registry.tell_all(|| HopEvent::Drain);
        for task in &self.tasks {
            task.abort();
        }
        self.network.shutdown().await;
        self.engine.ledger.flush().await;
    }
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
                    StreamKind::Control => serving.control(reader, writer).boxed(),
                    StreamKind::Link => serving.link(peer, reader, writer).boxed(),
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
                    answer(&bytes, reply, &judge, library).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn answer(bytes: &[u8], reply: oneshot::Sender<Vec<u8>>, judge: &Judge, library: Library) {
    let answer = match codec::decode::<Query>(bytes, MAX_QUERY) {
        Ok(Query::Announcements { model }) => {
            Answer::Announcements(BoundedVec::truncated(judge.answer(model).await))
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

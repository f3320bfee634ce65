//! The engine of a running node: answers come from a span that it hosts whole, or from the swarm.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use taimatsu_network::Network;
use taimatsu_peer::retry::{Attempts, Fault};
use taimatsu_peer::routing::{Chain, PlanError, Wish};
use taimatsu_peer::session::Failure;
use taimatsu_peer::{Input, Observed, RouteError};
use taimatsu_protocol::control::HopStats;
use taimatsu_protocol::opening::{MAX_TOP, Refusal};
use taimatsu_protocol::{PeerId, Span};
use tokio::sync::watch;

use crate::answering::{self, Begun, Blame, Source};
use crate::driver::chain_run::{Caller, ChainRun};
use crate::driver::judge::{Coverage, Judge};
use crate::driver::serving::Hosted;
use crate::driver::{blobs, directory};
use crate::engine::{
    Answer, Engine, EngineError, HopReport, ModelState, Question, RouteWish, Scores,
};
use crate::library::{self, KnownModel, Library};
use crate::question::{Prepared, failed_here, prepare, score_task};
use crate::run::{Run, RunFailure, Task};
use crate::solo::SoloRun;
use crate::worker::Worker;

/// When to ask again where nobody has room, in milliseconds.
const RETRY_MS: u32 = 1_000;

/// See the module's page. Cloned into each answer.
#[derive(Debug, Clone)]
pub(crate) struct SwarmEngine {
    pub(crate) judge: Judge,
    pub(crate) caller: Caller,
    pub(crate) library: Library,
    pub(crate) hosted: watch::Receiver<Arc<Vec<Hosted>>>,
    pub(crate) swarm_name: String,
}

impl Engine for SwarmEngine {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, EngineError>> {
        async move {
            let asked = Instant::now();
            let model = self.resolve(&question.model).await?;
            let wish = question.route;
            let Prepared { task, frame } = prepare(model.clone(), question, asked).await?;
            if task.max_tokens == 0 {
                return Ok(answering::nothing(frame));
            }
            answering::answer(SwarmSource::new(self, model, task, wish), frame).await
        }
        .boxed()
    }

    fn score(
        &self,
        model: String,
        ids: Vec<u32>,
        top: usize,
        route: RouteWish,
    ) -> BoxFuture<'_, Result<Scores, EngineError>> {
        async move {
            let model = self.resolve(&model).await?;
            let top =
                u8::try_from(top).ok().filter(|top| (1..=MAX_TOP).contains(&usize::from(*top)));
            let top = top.ok_or_else(|| EngineError::Invalid {
                param: "top",
                message: format!("a node scores the 1 to {MAX_TOP} best continuations"),
            })?;
            let task = score_task(&model, ids, top)?;
            answering::scores(SwarmSource::new(self, model, task, route)).await
        }
        .boxed()
    }

    fn models(&self) -> BoxFuture<'_, Vec<ModelState>> {
        async move {
            let coverage = self.judge.coverage().await;
            let library = self.library.clone();
            let names = tokio::task::spawn_blocking(move || library.names()).await;
            states(&coverage, &names.unwrap_or_default())
        }
        .boxed()
    }

    fn status(&self) -> BoxFuture<'_, Value> {
        self.status_json().boxed()
    }
}

impl SwarmEngine {
    async fn resolve(&self, reference: &str) -> Result<Arc<KnownModel>, EngineError> {
        let (library, text) = (self.library.clone(), reference.to_owned());
        let found = tokio::task::spawn_blocking(move || library.find(&text)).await;
        if let Some(found) = found.map_err(|error| EngineError::Internal(error.to_string()))?? {
            return Ok(found);
        }
        let Some(id) = library::id_of(reference) else {
            return Err(self.library.unknown(reference));
        };
        let name = library::canonical(&id).unwrap_or_else(|| id.to_string());
        let Caller { network, swarm, .. } = &self.caller;
        blobs::fetch(network, &self.library, *swarm, id, name).await
    }

    fn whole_worker(&self, model: &KnownModel) -> Option<Worker> {
        let whole = |hosted: &&Hosted| {
            hosted.model == model.id && hosted.worker.span().blocks() == (0..model.manifest.blocks)
        };
        self.hosted.borrow().iter().find(whole).map(|hosted| hosted.worker.clone())
    }

    async fn status_json(&self) -> Value {
        let network: &Network = &self.caller.network;
        let status = network.status().await;
        let hosted = self.hosted.borrow().clone();
        let models = self.models().await;
        json!({
            "schema_version": 1,
            "version": env!("CARGO_PKG_VERSION"),
            "peer": network.peer_id().to_string(),
            "swarm": self.swarm_name,
            "addresses": status.listening.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "bootstrap": {
                "given": status.bootstrap_addresses,
                "reached": status.bootstrap_reached,
            },
            "dht_peers": status.dht_peers,
            "peers": status.peers.iter().map(|peer| json!({
                "peer": peer.peer.to_string(),
                "addresses": peer.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "rtt_ms": peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            })).collect::<Vec<_>>(),
            "hosting": hosted.iter().map(|hosted| json!({
                "model": hosted.model.to_string(),
                "name": library::canonical(&hosted.model),
                "blocks": hosted.worker.span().inclusive(),
                "free_positions": hosted.worker.free_positions(),
                "decode_ms": f64::from(hosted.worker.decode_micros()) / 1000.0,
                "prefill_per_second": hosted.worker.prefill_rate(),
            })).collect::<Vec<_>>(),
            "sessions": self.judge.sessions().await,
            "models": models.iter().map(|model| json!({
                "name": model.name,
                "id": model.id,
                "ready": model.ready,
                "blocks": model.blocks,
                "hosts": model.hosts,
                "missing": model.missing,
            })).collect::<Vec<_>>(),
        })
    }
}

/// The models of the swarm, and of this machine's store, as the API shows them.
fn states(
    coverage: &[Coverage],
    stored: &[(String, taimatsu_protocol::ModelId)],
) -> Vec<ModelState> {
    let name_of = |id| {
        let named = stored.iter().find(|(_, stored)| stored == id).map(|(name, _)| name.clone());
        library::canonical(id).or(named).unwrap_or_else(|| id.to_string())
    };
    let mut states: Vec<ModelState> = coverage
        .iter()
        .map(|model| ModelState {
            name: name_of(&model.model),
            id: Some(model.model.to_string()),
            blocks: Some(model.blocks),
            ready: model.missing.is_empty(),
            missing: model.missing.clone(),
            hosts: model.spans.iter().map(|(host, _)| host).collect::<BTreeSet<_>>().len() as u32,
        })
        .collect();
    for (_, id) in stored {
        if !coverage.iter().any(|model| model.model == *id) {
            states.push(ModelState {
                name: name_of(id),
                id: Some(id.to_string()),
                blocks: None,
                ready: false,
                missing: Vec::new(),
                hosts: 0,
            });
        }
    }
    states.sort_by(|a, b| a.name.cmp(&b.name));
    states
}

/// One question's ways: this node's own executor, or chains of hosts.
struct SwarmSource {
    engine: SwarmEngine,
    model: Arc<KnownModel>,
    task: Task,
    wish: RouteWish,
    attempts: Attempts,
    chain: Option<Chain>,
}

impl SwarmSource {
    fn new(engine: &SwarmEngine, model: Arc<KnownModel>, task: Task, wish: RouteWish) -> Self {
        let attempts = Attempts::new();
        Self { engine: engine.clone(), model, task, wish, attempts, chain: None }
    }

    async fn begin(&mut self) -> Result<Begun, EngineError> {
        let own = match self.wish {
            RouteWish::Any | RouteWish::Local | RouteWish::Whole => {
                self.engine.whole_worker(&self.model)
            }
            RouteWish::Chain => None,
        };
        if let Some(worker) = own {
            return self.begin_here(&worker).await;
        }
        let wish = match self.wish {
            RouteWish::Any => Wish::Any,
            RouteWish::Whole => Wish::Whole,
            RouteWish::Chain => Wish::Chain,
            RouteWish::Local => return Err(self.no_such_route()),
        };
        let (id, blocks) = (self.model.id, self.model.manifest.blocks);
        let asked = self.engine.judge.ask(id, blocks, wish, self.task.positions()).await;
        let chain = asked.map_err(|error| self.unroutable(error))?;
        if !self.attempts.may_use(&chain) {
            return Err(self.no_such_route());
        }
        let run = ChainRun::begin(&self.engine.caller, id, &chain, &self.task);
        let hops = chain.hops().iter().map(|hop| report(hop.peer, hop.span)).collect();
        self.chain = Some(chain);
        Ok(Begun { run: Run::Chain(Box::new(run)), hops })
    }

    async fn begin_here(&self, worker: &Worker) -> Result<Begun, EngineError> {
        let run = SoloRun::begin(worker, self.task.clone())
            .await
            .map_err(|error| EngineError::Busy { cause: error.to_string(), retry_ms: RETRY_MS })?;
        let me = self.engine.caller.network.peer_id();
        let hops = vec![report(me, worker.span())];
        Ok(Begun { run: Run::Solo(Box::new(run)), hops })
    }

    fn unroutable(&self, error: RouteError) -> EngineError {
        let model = self.model.name.clone();
        let cause = error.to_string();
        match error {
            RouteError::Plan(PlanError::Uncovered { missing }) => {
                EngineError::Uncovered { model, missing }
            }
            RouteError::Plan(PlanError::NoSuchRoute) => self.no_such_route(),
            RouteError::Plan(PlanError::NoCapacity) | RouteError::Busy => {
                EngineError::Busy { cause, retry_ms: RETRY_MS }
            }
        }
    }

    fn no_such_route(&self) -> EngineError {
        let wish = match self.wish {
            RouteWish::Any => "any",
            RouteWish::Local => "local",
            RouteWish::Whole => "whole",
            RouteWish::Chain => "chain",
        };
        EngineError::NoSuchRoute { model: self.model.name.clone(), wish }
    }

    async fn learn(&mut self, stats: Vec<HopStats>, lap: Option<Duration>) {
        let Some(chain) = &self.chain else { return };
        if let Some(observed) = Observed::of(self.model.id, chain, stats, lap) {
            self.engine.judge.tell(Input::Observed(Box::new(observed))).await;
        }
    }

    async fn blame(&mut self, failure: &RunFailure) -> Blame {
        let failure = match failure {
            RunFailure::Here(failure) => {
                return Blame { error: failed_here(failure), again: false };
            }
            RunFailure::Chain(failure) => failure,
        };
        let Some(chain) = &self.chain else {
            return Blame { error: EngineError::Internal(failure.to_string()), again: false };
        };
        let Fault { hop, again } = self.attempts.failed(chain, failure);
        self.engine.judge.tell(Input::HostFailed { host: hop.peer }).await;
        let prompt = self.task.prompt.len() as u32;
        let error = named(failure, hop.peer, hop.span, self.task.positions(), prompt);
        Blame { error, again }
    }
}

impl Source for SwarmSource {
    fn begin(&mut self) -> BoxFuture<'_, Result<Begun, EngineError>> {
        self.begin().boxed()
    }

    fn learn<'a>(&'a mut self, run: &'a Run) -> BoxFuture<'a, ()> {
        self.learn(run.stats(), run.lap()).boxed()
    }

    fn blame<'a>(&'a mut self, failure: &'a RunFailure) -> BoxFuture<'a, Blame> {
        self.blame(failure).boxed()
    }
}

fn named(failure: &Failure, peer: PeerId, span: Span, positions: u32, prompt: u32) -> EngineError {
    let peer = peer.to_string();
    let failed = |cause: String| EngineError::PeerFailed { peer: peer.clone(), span, cause };
    match failure {
        Failure::Refused { refusal, .. } => match refusal {
            Refusal::Busy { retry_ms } => {
                EngineError::Busy { cause: refusal.to_string(), retry_ms: *retry_ms }
            }
            Refusal::NoKv { .. } | Refusal::Draining => {
                EngineError::Busy { cause: refusal.to_string(), retry_ms: RETRY_MS }
            }
            Refusal::TooLong { limit } => {
                EngineError::ContextOverflow { limit: *limit, asked: positions, prompt }
            }
            other => failed(format!("it refused: {other}")),
        },
        Failure::OpenTimeout { .. } | Failure::Stalled { .. } => {
            EngineError::PeerTimeout { peer, span }
        }
        Failure::HopLost { .. } => failed("it is gone, or silent".into()),
        Failure::Unlinkable { .. } => failed("its neighbour cannot reach it".into()),
        Failure::HopFailed { failure, .. } => failed(failure.to_string()),
        Failure::Violation { .. } => failed("it broke the protocol".into()),
    }
}

fn report(peer: PeerId, span: Span) -> HopReport {
    HopReport {
        peer: peer.to_string(),
        span,
        ms_per_token: 0.0,
        direct_frames: 0,
        relayed_frames: 0,
    }
}

/// Looks around for as long as the node runs.
pub(crate) async fn look_around(engine: SwarmEngine) {
    let Caller { network, swarm, .. } = engine.caller;
    directory::keep_fresh(network, engine.judge, swarm).await;
}

//! The engine of a running node: answers come from a span that it hosts whole, or from the swarm.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use taimatsu_network::{Network, ProviderKey};
use taimatsu_protocol::PeerId;
use taimatsu_protocol::opening::MAX_TOP;
use tokio::sync::watch;

use crate::answering;
use crate::driver::chain_run::Caller;
use crate::driver::clock::Clock;
use crate::driver::judge::{Coverage, Judge};
use crate::driver::serving::Hosted;
use crate::driver::{blobs, directory};
use crate::engine::{
    Answer, Engine, EngineError, ModelState, Privacy, Question, Scores, Scoring, Vocabulary,
};
use crate::ledger::Ledger;
use crate::library::{self, KnownModel, Library};
use crate::question::{Prepared, prepare, score_task};
use crate::remembered;
use crate::swarm_map;
use crate::swarm_source::SwarmSource;
use crate::worker::Worker;

/// See the module's page. Cloned into each answer.
#[derive(Debug, Clone)]
pub(crate) struct SwarmEngine {
    pub(crate) judge: Judge,
    pub(crate) ledger: Ledger,
    pub(crate) caller: Caller,
    pub(crate) library: Library,
    pub(crate) hosted: watch::Receiver<Arc<Vec<Hosted>>>,
    pub(crate) swarm_name: String,
    /// Who may see a question, at most.
    pub(crate) privacy: Privacy,
    /// How long an answer waits for somebody in a lost host's place.
    pub(crate) patience: Duration,
    /// Peers that the owner trusts to read what is asked.
    pub(crate) trusted: Arc<[PeerId]>,
}

impl Engine for SwarmEngine {
    fn ask(&self, mut question: Question) -> BoxFuture<'_, Result<Answer, EngineError>> {
        async move {
            let asked = Instant::now();
            let model = self.resolve(&question.model).await?;
            let (wish, privacy) = (question.route, question.privacy.min(self.privacy));
            question.privacy = privacy;
            let id = question.id.clone();
            let Prepared { task, frame } = prepare(model.clone(), question, asked).await?;
            if task.max_tokens == 0 {
                return Ok(answering::nothing(frame));
            }
            let source = SwarmSource::new(self, model, task, wish, privacy).known_as(id);
            answering::answer(source, frame).await
        }
        .boxed()
    }

    fn score(&self, scoring: Scoring) -> BoxFuture<'_, Result<Scores, EngineError>> {
        async move {
            let Scoring { model, ids, top, route, privacy } = scoring;
            let model = self.resolve(&model).await?;
            let top =
                u8::try_from(top).ok().filter(|top| (1..=MAX_TOP).contains(&usize::from(*top)));
            let top = top.ok_or_else(|| EngineError::Invalid {
                param: "top",
                message: format!("a node scores the 1 to {MAX_TOP} best continuations"),
            })?;
            let task = score_task(&model, ids, top)?;
            let privacy = privacy.min(self.privacy);
            answering::scores(SwarmSource::new(self, model, task, route, privacy)).await
        }
        .boxed()
    }

    fn vocabulary(&self, model: String) -> BoxFuture<'_, Result<Arc<dyn Vocabulary>, EngineError>> {
        async move {
            let model = self.resolve(&model).await?;
            Ok(model.tokenizer.clone() as Arc<dyn Vocabulary>)
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

    fn reputation(&self, peer: Option<String>) -> BoxFuture<'_, Value> {
        async move { remembered::standings(&self.judge.standings().await, peer.as_deref()) }.boxed()
    }

    fn receipts(&self, id: Option<String>) -> BoxFuture<'_, Option<Value>> {
        let ledger = self.ledger.clone();
        let read = move || remembered::receipts(&ledger, id.as_deref());
        async move { tokio::task::spawn_blocking(read).await.ok().flatten() }.boxed()
    }

    fn status(&self) -> BoxFuture<'_, Value> {
        self.status_json().boxed()
    }

    fn map(&self, model: String) -> BoxFuture<'_, Result<Value, EngineError>> {
        self.map_json(model).boxed()
    }

    fn try_dht(&self) -> BoxFuture<'_, Value> {
        async move {
            let Caller { network, swarm, .. } = &self.caller;
            let nonce = crate::entropy::bytes::<32>();
            let key = ProviderKey::trial(*swarm, nonce);
            let announced = network.provide(key).await;
            network.stop_providing(key).await;
            json!({
                "schema_version": 1,
                "nonce": nonce.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
                "announced": announced.is_ok(),
                "error": announced.err().map(|error| error.to_string()),
                "dht_peers": network.status().await.dht_peers,
            })
        }
        .boxed()
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

    pub(crate) fn whole_worker(&self, model: &KnownModel) -> Option<Worker> {
        let whole = |hosted: &&Hosted| {
            hosted.model == model.id
                && hosted.worker.span().blocks() == (0..model.manifest.blocks)
                && hosted.worker.is_sound()
        };
        self.hosted.borrow().iter().find(whole).map(|hosted| hosted.worker.clone())
    }

    async fn map_json(&self, reference: String) -> Result<Value, EngineError> {
        let id = match library::id_of(&reference) {
            Some(id) => id,
            // Only what is here has a name that is not the catalogue's.
            None => self.resolve(&reference).await?.id,
        };
        let coverage = self.judge.coverage().await;
        let Some(found) = coverage.into_iter().find(|model| model.model == id) else {
            return Err(EngineError::NoHost { model: reference });
        };
        let status = self.caller.network.status().await;
        let view = swarm_map::View {
            me: self.caller.network.peer_id(),
            name: library::canonical(&id).unwrap_or(reference),
            now: Clock::wall(),
            rtts: status.peers.iter().filter_map(|peer| Some((peer.peer, peer.rtt?))).collect(),
            hosted: &self.hosted.borrow().clone(),
            trusted: &self.trusted,
        };
        Ok(view.map(&found))
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
            "privacy": self.privacy,
            "store": self.library.dir().map(|dir| dir.display().to_string()),
            "addresses": status.listening.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "bootstrap": {
                "given": status.bootstrap_addresses,
                "reached": status.bootstrap_reached,
            },
            "dht_peers": status.dht_peers,
            "announced_keys": status.announced_keys,
            "peers": status.peers.iter().map(|peer| json!({
                "peer": peer.peer.to_string(),
                "addresses": peer.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "rtt_ms": peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
                "direct": peer.addresses.iter().any(taimatsu_network::is_direct),
            })).collect::<Vec<_>>(),
            "hosting": hosted.iter().map(|hosted| json!({
                "model": hosted.model.to_string(),
                "name": library::canonical(&hosted.model),
                "blocks": hosted.worker.span().inclusive(),
                "file_changed": !hosted.worker.is_sound(),
                "free_positions": hosted.worker.free_positions(),
                "decode_ms": f64::from(hosted.worker.decode_micros()) / 1000.0,
                "prefill_per_second": hosted.worker.prefill_rate(),
                "computed_positions": hosted.worker.computed(),
            })).collect::<Vec<_>>(),
            "upload": {"bytes": status.uploaded, "waits": status.upload_waits},
            "ignored_announcements": self.judge.not_in_force().await,
            "sessions": self.judge.sessions().await,
            "ledger": {"trouble": self.ledger.trouble()},
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
            hosts: model.spans.iter().map(|span| span.host).collect::<BTreeSet<_>>().len() as u32,
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

/// Looks around for as long as the node runs.
pub(crate) async fn look_around(engine: SwarmEngine) {
    let Caller { network, swarm, .. } = engine.caller;
    directory::keep_fresh(network, engine.judge, swarm).await;
}

//! Spans brought into memory and offered to the swarm.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use taimatsu_executor::{CpuExecutor, ExecutorError, ExecutorLimits, Threads};
use taimatsu_model::{GgufError, GgufFile};
use taimatsu_network::{Network, ProviderKey};
use taimatsu_peer::{Hosting, Input, Load};
use taimatsu_protocol::span::SpanError;
use taimatsu_protocol::{Span, SwarmId};
use tokio::sync::watch;

use super::judge::Judge;
use super::serving::Hosted;
use crate::library::KnownModel;
use crate::worker::Worker;

/// How often the executor's figures are told to the judge, which announces them in its own time.
const LOAD_EVERY: Duration = Duration::from_secs(1);

/// Why a span cannot be hosted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// Its weights are not on this machine.
    #[error("the weights of {0} are not on this machine")]
    NoWeights(String),
    /// The file cannot be read.
    #[error("the model's file cannot be read")]
    File(#[from] GgufError),
    /// The executor refuses it.
    #[error("the executor refuses it")]
    Executor(#[from] ExecutorError),
    /// A model without blocks.
    #[error(transparent)]
    Span(#[from] SpanError),
    /// No thread for it.
    #[error("no thread can be started")]
    Thread(#[from] std::io::Error),
}

/// Maps a span's tensors, measures their speed, and gives them a thread that computes on these.
/// Takes as long as the disk does, and a few positions more.
///
/// # Errors
/// See [`LoadError`].
pub(crate) fn load_on(
    threads: &Threads,
    model: &KnownModel,
    span: Span,
    kv_positions: u32,
) -> Result<Worker, LoadError> {
    Ok(Worker::rehearsed(Box::new(load_executor(threads, model, span, kv_positions)?))?)
}

/// Maps a span's tensors and gives them a thread. Takes as long as the disk does.
///
/// # Errors
/// See [`LoadError`].
pub(crate) fn load(
    model: &KnownModel,
    span: Span,
    limits: ExecutorLimits,
) -> Result<Worker, LoadError> {
    let threads = Threads::start(limits.threads)?;
    let executor = load_executor(&threads, model, span, limits.kv_positions)?;
    Ok(Worker::start(Box::new(executor))?)
}

/// Maps a span's tensors.
///
/// # Errors
/// See [`LoadError`].
pub(crate) fn load_executor(
    threads: &Threads,
    model: &KnownModel,
    span: Span,
    kv_positions: u32,
) -> Result<CpuExecutor, LoadError> {
    let (file, packs) = (file(model)?, model.packs.as_ref());
    let manifest = &model.manifest;
    Ok(CpuExecutor::load_on(threads, &file, manifest, span, kv_positions, packs)?)
}

fn file(model: &KnownModel) -> Result<Arc<GgufFile>, LoadError> {
    let path: &Path =
        model.path.as_deref().ok_or_else(|| LoadError::NoWeights(model.name.clone()))?;
    Ok(Arc::new(GgufFile::open(path)?))
}

/// Tells the judge and the directory of a hosted span; under which keys, for the day when it ends.
pub(crate) async fn offer(
    network: &Network,
    judge: &Judge,
    swarm: SwarmId,
    blocks: u32,
    context: u32,
    hosted: &Hosted,
) -> Vec<ProviderKey> {
    let span = hosted.worker.span();
    let free_positions = hosted.worker.free_positions();
    let hosting = Hosting {
        model: hosted.model,
        blocks,
        span,
        numerics: CpuExecutor::NUMERICS,
        context: context.min(free_positions),
        free_positions,
    };
    judge.tell(Input::Hosting(hosting)).await;
    let keys = keys_of(swarm, hosted);
    for key in keys.iter().copied() {
        let network = network.clone();
        // Kept by the network and repeated from now on: nobody need wait for the first round.
        tokio::spawn(async move {
            if let Err(error) = network.provide(key).await {
                tracing::debug!(%error, "announced later");
            }
        });
    }
    keys
}

/// Under which keys a span is found.
fn keys_of(swarm: SwarmId, hosted: &Hosted) -> Vec<ProviderKey> {
    let groups = hosted.worker.span().blocks().map(ProviderKey::group_of);
    let mut keys: Vec<_> =
        groups.map(|group| ProviderKey::for_group(swarm, hosted.model, group)).collect();
    keys.dedup();
    keys.push(ProviderKey::directory(swarm));
    keys
}

/// What a node says of its spans while they are hosted.
#[derive(Clone)]
pub(crate) struct Upkeep {
    pub(crate) judge: Judge,
    pub(crate) network: Network,
    pub(crate) swarm: SwarmId,
    /// All of them.
    pub(crate) all: watch::Receiver<Arc<Vec<Hosted>>>,
}

impl Upkeep {
    /// Reports the executor's figures for as long as its weights are what was loaded; then the span
    /// is hosted no longer.
    pub(crate) async fn keep(self, hosted: Hosted) {
        report_load(&self.judge, &hosted).await;
        tracing::error!(
            model = %hosted.model,
            blocks = %hosted.worker.span(),
            "the model's file was changed or cut: it is hosted no longer; restart the node with a \
             file that is whole"
        );
        let (model, span) = (hosted.model, hosted.worker.span());
        self.judge.tell(Input::Unhosting { model, span }).await;
        let left: BTreeSet<_> = {
            let all = self.all.borrow();
            let sound = all.iter().filter(|other| other.worker.is_sound());
            sound.flat_map(|other| keys_of(self.swarm, other)).collect()
        };
        for key in keys_of(self.swarm, &hosted).into_iter().filter(|key| !left.contains(key)) {
            self.network.stop_providing(key).await;
        }
    }
}

async fn report_load(judge: &Judge, hosted: &Hosted) {
    let mut ticks = tokio::time::interval(LOAD_EVERY);
    while hosted.worker.is_sound() {
        ticks.tick().await;
        hosted.worker.look();
        let Hosted { model, worker } = hosted;
        let load = Load {
            model: *model,
            span: worker.span(),
            free_positions: worker.free_positions(),
            decode_micros: worker.decode_micros(),
            prefill_rate: worker.prefill_rate(),
        };
        judge.tell(Input::Load(load)).await;
    }
}

//! The executor for CPUs: safe Rust over memory-mapped weights, the same bits everywhere.
//!
//! Weights are unpacked to f32 row by row and multiplied with f32 activations; every sum has one
//! order, which no chunk, batch, thread count, vector width or cut of the chain changes.
//! Only plain additions, multiplications, divisions and roots are used, and libm's software
//! exponentials, so that two machines of different makes agree as well.

mod attention;
mod block;
mod formats;
mod kv;
mod lanes;
mod linear;
mod load;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use taimatsu_model::{GgufFile, Manifest};
use taimatsu_protocol::Span;

use crate::contract::{
    ExecutorError, Input, KvId, LayerExecutor, ModelShape, Output, Want, Work, check_part,
};
use block::{Block, Dims, Rows};
use kv::{Kv, KvDims, KvStore};
use linear::Matrix;
use plan::{Plan, by_plan, finite};

/// What an executor may use of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutorLimits {
    /// Positions of KV over all sessions.
    pub kv_positions: u32,
    /// Threads that compute, at least one; results do not depend on it.
    pub threads: usize,
}

/// Threads that compute; several executors may share them, so that an owner's limit holds for all.
#[derive(Debug, Clone)]
pub struct Threads(Arc<rayon::ThreadPool>);

impl Threads {
    /// So many threads, at least one.
    ///
    /// # Errors
    /// The system has none to give.
    pub fn start(number: usize) -> Result<Self, ExecutorError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(number.max(1))
            .thread_name(|index| format!("executor-{index}"))
            .build();
        pool.map(|pool| Self(Arc::new(pool))).map_err(|_| ExecutorError::Threads(number))
    }
}

/// Runs a span of a Llama-architecture GGUF file on the CPU.
///
/// Weights stay in the mapped file: processes that run spans of one file share its pages, and
/// only the span's tensors are ever read.
pub struct CpuExecutor {
    shape: ModelShape,
    threads: Threads,
    file: Arc<GgufFile>,
    engine: Engine,
}

/// All that runs on the pool.
struct Engine {
    dims: Dims,
    span: Span,
    vocab: u32,
    embedding: Option<Matrix>,
    blocks: Vec<Block>,
    head: Option<Head>,
    kv: KvStore,
}

/// What turns hidden states into logits.
struct Head {
    norm: Vec<f32>,
    output: Matrix,
}

impl CpuExecutor {
    /// Prepares `span` of the model that `manifest` describes, from the file it was made of.
    ///
    /// # Errors
    /// What this executor does not compute rightly is refused by name: another architecture, an
    /// unknown tensor or weight type, a tensor that is missing or of another shape.
    pub fn load(
        file: &Arc<GgufFile>,
        manifest: &Manifest,
        span: Span,
        limits: ExecutorLimits,
    ) -> Result<Self, ExecutorError> {
        Self::load_on(&Threads::start(limits.threads)?, file, manifest, span, limits.kv_positions)
    }

    /// [`load`](Self::load), to compute on threads that there are already.
    ///
    /// # Errors
    /// As there.
    pub fn load_on(
        threads: &Threads,
        file: &Arc<GgufFile>,
        manifest: &Manifest,
        span: Span,
        kv_positions: u32,
    ) -> Result<Self, ExecutorError> {
        let (shape, dims) = load::dimensions(manifest)?;
        if span.blocks().end > shape.blocks || (span.head && span.blocks().end != shape.blocks) {
            return Err(ExecutorError::BadShape("the span does not fit the model"));
        }
        let weights = load::Weights::new(file, manifest, span)?;
        let head = if span.head { Some(weights.head(&dims, &shape)?) } else { None };
        let embedding = if span.embed { Some(weights.embedding(&dims, &shape)?) } else { None };
        let blocks: Vec<Block> =
            span.blocks().map(|index| weights.block(&dims, index)).collect::<Result<_, _>>()?;
        let kv = KvDims { blocks: blocks.len(), heads: dims.kv_heads, head: dims.head };
        let engine = Engine {
            dims,
            span,
            vocab: shape.vocab,
            embedding,
            blocks,
            head,
            kv: KvStore::new(kv, kv_positions),
        };
        Ok(Self { shape, threads: threads.clone(), file: file.clone(), engine })
    }
}

impl LayerExecutor for CpuExecutor {
    fn span(&self) -> Span {
        self.engine.span
    }

    fn shape(&self) -> ModelShape {
        self.shape
    }

    fn open(&mut self, positions: u32, part: Span) -> Result<KvId, ExecutorError> {
        check_part(self.engine.span, self.shape, part)?;
        let most = self.shape.context_length;
        if positions > most {
            return Err(ExecutorError::ContextFull { asked: positions, most });
        }
        let own = self.engine.own(part);
        self.engine.kv.open(positions, part, &own)
    }

    fn close(&mut self, kv: KvId) {
        self.engine.kv.close(kv);
    }

    fn kv_len(&self, kv: KvId) -> Option<u32> {
        self.engine.kv.get(kv).ok().map(|kv| kv.len)
    }

    fn truncate(&mut self, kv: KvId, len: u32) -> Result<(), ExecutorError> {
        let kv = self.engine.kv.get_mut(kv)?;
        if len > kv.len {
            return Err(ExecutorError::WrongStart { asked: len, len: kv.len });
        }
        kv.len = len;
        Ok(())
    }

    fn free_positions(&self) -> u32 {
        self.engine.kv.free()
    }

    fn is_sound(&self) -> bool {
        self.file.is_as_opened()
    }

    fn step(&mut self, batch: &[Work<'_>]) -> Vec<Result<Output, ExecutorError>> {
        if !self.is_sound() {
            return batch.iter().map(|_| Err(ExecutorError::FileChanged)).collect();
        }
        let engine = &mut self.engine;
        self.threads.0.install(|| engine.step(batch))
    }
}

impl Engine {
    /// Where a part's blocks are among those of the span.
    fn own(&self, part: Span) -> Range<usize> {
        let before = self.span.blocks().start;
        let Range { start, end } = part.blocks();
        (start - before) as usize..(end - before) as usize
    }

    /// One pass for each part that sessions of the batch run: mostly one.
    fn step(&mut self, batch: &[Work<'_>]) -> Vec<Result<Output, ExecutorError>> {
        let mut parts: BTreeMap<Span, Vec<usize>> = BTreeMap::new();
        for (index, work) in batch.iter().enumerate() {
            let part = self.kv.get(work.kv).map_or(self.span, |kv| kv.part);
            parts.entry(part).or_default().push(index);
        }
        let mut answers = Vec::with_capacity(batch.len());
        for (part, places) in parts {
            let works: Vec<Work<'_>> = places.iter().map(|index| batch[*index]).collect();
            answers.extend(places.into_iter().zip(self.pass(part, &works)));
        }
        answers.sort_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    fn pass(&mut self, part: Span, batch: &[Work<'_>]) -> Vec<Result<Output, ExecutorError>> {
        let mut seen = BTreeSet::new();
        let mut states = Vec::new();
        let mut plans = Vec::new();
        let mut answers: Vec<Result<Output, ExecutorError>> = Vec::with_capacity(batch.len());
        for (index, work) in batch.iter().enumerate() {
            let admitted = if seen.insert(work.kv) {
                self.admit(work, &mut states)
            } else {
                Err(ExecutorError::KvTwice(work.kv.0))
            };
            answers.push(admitted.map(|count| {
                plans.push(Plan { index, start: work.start, count, want: work.want });
                Output::Nothing
            }));
        }
        if plans.is_empty() {
            return answers;
        }
        for (plan, failure) in self.run(part, batch, &plans, &mut states) {
            answers[plan] = Err(failure);
        }
        self.hand_out(batch, &plans, &states, &mut answers);
        for plan in plans.iter().filter(|plan| answers[plan.index].is_ok()) {
            if let Ok(kv) = self.kv.get_mut(batch[plan.index].kv) {
                kv.len = plan.start + plan.count as u32;
            }
        }
        answers
    }

    /// Checks one work and appends its rows to `states`; gives their number.
    fn admit(&self, work: &Work<'_>, states: &mut Vec<f32>) -> Result<usize, ExecutorError> {
        let kv = self.kv.get(work.kv)?;
        if work.start != kv.len {
            return Err(ExecutorError::WrongStart { asked: work.start, len: kv.len });
        }
        if matches!(work.want, Want::LastLogits | Want::AllLogits) && !kv.part.head {
            return Err(ExecutorError::BadShape("logits were asked of a span without the head"));
        }
        let hidden = self.dims.hidden;
        let count = match work.input {
            Input::Tokens(ids) => ids.len(),
            Input::Hidden(values) if values.len().is_multiple_of(hidden) => values.len() / hidden,
            Input::Hidden(_) => {
                return Err(ExecutorError::BadShape(
                    "the input is not whole rows of hidden values",
                ));
            }
        };
        let room = (kv.reserved() - kv.len) as usize;
        if count == 0 {
            return Err(ExecutorError::BadShape("the input holds no position"));
        }
        if count > room {
            let most = kv.reserved();
            return Err(ExecutorError::ContextFull { asked: most, most });
        }
        match (work.input, self.embedding.as_ref().filter(|_| kv.part.embed)) {
            (Input::Tokens(ids), Some(embedding)) => {
                if let Some(&id) = ids.iter().find(|id| **id >= self.vocab) {
                    return Err(ExecutorError::UnknownToken { id, vocab: self.vocab });
                }
                for id in ids {
                    let from = states.len();
                    states.resize(from + hidden, 0.0);
                    embedding.row(*id as usize, &mut states[from..]);
                }
            }
            (Input::Hidden(values), None) => {
                finite(values, hidden, work.start, None)?;
                states.extend_from_slice(values);
            }
            (Input::Tokens(_), None) => {
                return Err(ExecutorError::BadShape(
                    "tokens were sent to a span without the embedding",
                ));
            }
            (Input::Hidden(_), Some(_)) => {
                return Err(ExecutorError::BadShape(
                    "hidden states were sent to a span that embeds",
                ));
            }
        }
        Ok(count)
    }

    /// Takes all rows through the blocks; gives each failed work's index with its first failure.
    fn run(
        &mut self,
        part: Span,
        batch: &[Work<'_>],
        plans: &[Plan],
        states: &mut [f32],
    ) -> BTreeMap<usize, ExecutorError> {
        let mut failures = BTreeMap::new();
        let turns: Vec<Vec<(f32, f32)>> = plans
            .iter()
            .flat_map(|plan| plan.start..plan.start + plan.count as u32)
            .map(|position| block::turn(&self.dims, position))
            .collect();
        let mut taken: Vec<(&Plan, Kv)> = Vec::with_capacity(plans.len());
        for plan in plans {
            taken.extend(self.kv.take(batch[plan.index].kv).map(|kv| (plan, kv)));
        }
        let mut sessions: Vec<Rows<'_>> = taken
            .iter_mut()
            .map(|(plan, kv)| Rows { kv, start: plan.start as usize, count: plan.count })
            .collect();
        for index in self.own(part) {
            let block = &self.blocks[index];
            block.advance(&self.dims, index, &mut sessions, &turns, states);
            let number = self.span.blocks().start + index as u32;
            for (plan, rows) in by_plan(plans, states, self.dims.hidden) {
                if let Err(failure) = finite(rows, self.dims.hidden, plan.start, Some(number)) {
                    failures.entry(plan.index).or_insert(failure);
                }
            }
        }
        drop(sessions);
        for (plan, kv) in taken {
            self.kv.put_back(batch[plan.index].kv, kv);
        }
        failures
    }

    /// Fills in what was asked for, logits of all works in one pass of the head.
    fn hand_out(
        &self,
        batch: &[Work<'_>],
        plans: &[Plan],
        states: &[f32],
        answers: &mut [Result<Output, ExecutorError>],
    ) {
        let hidden = self.dims.hidden;
        let mut wanted = Vec::new();
        let mut asking = Vec::new();
        for (plan, rows) in by_plan(plans, states, hidden) {
            if answers[plan.index].is_err() {
                continue;
            }
            let last = rows.len() - hidden;
            match plan.want {
                Want::Nothing => {}
                Want::Hidden => answers[plan.index] = Ok(Output::Hidden(rows.to_vec())),
                Want::LastLogits => {
                    asking.push((plan, 1));
                    wanted.extend_from_slice(&rows[last..]);
                }
                Want::AllLogits => {
                    asking.push((plan, plan.count));
                    wanted.extend_from_slice(rows);
                }
            }
        }
        let Some(head) = self.head.as_ref().filter(|_| !wanted.is_empty()) else { return };
        let normed = block::rms_norm(&wanted, &head.norm, self.dims.epsilon);
        let mut logits = &head.output.apply(&normed)[..];
        let vocab = head.output.rows();
        for (plan, rows) in asking {
            let (own, others) = logits.split_at(rows * vocab);
            logits = others;
            let end = batch[plan.index].start + plan.count as u32;
            let block = self.span.blocks().end;
            answers[plan.index] = finite(own, vocab, end - rows as u32, Some(block))
                .map(|()| Output::Logits(own.to_vec()));
        }
    }
}

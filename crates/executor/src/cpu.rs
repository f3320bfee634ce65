//! The executor for CPUs: K1 over packed weights, the same bits everywhere.
//!
//! What is computed, and in what order, is in `docs/numerics.md`; the arithmetic is in
//! `taimatsu-kernels`. Here are a model's structure, its weights and its sessions.

mod block;
mod engine;
mod kv;
mod load;
mod passage;
mod plan;
mod structure;

use std::sync::Arc;

use taimatsu_kernels::{Level, Pool, frequencies, self_test};
use taimatsu_model::{GgufFile, Manifest, Packs};
use taimatsu_protocol::{Numerics, Span};

use crate::contract::{ExecutorError, KvId, LayerExecutor, ModelShape, Output, Work, check_part};
use block::{Block, Room};
use engine::Engine;
use kv::KvStore;
use load::{Matrix, Weights};
use structure::Structure;

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
pub struct Threads {
    pool: Arc<Pool>,
    level: Level,
}

impl Threads {
    /// So many threads, at least one, with the best instructions of this CPU.
    ///
    /// # Errors
    /// The system has none to give, or this CPU computes something else than K1.
    pub fn start(number: usize) -> Result<Self, ExecutorError> {
        Self::at(Level::detect(), number)
    }

    /// The same with instructions of a level at most: results do not depend on it.
    ///
    /// # Errors
    /// As there.
    pub fn at(level: Level, number: usize) -> Result<Self, ExecutorError> {
        let pool = Pool::start(number).map_err(|_| ExecutorError::Threads(number))?;
        self_test(&pool, level)?;
        Ok(Self { pool: Arc::new(pool), level })
    }

    /// Bytes a second that these threads read from memory: measured, in a quarter of a second.
    #[must_use]
    pub fn bandwidth(&self) -> f64 {
        self.pool.bandwidth(self.level)
    }
}

/// Runs a span of a GGUF file on the CPU.
pub struct CpuExecutor {
    threads: Threads,
    file: Arc<GgufFile>,
    engine: Engine,
}

impl CpuExecutor {
    /// The arithmetic that it computes with.
    pub const NUMERICS: Numerics = Numerics::K1;

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
        let threads = Threads::start(limits.threads)?;
        Self::load_on(&threads, file, manifest, span, limits.kv_positions, None)
    }

    /// [`load`](Self::load), to compute on threads that there are already, with weights that are
    /// packed once and shared by all processes where there is a cache for them.
    ///
    /// # Errors
    /// As there.
    pub fn load_on(
        threads: &Threads,
        file: &Arc<GgufFile>,
        manifest: &Manifest,
        span: Span,
        kv_positions: u32,
        packs: Option<&Packs>,
    ) -> Result<Self, ExecutorError> {
        let structure = Structure::of(manifest)?;
        let blocks = structure.shape.blocks;
        if span.blocks().end > blocks || (span.head && span.blocks().end != blocks) {
            return Err(ExecutorError::BadShape("the span does not fit the model"));
        }
        let weights = Weights::new(file, manifest, &structure, span, packs)?;
        let head = if span.head { Some(weights.head()?) } else { None };
        let embedding = if span.embed { Some(weights.embedding()?) } else { None };
        let blocks: Vec<Block> =
            span.blocks().map(|index| weights.block(index)).collect::<Result<_, _>>()?;
        let (mut kinds, mut rotations) = (Vec::new(), Vec::new());
        for block in &blocks {
            let kind = (block.layer.rope_base, block.layer.stretch);
            let known = kinds.iter().position(|other| *other == kind);
            rotations.push(known.unwrap_or(kinds.len()));
            if known.is_none() {
                kinds.push(kind);
            }
        }
        let rotated = structure.rotated;
        let factors = weights.rope_factors()?;
        let of_kind = |(base, stretch)| {
            let mut frequencies = frequencies(rotated, base, stretch);
            for (frequency, factor) in frequencies.iter_mut().zip(factors.iter().flatten()) {
                *frequency /= f64::from(*factor);
            }
            frequencies
        };
        let frequencies = kinds.into_iter().map(of_kind).collect();
        let kv = KvStore::new(blocks.len(), kv_positions);
        let room = Room::default();
        let engine =
            Engine { structure, span, embedding, blocks, frequencies, rotations, head, kv, room };
        Ok(Self { threads: threads.clone(), file: file.clone(), engine })
    }
}

impl CpuExecutor {
    /// Bytes of the span's weights as they are read for every token.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.engine.matrices().map(Matrix::size).sum()
    }
}

impl LayerExecutor for CpuExecutor {
    fn span(&self) -> Span {
        self.engine.span
    }

    fn shape(&self) -> ModelShape {
        self.engine.structure.shape
    }

    fn open(&mut self, positions: u32, part: Span) -> Result<KvId, ExecutorError> {
        check_part(self.engine.span, self.shape(), part)?;
        let most = self.shape().context_length;
        if positions > most {
            return Err(ExecutorError::ContextFull { asked: positions, most });
        }
        self.engine.kv.open(positions, part)
    }

    fn close(&mut self, kv: KvId) {
        self.engine.kv.close(kv);
    }

    fn kv_len(&self, kv: KvId) -> Option<u32> {
        self.engine.kv.get(kv).ok().map(|kv| kv.len)
    }

    fn truncate(&mut self, kv: KvId, len: u32) -> Result<(), ExecutorError> {
        self.engine.kv.get_mut(kv)?.truncate(len)
    }

    fn fork(&mut self, kv: KvId, len: u32, positions: u32) -> Result<KvId, ExecutorError> {
        self.engine.kv.fork(kv, len, positions)
    }

    fn free_positions(&self) -> u32 {
        self.engine.kv.free()
    }

    fn is_sound(&self) -> bool {
        self.file.is_as_opened() && self.engine.matrices().all(Matrix::is_as_loaded)
    }

    fn step(&mut self, batch: &[Work<'_>]) -> Vec<Result<Output, ExecutorError>> {
        // The file is read in each step; the packed tensors are looked at by whoever asks.
        if !self.file.is_as_opened() {
            return batch.iter().map(|_| Err(ExecutorError::FileChanged)).collect();
        }
        self.engine.step(&self.threads, batch)
    }

    fn begin(&mut self, work: &Work<'_>) -> Result<(), ExecutorError> {
        if !self.file.is_as_opened() {
            return Err(ExecutorError::FileChanged);
        }
        self.engine.begin(&self.threads, work)
    }

    fn proceed(&mut self, kv: KvId) -> Option<Result<Output, ExecutorError>> {
        if !self.file.is_as_opened() {
            return Some(Err(ExecutorError::FileChanged));
        }
        self.engine.proceed(&self.threads, kv)
    }
}

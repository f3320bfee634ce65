//! What a host asks of whatever computes its span, and how that can fail.

use taimatsu_protocol::Span;

/// Runs one span of one model for many sessions at once.
///
/// A session's memory is its KV: [`open`](Self::open) reserves it, [`step`](Self::step) appends to
/// it, [`truncate`](Self::truncate) rolls it back, [`close`](Self::close) frees it.
/// For a given implementation the bits of a position depend on the model and the ids up to it
/// alone: not on chunk size, company in a batch, number of threads or where the chain is cut.
pub trait LayerExecutor: Send {
    /// The span that this executor computes.
    fn span(&self) -> Span;

    /// The model's outer dimensions.
    fn shape(&self) -> ModelShape;

    /// Reserves KV for `positions` positions of a session that runs `part` of the span: all of it,
    /// or entered or left midway. Its inputs and outputs are then those of a span `part`.
    ///
    /// # Errors
    /// [`ExecutorError::NoKv`] when they are not free, [`ExecutorError::ContextFull`] when the
    /// model cannot look back that far, [`ExecutorError::NotHere`] for blocks of other spans.
    fn open(&mut self, positions: u32, part: Span) -> Result<KvId, ExecutorError>;

    /// Frees a reservation at once. An unknown id is no error: closing twice is fine.
    fn close(&mut self, kv: KvId);

    /// How many positions of this KV are computed; `None` when it is not open.
    fn kv_len(&self, kv: KvId) -> Option<u32>;

    /// Forgets every position from `len` on; the reservation stays.
    ///
    /// # Errors
    /// An unknown id, or a `len` beyond what is computed.
    fn truncate(&mut self, kv: KvId, len: u32) -> Result<(), ExecutorError>;

    /// A session of its own that begins as a copy of another's first `len` positions, with
    /// `positions` reserved: pages are shared until one of the two writes to them.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`truncate`](Self::truncate); a reservation shorter than `len`.
    fn fork(&mut self, kv: KvId, len: u32, positions: u32) -> Result<KvId, ExecutorError>;

    /// Positions that [`open`](Self::open) could still reserve.
    fn free_positions(&self) -> u32;

    /// Whether its weights are what was loaded, as far as can be seen at a glance.
    fn is_sound(&self) -> bool {
        true
    }

    /// Computes a batch: one answer per work, in order. A work that fails leaves its own KV as it
    /// was and does not touch the others.
    fn step(&mut self, batch: &[Work<'_>]) -> Vec<Result<Output, ExecutorError>>;

    /// Begins a step that [`proceed`](Self::proceed) takes through the blocks one by one, so that
    /// others' steps can go between them. Its positions count when it is through; a roll back or
    /// another step of the same session gives it up.
    ///
    /// # Errors
    /// As [`step`](Self::step) before anything is computed.
    fn begin(&mut self, work: &Work<'_>) -> Result<(), ExecutorError>;

    /// Computes one more block of what was begun. `None` where there is more to do; what it gives
    /// in the end are the bits that [`step`](Self::step) gives.
    fn proceed(&mut self, kv: KvId) -> Option<Result<Output, ExecutorError>>;
}

/// Refuses a part that the span of an executor does not have.
pub(crate) fn check_part(span: Span, shape: ModelShape, part: Span) -> Result<(), ExecutorError> {
    let is_one = Span::new(part.blocks(), shape.blocks).is_ok_and(|whole| whole == part);
    let here = is_one && span.contains(&part);
    if here { Ok(()) } else { Err(ExecutorError::NotHere { part, span }) }
}

/// Names an open KV of one executor; never reused by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KvId(pub u64);

/// A model's outer dimensions: what its neighbours in a chain must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelShape {
    /// Values per position between blocks.
    pub hidden: u32,
    /// Tokens in the vocabulary: logits per position.
    pub vocab: u32,
    /// Blocks of the whole model.
    pub blocks: u32,
    /// Positions that the model was made for.
    pub context_length: u32,
}

/// Consecutive positions of one session, to be computed in one step.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// The session's KV.
    pub kv: KvId,
    /// Absolute position of the first input; must equal the KV's length.
    pub start: u32,
    /// What goes in.
    pub input: Input<'a>,
    /// What shall come out.
    pub want: Want,
}

/// What goes into a span.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Token ids, for a span with `embed`.
    Tokens(&'a [u32]),
    /// `positions x hidden` values, row-major, for a span without.
    Hidden(&'a [f32]),
}

/// What shall come out of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Every position's hidden state after the last block of the span.
    Hidden,
    /// Logits of the last position; needs `head`.
    LastLogits,
    /// Logits of every position; needs `head`.
    AllLogits,
    /// Only the KV.
    Nothing,
}

/// What came out of a span.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// `positions x hidden`, row-major.
    Hidden(Vec<f32>),
    /// `rows x vocab`, row-major; one row for [`Want::LastLogits`].
    Logits(Vec<f32>),
    /// Asked for nothing.
    Nothing,
}

/// Why a span was not computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecutorError {
    /// The KV that was asked for is not free.
    #[error("no room for {asked} positions of kv, {free} are free; ask for fewer or elsewhere")]
    NoKv {
        /// Positions asked for.
        asked: u32,
        /// Positions free.
        free: u32,
    },
    /// A part of the model that this span does not have, or that no model has.
    #[error("blocks {part} are not a part of the span {span}")]
    NotHere {
        /// What was asked for.
        part: Span,
        /// What there is.
        span: Span,
    },
    /// This KV is not open here.
    #[error("kv {0} is not open here; open a session first")]
    UnknownKv(u64),
    /// One batch names the same KV twice.
    #[error("kv {0} occurs twice in one batch; join its positions into one work")]
    KvTwice(u64),
    /// A step that goes on was not begun, or was given up.
    #[error("no step of kv {0} was begun; begin it anew")]
    NotBegun(u64),
    /// The input does not follow what is computed.
    #[error("input starts at position {asked}, but {len} positions are computed; send from there")]
    WrongStart {
        /// Position asked for.
        asked: u32,
        /// Positions computed.
        len: u32,
    },
    /// The reservation, or the model's context, ends before the input does.
    #[error("position {asked} is beyond the {most} positions that there is room for")]
    ContextFull {
        /// First position that does not fit, or the number asked for.
        asked: u32,
        /// Positions reserved, or the model's context.
        most: u32,
    },
    /// The input is not what this span takes, or the wish not what it gives.
    #[error("{0}")]
    BadShape(&'static str),
    /// A token id outside the vocabulary.
    #[error("token {id} is outside a vocabulary of {vocab}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: u32,
    },
    /// A value that is not a finite number came in or out.
    #[error("a value at position {position} is not finite {}", where_in(*block))]
    NonFinite {
        /// Absolute position.
        position: u32,
        /// Block after which it was seen; `None` in the input, the model's block count in logits.
        block: Option<u32>,
    },
    /// Somebody has written to the file of the weights since they were loaded.
    #[error("the model's file was changed or cut short under this executor; load it again")]
    FileChanged,
    /// Another kind of model.
    #[error(
        "architecture `{0}` is not supported; this executor runs `llama`, `gemma3`, `qwen2` and `qwen3`"
    )]
    UnsupportedArchitecture(String),
    /// A tensor, or a way of using one, that this executor would get wrong.
    #[error("`{0}` is not supported by this executor; choose another model")]
    UnsupportedFeature(String),
    /// A weight type without arithmetic here.
    #[error("tensor `{tensor}` has type {ty}, which this executor cannot compute with")]
    UnsupportedType {
        /// The tensor's name.
        tensor: String,
        /// The type's name.
        ty: String,
    },
    /// The file lacks a tensor of the span.
    #[error("tensor `{0}` is missing; fetch the span's blocks again")]
    MissingTensor(String),
    /// A tensor that does not fit the manifest.
    #[error("tensor `{tensor}` does not fit the model: {why}")]
    BadTensor {
        /// The tensor's name.
        tensor: String,
        /// What is wrong.
        why: String,
    },
    /// This CPU computes something else than the rest of the swarm.
    #[error(transparent)]
    NotK1(#[from] taimatsu_kernels::NotK1),
    /// The threads could not be started.
    #[error("cannot start {0} threads; ask for fewer")]
    Threads(usize),
}

fn where_in(block: Option<u32>) -> String {
    block.map_or_else(|| "in the input".into(), |block| format!("after block {block}"))
}

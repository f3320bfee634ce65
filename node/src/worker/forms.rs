//! A session's jobs in the executor's terms, and back.

use taimatsu_executor::{ExecutorError, Input, KvId, Output, Want as Wanted, Work};
use taimatsu_peer::session::{Job, JobInput, Want};
use taimatsu_protocol::control::HopFailure;
use tokio::sync::oneshot;

use super::Done;

/// A session's job, and how far it is.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) kv: KvId,
    pub(super) job: Job,
    pub(super) reply: oneshot::Sender<Done>,
    /// Positions of it that are computed.
    pub(super) done: u32,
    /// What came out of them.
    pub(super) values: Vec<f32>,
    /// Microseconds of the passes that it was in.
    pub(super) micros: u64,
    /// Positions that are on their way through the blocks; 0 for none.
    pub(super) piece: u32,
    /// Microseconds of those.
    pub(super) in_piece: u64,
}

impl Order {
    pub(super) const fn new(kv: KvId, job: Job, reply: oneshot::Sender<Done>) -> Self {
        Self { kv, job, reply, done: 0, values: Vec::new(), micros: 0, piece: 0, in_piece: 0 }
    }

    /// Whether it is one step of an answer, and not a piece of a prompt.
    pub(super) const fn is_stream(&self) -> bool {
        self.job.count == 1
    }

    /// Where it goes on.
    pub(super) const fn start(&self) -> u32 {
        self.job.start + self.done
    }
}

/// The next `count` positions of an order; `hidden` as [`floats`] gives them.
pub(super) fn order_work<'a>(order: &'a Order, hidden: &'a [f32], count: u32) -> Work<'a> {
    let input = match &order.job.input {
        JobInput::Ids(ids) => Input::Tokens(&ids[order.done as usize..][..count as usize]),
        JobInput::Hidden(_) => Input::Hidden(hidden),
    };
    let want = match wanted(order.job.want) {
        Wanted::LastLogits if order.done + count < order.job.count => Wanted::Nothing,
        want => want,
    };
    Work { kv: order.kv, start: order.start(), input, want }
}

/// An output's values.
pub(super) fn values(output: Output) -> Vec<f32> {
    match output {
        Output::Hidden(values) | Output::Logits(values) => values,
        Output::Nothing => Vec::new(),
    }
}

/// The last part of an output behind those before.
pub(super) fn joined(before: &mut Vec<f32>, output: Output) -> Output {
    if before.is_empty() {
        return output;
    }
    let mut all = std::mem::take(before);
    match output {
        Output::Hidden(values) => {
            all.extend(values);
            Output::Hidden(all)
        }
        Output::Logits(values) => {
            all.extend(values);
            Output::Logits(all)
        }
        Output::Nothing => Output::Nothing,
    }
}

const fn wanted(want: Want) -> Wanted {
    match want {
        Want::Hidden => Wanted::Hidden,
        Want::Sample { .. } => Wanted::LastLogits,
        Want::Scores => Wanted::AllLogits,
        Want::Nothing => Wanted::Nothing,
    }
}

pub(super) fn failure(error: &ExecutorError) -> HopFailure {
    match error {
        ExecutorError::NonFinite { position, block } => {
            HopFailure::NonFinite { position: *position, block: block.unwrap_or(u32::MAX) }
        }
        ExecutorError::UnknownToken { id, .. } => HopFailure::UnknownToken { id: *id },
        ExecutorError::NoKv { .. } => HopFailure::NoKv,
        other => {
            tracing::error!(%other, "the executor failed");
            HopFailure::Internal
        }
    }
}

/// Hidden values of `count` positions of a job, behind the first `done`; none of ids.
pub(super) fn floats(job: &Job, done: u32, count: u32) -> Vec<f32> {
    match &job.input {
        JobInput::Ids(_) => Vec::new(),
        JobInput::Hidden(bytes) => {
            let (words, _) = bytes.as_chunks::<4>();
            let width = words.len() / (job.count as usize).max(1);
            let own = words.iter().skip(done as usize * width).take(count as usize * width);
            own.map(|word| f32::from_le_bytes(*word)).collect()
        }
    }
}

pub(super) fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

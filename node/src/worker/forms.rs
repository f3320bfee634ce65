//! A session's jobs in the executor's terms, and back.

use taimatsu_executor::{ExecutorError, Want as Wanted};
use taimatsu_peer::session::{Job, JobInput, Want};
use taimatsu_protocol::control::HopFailure;

pub(super) const fn wanted(want: Want) -> Wanted {
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

pub(super) fn floats(job: &Job) -> Vec<f32> {
    match &job.input {
        JobInput::Ids(_) => Vec::new(),
        JobInput::Hidden(bytes) => {
            let (words, _) = bytes.as_chunks::<4>();
            words.iter().map(|word| f32::from_le_bytes(*word)).collect()
        }
    }
}

pub(super) fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

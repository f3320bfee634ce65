//! Works of a batch that were admitted, and their rows of the joined states.

use crate::contract::{ExecutorError, KvId, Want};

/// An admitted work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// The session's KV.
    pub(super) kv: KvId,
    /// Its place in the batch.
    pub(super) index: usize,
    /// Absolute position of its first row.
    pub(super) start: u32,
    /// Its number of rows.
    pub(super) count: usize,
    /// What it asks for.
    pub(super) want: Want,
}

/// Every plan with its rows of the joined states.
pub(super) fn by_plan<'a>(
    plans: &'a [Plan],
    mut states: &'a [f32],
    hidden: usize,
) -> impl Iterator<Item = (&'a Plan, &'a [f32])> {
    plans.iter().map(move |plan| {
        let (own, others) = states.split_at(plan.count * hidden);
        states = others;
        (plan, own)
    })
}

/// Refuses rows with a value that is not a finite number, naming the first such position.
pub(super) fn finite(
    values: &[f32],
    width: usize,
    start: u32,
    block: Option<u32>,
) -> Result<(), ExecutorError> {
    for (position, row) in (start..).zip(values.chunks_exact(width)) {
        if !row.iter().all(|value| value.is_finite()) {
            return Err(ExecutorError::NonFinite { position, block });
        }
    }
    Ok(())
}

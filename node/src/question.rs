//! From a question to a task: the same checks whoever computes.

use std::sync::Arc;
use std::time::Instant;

use taimatsu_executor::CpuExecutor;
use taimatsu_protocol::control::HopFailure;
use taimatsu_protocol::opening::MAX_PROMPT;
use taimatsu_protocol::{Digest, ModelId};

use crate::answering::Frame;
use crate::engine::{EngineError, Question, Route, Started};
use crate::library::KnownModel;
use crate::run::{Kind, Task};

/// Tokens of an answer whose asker did not say how many: its KV is reserved from the start, and a
/// whole context for every short answer would leave room for nobody else.
const DEFAULT_ANSWER: u32 = 2_048;

/// Counts changes of the sampler's bits.
const SAMPLER: u32 = 1;

/// A question that is ready to be computed.
pub(crate) struct Prepared {
    /// What to compute.
    pub(crate) task: Task,
    /// What its answer needs.
    pub(crate) frame: Frame,
}

/// Turns a question into a task for its model.
///
/// # Errors
/// The prompt is none, or does not fit; a parameter is out of its range.
pub(crate) async fn prepare(
    model: Arc<KnownModel>,
    question: Question,
    asked: Instant,
) -> Result<Prepared, EngineError> {
    let Question { prompt, sampling, max_tokens, stop, ignore_eos, logprobs, privacy, .. } =
        question;
    if let Some((param, range)) = sampling.out_of_range() {
        let message = format!("{param} must be {range}");
        return Err(EngineError::Invalid { param, message });
    }
    let turn = model.turn().await;
    let speaker = model.clone();
    // A template may take as long as its limit allows: not on a thread that streams share.
    let ids = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        speaker.prompt_ids(&prompt)
    })
    .await;
    let ids = ids.map_err(|error| EngineError::Internal(error.to_string()))??;
    let max_tokens = fit(&model, ids.len(), max_tokens)?;
    let end_ids: Vec<u32> =
        if ignore_eos { Vec::new() } else { model.tokenizer.end_ids().to_vec() };
    let started = Started {
        model: model.name.clone(),
        fingerprint: fingerprint(&model.id),
        prompt_tokens: ids.clone(),
        privacy,
        route: Route::default(),
    };
    let kind = Kind::Generate { sampling, end_ids: end_ids.clone(), logprobs };
    let task = Task { prompt: ids, max_tokens, kind };
    let frame = Frame { started, tokenizer: model.tokenizer.clone(), stop, end_ids, asked };
    Ok(Prepared { task, frame })
}

/// Equal for answers that one seed makes equal: another model, or arithmetic with other bits, has
/// another.
fn fingerprint(model: &ModelId) -> String {
    let numerics = CpuExecutor::NUMERICS;
    let digest =
        Digest::of(format!("taimatsu fingerprint {model} {numerics} {SAMPLER}").as_bytes());
    let digits: String = digest.as_bytes()[..6].iter().map(|b| format!("{b:02x}")).collect();
    format!("fp_{digits}")
}

/// A task that scores these ids.
///
/// # Errors
/// There are none, one is beyond the vocabulary, or they do not fit.
pub(crate) fn score_task(model: &KnownModel, ids: Vec<u32>, top: u8) -> Result<Task, EngineError> {
    let ids = model.prompt_ids(&crate::engine::Prompt::Ids(ids))?;
    fit(model, ids.len(), Some(0))?;
    Ok(Task { prompt: ids, max_tokens: 0, kind: Kind::Score { top } })
}

/// Tokens that the answer may have.
fn fit(model: &KnownModel, prompt: usize, wanted: Option<u32>) -> Result<u32, EngineError> {
    let limit = model.manifest.context_length;
    let prompt = u32::try_from(prompt).unwrap_or(u32::MAX);
    let overflow = |limit, asked| EngineError::ContextOverflow { limit, asked, prompt };
    if prompt as usize > MAX_PROMPT {
        return Err(overflow(limit.min(MAX_PROMPT as u32), prompt));
    }
    // The last token is never computed, so a full context still has one to give.
    let room = limit.saturating_add(1).saturating_sub(prompt);
    match wanted {
        Some(wanted) if wanted > room || prompt > limit => {
            Err(overflow(limit, prompt.saturating_add(wanted)))
        }
        Some(wanted) => Ok(wanted),
        None if prompt >= limit => Err(overflow(limit, prompt.saturating_add(1))),
        None => Ok(room.min(DEFAULT_ANSWER)),
    }
}

/// What a failure in this process is to the caller.
pub(crate) fn failed_here(failure: &HopFailure) -> EngineError {
    if let HopFailure::NonFinite { position, block } = failure {
        let at = if *block == u32::MAX { "its input".into() } else { format!("block {block}") };
        let message = format!(
            "the model made a number that is none (position {position}, {at}): its file is damaged, or no model"
        );
        return EngineError::Invalid { param: "model", message };
    }
    EngineError::Internal(failure.to_string())
}

//! The engine of a command that finds no node: the whole model in this process.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use taimatsu_executor::{
    ExecutorLimits, Input, LayerExecutor, Output, Threads, Want, Work, log_softmax,
};
use taimatsu_protocol::Span;

use crate::answering::{self, Begun, Blame, Source};
use crate::driver::hosting;
use crate::engine::{
    Answer, EngineError, Privacy, Question, ReceiptState, Route, RouteWish, Score, Scores,
};
use crate::library::KnownModel;
use crate::question::{Prepared, failed_here, prepare};
use crate::run::{Run, RunFailure, Task};
use crate::solo::SoloRun;

/// Positions of a scored prompt that are computed at a time: their logits are all held at once.
const SCORE_CHUNK: usize = 64;

/// One model, ready to be computed here.
#[derive(Debug, Clone)]
pub(crate) struct LocalEngine {
    model: Arc<KnownModel>,
    threads: usize,
}

impl LocalEngine {
    /// An engine for a model whose weights are on this machine.
    pub(crate) fn new(model: Arc<KnownModel>, threads: usize) -> Self {
        Self { model, threads }
    }

    /// Begins an answer.
    ///
    /// # Errors
    /// What is wrong with the question, or with the model's file.
    pub(crate) async fn ask(&self, mut question: Question) -> Result<Answer, EngineError> {
        let asked = Instant::now();
        if question.route != RouteWish::Any {
            return Err(EngineError::Invalid {
                param: "route",
                message: "a route needs a running node".into(),
            });
        }
        question.privacy = Privacy::Local;
        let Prepared { task, frame } = prepare(self.model.clone(), question, asked).await?;
        if task.max_tokens == 0 {
            return Ok(answering::nothing(frame));
        }
        let source = LocalSource { engine: self.clone(), task };
        answering::answer(source, frame).await
    }

    /// The best continuations after each id, any number of them.
    ///
    /// # Errors
    /// What is wrong with the ids, or with the model's file.
    pub(crate) async fn score(&self, ids: Vec<u32>, top: usize) -> Result<Scores, EngineError> {
        let engine = self.clone();
        let scores = tokio::task::spawn_blocking(move || engine.score_here(ids, top)).await;
        scores.map_err(|error| EngineError::Internal(error.to_string()))?
    }

    fn score_here(&self, ids: Vec<u32>, top: usize) -> Result<Scores, EngineError> {
        // The number of continuations is the node's limit, not this process's.
        let task = crate::question::score_task(&self.model, ids, 1)?;
        let internal = |error: &dyn std::error::Error| EngineError::Internal(error.to_string());
        let positions = task.positions();
        let whole = self.whole()?;
        let mut executor = Threads::start(self.threads)
            .map_err(hosting::LoadError::from)
            .and_then(|threads| hosting::load_executor(&threads, &self.model, whole, positions))
            .map_err(|error| internal(&error))?;
        let kv = executor.open(positions, executor.span()).map_err(|error| internal(&error))?;
        let vocab = executor.shape().vocab as usize;
        let mut rows = Vec::new();
        for chunk in task.prompt.chunks(SCORE_CHUNK) {
            let start = rows.len() as u32;
            let work = Work { kv, start, input: Input::Tokens(chunk), want: Want::AllLogits };
            let output = executor.step(&[work]).pop().unwrap_or(Ok(Output::Nothing));
            let Output::Logits(logits) = output.map_err(|error| internal(&error))? else {
                return Err(EngineError::Internal("no logits came out of the executor".into()));
            };
            for logits in logits.chunks(vocab) {
                let next = task.prompt.get(rows.len() + 1).copied();
                let (next, top) = log_softmax(logits, next, top);
                rows.push(Score { next, top });
            }
        }
        Ok(Scores { rows, route: Route::default() })
    }

    fn whole(&self) -> Result<Span, EngineError> {
        Span::whole(self.model.manifest.blocks)
            .map_err(|error| EngineError::Internal(error.to_string()))
    }

    const fn limits(&self, kv_positions: u32) -> ExecutorLimits {
        ExecutorLimits { kv_positions, threads: self.threads }
    }
}

/// One way, tried once.
struct LocalSource {
    engine: LocalEngine,
    task: Task,
}

impl LocalSource {
    async fn begin(&mut self) -> Result<Begun, EngineError> {
        let engine = self.engine.clone();
        let positions = self.task.positions();
        let loaded = tokio::task::spawn_blocking(move || {
            let span = engine.whole()?;
            hosting::load(&engine.model, span, engine.limits(positions)).map_err(|error| {
                let message = crate::failure::chain(&error);
                EngineError::Invalid { param: "model", message }
            })
        });
        let worker = loaded.await.map_err(|error| EngineError::Internal(error.to_string()))??;
        let run = SoloRun::begin(&worker, self.task.clone())
            .await
            .map_err(|error| EngineError::Internal(error.to_string()))?;
        Ok(Begun { run: Run::Solo(Box::new(run)), hops: Vec::new(), here: true })
    }
}

impl Source for LocalSource {
    fn begin(&mut self) -> BoxFuture<'_, Result<Begun, EngineError>> {
        self.begin().boxed()
    }

    fn ended<'a>(&'a mut self, _: &'a Run) -> BoxFuture<'a, (Option<String>, ReceiptState)> {
        std::future::ready((None, ReceiptState::None)).boxed()
    }

    fn blame<'a>(&'a mut self, failure: &'a RunFailure) -> BoxFuture<'a, Blame> {
        let error = match failure {
            RunFailure::Here(failure) => failed_here(failure),
            RunFailure::Chain { failure, .. } => EngineError::Internal(failure.to_string()),
        };
        std::future::ready(Blame { error, again: false }).boxed()
    }
}

//! The ways of one question through the swarm: where it is asked, what a failure means, what an
//! answer leaves behind.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use taimatsu_peer::policy::RETRY_MS;
use taimatsu_peer::retry::{Attempts, Fault};
use taimatsu_peer::routing::{self, PlanError, Wish};
use taimatsu_peer::session::Failure;
use taimatsu_peer::{self as peer, AnswerEnd, AnswerReport, Ask, Input, Observed, RouteError};
use taimatsu_protocol::opening::Refusal;
use taimatsu_protocol::{PeerId, Span};

use crate::answering::{Begun, Blame, Source};
use crate::driver::chain_run::{ChainRun, Mender};
use crate::engine::{EngineError, HopReport, Privacy, ReceiptState, RouteWish};
use crate::kept::KeptAnswer;
use crate::library::KnownModel;
use crate::question::failed_here;
use crate::run::{Run, RunFailure, Task};
use crate::solo::SoloRun;
use crate::swarm_engine::SwarmEngine;
use crate::worker::Worker;

/// One question's ways: this node's own executor, or chains of hosts.
pub(crate) struct SwarmSource {
    engine: SwarmEngine,
    model: Arc<KnownModel>,
    task: Task,
    wish: RouteWish,
    privacy: Privacy,
    attempts: Attempts,
    id: Option<String>,
}

impl SwarmSource {
    pub(crate) fn new(
        engine: &SwarmEngine,
        model: Arc<KnownModel>,
        task: Task,
        wish: RouteWish,
        privacy: Privacy,
    ) -> Self {
        let attempts = Attempts::new();
        let engine = engine.clone();
        Self { engine, model, task, wish, privacy, attempts, id: None }
    }

    /// What the asker knows the answer by.
    pub(crate) fn known_as(self, id: Option<String>) -> Self {
        Self { id, ..self }
    }

    async fn begin(&mut self) -> Result<Begun, EngineError> {
        let own = match self.wish {
            RouteWish::Any | RouteWish::Local | RouteWish::Whole => {
                self.engine.whole_worker(&self.model)
            }
            RouteWish::Chain => None,
        };
        if let Some(worker) = own {
            return self.begin_here(&worker).await;
        }
        let wish = match self.wish {
            RouteWish::Any => Wish::Any,
            RouteWish::Whole => Wish::Whole,
            RouteWish::Chain => Wish::Chain,
            RouteWish::Local => return Err(self.no_such_route()),
        };
        let privacy = match self.privacy {
            Privacy::Local => return Err(self.private(self.not_hosted_here())),
            Privacy::Trusted => peer::Privacy::Trusted,
            Privacy::Anyone => peer::Privacy::Anyone,
        };
        let ask = Ask {
            id: 0,
            model: self.model.id,
            blocks: self.model.manifest.blocks,
            wish,
            positions: self.task.positions(),
            privacy,
        };
        let judge = self.engine.judge.clone();
        let chain = judge.ask(ask).await.map_err(|error| self.unroutable(error))?;
        if !self.attempts.may_use(&chain) {
            return Err(self.no_such_route());
        }
        let mender = Mender { judge, ask, patience: self.engine.patience };
        let run = ChainRun::begin(&self.engine.caller, &chain, &self.task, mender);
        let hops = chain.hops().iter().map(|hop| HopReport::of(hop.peer, hop.span)).collect();
        Ok(Begun { run: Run::Chain(Box::new(run)), hops, here: false })
    }

    async fn begin_here(&self, worker: &Worker) -> Result<Begun, EngineError> {
        let run = SoloRun::begin(worker, self.task.clone())
            .await
            .map_err(|error| EngineError::Busy { cause: error.to_string(), retry_ms: RETRY_MS })?;
        let me = self.engine.caller.network.peer_id();
        let hops = vec![HopReport::of(me, worker.span())];
        Ok(Begun { run: Run::Solo(Box::new(run)), hops, here: true })
    }

    fn unroutable(&self, error: RouteError) -> EngineError {
        let model = self.model.name.clone();
        let cause = error.to_string();
        match error {
            // Covered by this node itself, which the wish excludes.
            RouteError::Plan(PlanError::Uncovered { .. })
                if self.engine.whole_worker(&self.model).is_some() =>
            {
                self.no_such_route()
            }
            RouteError::Plan(PlanError::Uncovered { missing }) => match self.privacy {
                Privacy::Trusted => self.private(missing),
                Privacy::Local | Privacy::Anyone => EngineError::Uncovered { model, missing },
            },
            RouteError::Plan(PlanError::NoSuchRoute) => self.no_such_route(),
            RouteError::Plan(PlanError::NoCapacity) | RouteError::Busy => {
                EngineError::Busy { cause, retry_ms: RETRY_MS }
            }
        }
    }

    /// Those who may see the question lack these blocks.
    fn private(&self, missing: Vec<[u32; 2]>) -> EngineError {
        EngineError::Private {
            model: self.model.name.clone(),
            privacy: self.privacy,
            of_node: self.privacy == self.engine.privacy,
            missing,
        }
    }

    /// What this node cannot compute by itself: of a model in several spans, what none of them
    /// holds, or all of it where they only cover it together.
    fn not_hosted_here(&self) -> Vec<[u32; 2]> {
        let all = self.model.manifest.blocks;
        let missing = {
            let hosted = self.engine.hosted.borrow();
            let here = hosted.iter().filter(|hosted| hosted.model == self.model.id);
            routing::missing(here.map(|hosted| hosted.worker.span()), all)
        };
        if missing.is_empty() { vec![[0, all.saturating_sub(1)]] } else { missing }
    }

    fn no_such_route(&self) -> EngineError {
        let wish = match self.wish {
            RouteWish::Any => "any",
            RouteWish::Local => "local",
            RouteWish::Whole => "whole",
            RouteWish::Chain => "chain",
        };
        EngineError::NoSuchRoute { model: self.model.name.clone(), wish }
    }

    async fn blame(&mut self, failure: &RunFailure) -> Blame {
        let (failure, hops, told) = match failure {
            RunFailure::Here(failure) => {
                return Blame { error: failed_here(failure), again: false };
            }
            RunFailure::Chain { failure, hops, told } => (failure, hops, *told),
        };
        let Some(Fault { hop, again }) = self.attempts.failed(hops, failure) else {
            return Blame { error: EngineError::Internal(failure.to_string()), again: false };
        };
        if !told {
            let report = AnswerReport {
                model: self.model.id,
                hosts: hops.iter().map(|hop| hop.peer).collect(),
                end: AnswerEnd::Failed(failure.clone()),
            };
            self.engine.judge.tell(Input::Answered(report)).await;
        }
        let prompt = self.task.prompt.len() as u32;
        let error = named(failure, hop.peer, hop.span, self.task.positions(), prompt);
        Blame { error, again }
    }

    /// The receipts of an answer are checked, its hosts remembered, the receipts kept.
    async fn ended(&mut self, run: &Run) -> (Option<String>, ReceiptState) {
        let Some(proof) = run.proof() else { return (None, ReceiptState::None) };
        let observed = Observed::of(self.model.id, proof.chain.hops(), run.stats(), run.lap());
        if let Some(observed) = observed {
            self.engine.judge.tell(Input::Observed(Box::new(observed))).await;
        }
        let checked = tokio::task::spawn_blocking(move || (proof.check(), proof)).await;
        let Ok((receipts, proof)) = checked else { return (None, ReceiptState::None) };
        let report = AnswerReport {
            model: self.model.id,
            hosts: proof.chain.hops().iter().map(|hop| hop.peer).collect(),
            end: AnswerEnd::Well { receipts: receipts.clone() },
        };
        self.engine.judge.tell(Input::Answered(report)).await;
        let state = match receipts {
            None => ReceiptState::None,
            Some(Ok(())) => ReceiptState::Hold,
            Some(Err(broken)) => ReceiptState::Broken(broken.to_string()),
        };
        let session = proof.session.to_string();
        self.engine.ledger.keep(KeptAnswer::of(self.id.take(), proof, &self.model.name, &state));
        (Some(session), state)
    }
}

impl Source for SwarmSource {
    fn begin(&mut self) -> BoxFuture<'_, Result<Begun, EngineError>> {
        self.begin().boxed()
    }

    fn ended<'a>(&'a mut self, run: &'a Run) -> BoxFuture<'a, (Option<String>, ReceiptState)> {
        self.ended(run).boxed()
    }

    fn blame<'a>(&'a mut self, failure: &'a RunFailure) -> BoxFuture<'a, Blame> {
        self.blame(failure).boxed()
    }
}

fn named(failure: &Failure, peer: PeerId, span: Span, positions: u32, prompt: u32) -> EngineError {
    let peer = peer.to_string();
    let failed = |cause: String| EngineError::PeerFailed { peer: peer.clone(), span, cause };
    match failure {
        Failure::Refused { refusal, .. } => match refusal {
            Refusal::Busy { retry_ms } => {
                EngineError::Busy { cause: refusal.to_string(), retry_ms: *retry_ms }
            }
            Refusal::NoKv { .. } | Refusal::Draining => {
                EngineError::Busy { cause: refusal.to_string(), retry_ms: RETRY_MS }
            }
            Refusal::TooLong { limit } => {
                EngineError::ContextOverflow { limit: *limit, asked: positions, prompt }
            }
            other => failed(format!("it refused: {other}")),
        },
        Failure::OpenTimeout { .. } | Failure::Stalled { .. } => {
            EngineError::PeerTimeout { peer, span }
        }
        Failure::HopLost { .. } => failed("it is gone, or silent".into()),
        Failure::Unlinkable { .. } => failed("its neighbour cannot reach it".into()),
        Failure::HopFailed { failure, .. } => failed(failure.to_string()),
        Failure::Violation { .. } => failed("it broke the protocol".into()),
        Failure::Leaves { .. } => failed("it is leaving".into()),
    }
}

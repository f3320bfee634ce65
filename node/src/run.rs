//! An inference under way, wherever it is computed, as one stream of what it makes.

use std::time::Duration;

use taimatsu_peer::routing::Hop;
use taimatsu_peer::session::{Failure, Finish};
use taimatsu_protocol::Sampling;
use taimatsu_protocol::control::{HopFailure, HopStats, Score, Token};
use taimatsu_protocol::opening::TailTask;
use tokio::sync::watch;

use crate::driver::chain_run::{ChainRun, Proof};
use crate::solo::SoloRun;

/// An inference under way. Dropping it frees everything that it holds, on every hop.
pub(crate) enum Run {
    /// On hosts.
    Chain(Box<ChainRun>),
    /// In this process.
    Solo(Box<SoloRun>),
}

/// What an inference makes, in order; `Ended` is the last.
#[derive(Debug)]
pub(crate) enum Made {
    /// A token of the answer.
    Token(Token),
    /// What may follow the next prompt position.
    Scored(Score),
    /// The end.
    Ended(Result<Finish, RunFailure>),
}

/// Why an inference ended badly.
#[derive(Debug)]
pub(crate) enum RunFailure {
    /// On hosts.
    Chain {
        /// Why, by places.
        failure: Failure,
        /// Who had these places.
        hops: Vec<Hop>,
        /// The judgement has heard of it, because it was hoped to go on.
        told: bool,
    },
    /// In this process.
    Here(HopFailure),
}

/// What is to be inferred.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    /// The prompt's ids; never empty.
    pub(crate) prompt: Vec<u32>,
    /// Tokens wanted at most.
    pub(crate) max_tokens: u32,
    /// Generate or score.
    pub(crate) kind: Kind,
}

/// What the tail is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Sample an answer.
    Generate {
        /// How.
        sampling: Sampling,
        /// Ids that end it.
        end_ids: Vec<u32>,
        /// Alternatives wanted per token.
        logprobs: Option<u8>,
    },
    /// What may follow every prompt position.
    Score {
        /// How many.
        top: u8,
    },
}

impl Task {
    /// Positions of KV that it needs: the last token is never computed.
    pub(crate) fn positions(&self) -> u32 {
        let prompt = u32::try_from(self.prompt.len()).unwrap_or(u32::MAX);
        prompt.saturating_add(self.max_tokens.saturating_sub(1))
    }

    /// As the tail is told.
    pub(crate) fn tail_task(&self, credit: u32) -> TailTask {
        use taimatsu_protocol::codec::BoundedVec;
        match &self.kind {
            Kind::Generate { sampling, end_ids, logprobs } => TailTask::Generate {
                sampling: *sampling,
                end_ids: BoundedVec::truncated(end_ids.iter().copied()),
                credit,
                logprobs: *logprobs,
            },
            Kind::Score { top } => TailTask::Score { top: *top },
        }
    }

    /// Whether the prompt is scored.
    pub(crate) const fn is_score(&self) -> bool {
        matches!(self.kind, Kind::Score { .. })
    }
}

impl Run {
    /// What comes next; `Ended` again and again after the end.
    pub(crate) async fn next(&mut self, consumed: &mut watch::Receiver<u32>) -> Made {
        match self {
            Self::Chain(run) => run.next(consumed).await,
            Self::Solo(run) => run.next(consumed).await,
        }
    }

    /// The caller has enough; `next` goes on to the end, which is near.
    pub(crate) fn cancel(&mut self) {
        match self {
            Self::Chain(run) => run.cancel(),
            Self::Solo(run) => run.cancel(),
        }
    }

    /// Who computes now, where these are hosts: others than at first, where some were lost.
    pub(crate) fn hops(&self) -> Option<Vec<Hop>> {
        match self {
            Self::Chain(run) => Some(run.hops()),
            Self::Solo(_) => None,
        }
    }

    /// Hosts that were lost on the way, and had seen the question.
    pub(crate) fn lost(&self) -> Vec<Hop> {
        match self {
            Self::Chain(run) => run.lost(),
            Self::Solo(_) => Vec::new(),
        }
    }

    /// What it cost each hop so far.
    pub(crate) fn stats(&self) -> Vec<HopStats> {
        match self {
            Self::Chain(run) => run.stats(),
            Self::Solo(run) => vec![run.stats()],
        }
    }

    /// What the answer leaves behind, once it has ended well; nothing where this node computed.
    pub(crate) fn proof(&self) -> Option<Proof> {
        match self {
            Self::Chain(run) => run.proof(),
            Self::Solo(_) => None,
        }
    }

    /// How long a token took, as far as it says something about hosts.
    pub(crate) fn lap(&self) -> Option<Duration> {
        match self {
            Self::Chain(run) => run.lap(),
            Self::Solo(_) => None,
        }
    }

    /// Frames that went through this client.
    pub(crate) fn forwarded(&self) -> u32 {
        match self {
            Self::Chain(run) => run.forwarded(),
            Self::Solo(_) => 0,
        }
    }
}

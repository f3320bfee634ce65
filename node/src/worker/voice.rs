//! A session's tail on the worker's thread: its ids so far, and the choice of the next.

use taimatsu_executor::{History, Sampler, log_softmax};
use taimatsu_peer::session::Job;
use taimatsu_protocol::Sampling;
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::control::{Score, Token};
use taimatsu_protocol::opening::TailTask;

use super::Tail;

/// What the thread keeps of a session whose tail it is.
#[derive(Debug)]
pub(super) struct Voice {
    pub(super) task: TailTask,
    /// The prompt's ids, and the answer's as they are sampled.
    ids: Vec<u32>,
    /// Of these, the prompt's.
    prompt_len: usize,
}

impl Voice {
    pub(super) fn new(Tail { task, prompt, answer }: Tail) -> Self {
        Self { task, prompt_len: prompt.len(), ids: [prompt, answer].concat() }
    }

    /// The ids that stand behind each position from `start` on; none behind the last, and so on.
    pub(super) fn following(&self, start: u32) -> impl Iterator<Item = Option<u32>> {
        let ids = self.ids.iter().skip(start as usize + 1);
        ids.copied().map(Some).chain(std::iter::repeat(None))
    }

    pub(super) fn sample(
        &mut self,
        sampling: &Sampling,
        logprobs: Option<u8>,
        job: &Job,
        logits: &[f32],
    ) -> Token {
        // The token stands where the job ends; what was sampled beyond that was rolled back.
        let position = job.start + job.count;
        self.ids.truncate(position as usize);
        let (prompt, answer) = self.ids.split_at(self.prompt_len.min(self.ids.len()));
        let history = History { prompt, answer };
        let id = Sampler::new(*sampling).sample(logits, history, position);
        self.ids.push(id);
        let told = logprobs.map(|top| log_softmax(logits, Some(id), usize::from(top)));
        let (logprob, top) = told.unwrap_or_default();
        Token { id, logprob, top: BoundedVec::truncated(top) }
    }
}

/// What may follow a position with these logits, where `next` does.
pub(crate) fn score(logits: &[f32], next: Option<u32>, top: u8) -> Score {
    let (next, best) = log_softmax(logits, next, usize::from(top));
    Score { next, top: BoundedVec::truncated(best) }
}

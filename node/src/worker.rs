//! The thread that computes a span: sessions' jobs in, results out, several sessions a pass.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use taimatsu_executor::{ExecutorError, Input, KvId, LayerExecutor, ModelShape, Output, Work};
use taimatsu_peer::session::{Executed, Job, JobInput, Want};
use taimatsu_protocol::Span;
use taimatsu_protocol::control::HopFailure;
use taimatsu_protocol::opening::TailTask;
use tokio::sync::{mpsc, oneshot};

mod forms;
mod gauges;
mod rehearsal;
mod voice;

use forms::{failure, floats, le_bytes, wanted};
use gauges::{Gauges, smooth};
use voice::Voice;
pub(crate) use voice::score;

/// Commands that may wait for the thread. Each session has one job at a time, and the number of
/// sessions is bounded by the node.
const WAITING_COMMANDS: usize = 256;

/// Jobs of one pass.
const BATCH: usize = 16;

/// A span in this process's memory, and the thread that computes it. The thread ends when the
/// last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    commands: mpsc::Sender<Command>,
    span: Span,
    shape: ModelShape,
    gauges: Arc<Gauges>,
}

/// A session's place in a worker. Dropping it frees its KV.
#[derive(Debug)]
pub(crate) struct Seat {
    kv: KvId,
    commands: mpsc::Sender<Command>,
}

/// A job that was done, or could not be; and the microseconds it took.
pub(crate) type Done = (Result<Executed, HopFailure>, u64);

#[derive(Debug)]
enum Command {
    Open {
        positions: u32,
        part: Span,
        tail: Option<Tail>,
        reply: oneshot::Sender<Result<KvId, ExecutorError>>,
    },
    Run {
        kv: KvId,
        job: Job,
        reply: oneshot::Sender<Done>,
    },
    Close {
        kv: KvId,
    },
    Look,
}

/// What the tail needs to make tokens: its task and the ids so far.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Generate or score.
    pub(crate) task: TailTask,
    /// The prompt's ids.
    pub(crate) prompt: Vec<u32>,
}

/// A worker that has ended, or is too busy to be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeatError {
    /// The executor refuses.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// Too many commands wait, or the thread is gone.
    #[error("the executor does not answer")]
    Unavailable,
}

impl Worker {
    /// Gives an executor its thread.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub(crate) fn start(executor: Box<dyn LayerExecutor>) -> std::io::Result<Self> {
        Self::start_at(executor, Arc::default())
    }

    /// [`start`](Self::start), with its speed known from the beginning.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn rehearsed(mut executor: Box<dyn LayerExecutor>) -> std::io::Result<Self> {
        let gauges = Gauges::default();
        match rehearsal::rehearse(&mut *executor) {
            Ok(speed) => {
                smooth(&gauges.decode_micros, speed.decode_micros);
                smooth(&gauges.prefill_rate, speed.prefill_rate);
            }
            Err(error) => tracing::warn!(%error, "the span's speed is unknown until its first use"),
        }
        Self::start_at(executor, Arc::new(gauges))
    }

    fn start_at(executor: Box<dyn LayerExecutor>, gauges: Arc<Gauges>) -> std::io::Result<Self> {
        let (commands, inbox) = mpsc::channel(WAITING_COMMANDS);
        let (span, shape) = (executor.span(), executor.shape());
        gauges.free_positions.store(executor.free_positions(), Ordering::Relaxed);
        let mut bench = Bench { executor, places: BTreeMap::new(), gauges: gauges.clone() };
        std::thread::Builder::new()
            .name(format!("span {span}"))
            .spawn(move || bench.serve(inbox))?;
        Ok(Self { commands, span, shape, gauges })
    }

    /// What it computes.
    pub(crate) const fn span(&self) -> Span {
        self.span
    }

    /// Dimensions of the model.
    pub(crate) const fn shape(&self) -> &ModelShape {
        &self.shape
    }

    /// Positions of KV that are free.
    pub(crate) fn free_positions(&self) -> u32 {
        self.gauges.free_positions.load(Ordering::Relaxed)
    }

    /// Microseconds of one decoded position, smoothed; 0 before the first.
    pub(crate) fn decode_micros(&self) -> u32 {
        self.gauges.decode_micros.load(Ordering::Relaxed)
    }

    /// Prefilled positions per second, smoothed; 0 before the first.
    pub(crate) fn prefill_rate(&self) -> u32 {
        self.gauges.prefill_rate.load(Ordering::Relaxed)
    }

    /// Positions computed since it was started, for all sessions.
    pub(crate) fn computed(&self) -> u64 {
        self.gauges.computed.load(Ordering::Relaxed)
    }

    /// Whether its weights are what was loaded, as it saw them last.
    pub(crate) fn is_sound(&self) -> bool {
        !self.gauges.spoilt.load(Ordering::Relaxed)
    }

    /// Has it look at them, when it has time.
    pub(crate) fn look(&self) {
        // One that is busy looks before each step.
        let _ = self.commands.try_send(Command::Look);
    }

    /// Reserves KV for a session that runs `part` of the span.
    ///
    /// # Errors
    /// No KV, or no answer.
    pub(crate) async fn open(
        &self,
        positions: u32,
        part: Span,
        tail: Option<Tail>,
    ) -> Result<Seat, SeatError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Open { positions, part, tail, reply };
        self.commands.try_send(command).map_err(|_| SeatError::Unavailable)?;
        let kv = answer.await.map_err(|_| SeatError::Unavailable)??;
        Ok(Seat { kv, commands: self.commands.clone() })
    }
}

impl Seat {
    /// Begins a job. The receiver fails if the thread is gone or too busy to be asked.
    pub(crate) fn run(&self, job: Job) -> oneshot::Receiver<Done> {
        let (reply, answer) = oneshot::channel();
        // A refused command drops `reply`, which the receiver sees.
        let _ = self.commands.try_send(Command::Run { kv: self.kv, job, reply });
        answer
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let close = Command::Close { kv: self.kv };
        if let Err(mpsc::error::TrySendError::Full(close)) = self.commands.try_send(close) {
            // KV must not leak because the queue is full for a moment.
            let commands = self.commands.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    let _ = commands.send(close).await;
                });
            }
        }
    }
}

/// The thread's own things.
struct Bench {
    executor: Box<dyn LayerExecutor>,
    places: BTreeMap<KvId, Place>,
    gauges: Arc<Gauges>,
}

/// A session's.
struct Place {
    /// How many of the span's blocks it runs.
    blocks: u64,
    /// Where its tail is here.
    voice: Option<Voice>,
}

type Order = (KvId, Job, oneshot::Sender<Done>);

impl Bench {
    fn serve(&mut self, mut inbox: mpsc::Receiver<Command>) {
        // A session has one job at a time, so as many as there are sessions.
        let mut orders: Vec<Order> = Vec::new();
        loop {
            if orders.is_empty() {
                let Some(command) = inbox.blocking_recv() else { return };
                self.take(command, &mut orders);
            }
            while let Ok(command) = inbox.try_recv() {
                self.take(command, &mut orders);
            }
            orders = self.round(orders);
            let free = self.executor.free_positions();
            self.gauges.free_positions.store(free, Ordering::Relaxed);
        }
    }

    /// Decode first, and then one piece of one prompt: long prompts, however many, must not freeze
    /// other people's streams. What is left waits for the next round.
    fn round(&mut self, mut orders: Vec<Order>) -> Vec<Order> {
        orders.sort_by_key(|(_, job, _)| job.count > 1);
        let decoding = orders.iter().take_while(|(_, job, _)| job.count == 1).count();
        let mut rest = orders.split_off(decoding.min(BATCH));
        self.run(orders);
        if let Some(prefill) = rest.iter().position(|(_, job, _)| job.count > 1) {
            let order = rest.remove(prefill);
            self.run(vec![order]);
        }
        rest
    }

    fn take(&mut self, command: Command, orders: &mut Vec<Order>) {
        match command {
            Command::Open { positions, part, tail, reply } => {
                let opened = self.executor.open(positions, part);
                if let Ok(kv) = &opened {
                    let voice = tail.map(Voice::new);
                    self.places.insert(*kv, Place { blocks: part.blocks().len() as u64, voice });
                }
                if let Err(Ok(kv)) = reply.send(opened) {
                    self.close(kv);
                }
            }
            Command::Run { kv, job, reply } => orders.push((kv, job, reply)),
            Command::Look => {
                let spoilt = !self.executor.is_sound();
                self.gauges.spoilt.fetch_or(spoilt, Ordering::Relaxed);
            }
            Command::Close { kv } => {
                orders.retain(|(other, _, _)| *other != kv);
                self.close(kv);
            }
        }
    }

    fn close(&mut self, kv: KvId) {
        self.places.remove(&kv);
        self.executor.close(kv);
    }

    fn run(&mut self, orders: Vec<Order>) {
        if orders.is_empty() {
            return;
        }
        let began = Instant::now();
        let hidden: Vec<Vec<f32>> = orders.iter().map(|(_, job, _)| floats(job)).collect();
        let mut early: BTreeMap<usize, ExecutorError> = BTreeMap::new();
        for (index, (kv, job, _)) in orders.iter().enumerate() {
            if self.executor.kv_len(*kv).is_some_and(|length| length > job.start)
                && let Err(error) = self.executor.truncate(*kv, job.start)
            {
                early.insert(index, error);
            }
        }
        let batch: Vec<Work<'_>> = orders
            .iter()
            .zip(&hidden)
            .map(|((kv, job, _), hidden)| Work {
                kv: *kv,
                start: job.start,
                input: match &job.input {
                    JobInput::Ids(ids) => Input::Tokens(ids),
                    JobInput::Hidden(_) => Input::Hidden(hidden),
                },
                want: wanted(job.want),
            })
            .collect();
        let outputs = self.executor.step(&batch);
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let spoilt = outputs.contains(&Err(ExecutorError::FileChanged));
        self.gauges.spoilt.fetch_or(spoilt, Ordering::Relaxed);
        // What failed at once was not fast.
        if outputs.iter().any(Result::is_ok) {
            self.measure(&orders, micros);
        }
        for (index, ((kv, job, reply), output)) in orders.into_iter().zip(outputs).enumerate() {
            let output = early.remove(&index).map_or(output, Err);
            let result =
                output.map_err(|error| failure(&error)).and_then(|o| self.finish(kv, &job, o));
            let _ = reply.send((result, micros));
        }
    }

    fn finish(&mut self, kv: KvId, job: &Job, output: Output) -> Result<Executed, HopFailure> {
        let logits = match output {
            Output::Hidden(values) => {
                return Ok(Executed::Hidden(Bytes::from(le_bytes(&values))));
            }
            Output::Nothing => return Ok(Executed::Nothing),
            Output::Logits(logits) => logits,
        };
        let place = self.places.get_mut(&kv).and_then(|place| place.voice.as_mut());
        let Some(voice) = place else { return Err(HopFailure::Internal) };
        match (&voice.task, job.want) {
            (TailTask::Generate { sampling, logprobs, .. }, Want::Sample { .. }) => {
                let (sampling, logprobs) = (*sampling, *logprobs);
                Ok(Executed::Sampled(voice.sample(&sampling, logprobs, job, &logits)))
            }
            (TailTask::Score { top }, Want::Scores) => {
                let rows = logits.chunks(self.executor.shape().vocab as usize);
                let following = voice.following(job.start);
                let scored = rows.zip(following).map(|(row, next)| score(row, next, *top));
                Ok(Executed::Scored(scored.collect()))
            }
            _ => Err(HopFailure::Internal),
        }
    }

    /// Speeds are of the whole span: a session that runs half of it counts for half.
    fn measure(&self, orders: &[Order], micros: u64) {
        let counts = || orders.iter().map(|(kv, job, _)| (kv, u64::from(job.count)));
        let positions: u64 = counts().map(|(_, count)| count).sum();
        self.gauges.computed.fetch_add(positions, Ordering::Relaxed);
        let blocks = |kv| self.places.get(kv).map_or(1, |place| place.blocks);
        let done: u64 = counts().map(|(kv, count)| count * blocks(kv)).sum();
        let all = positions * self.executor.span().blocks().len() as u64;
        let micros = (micros.max(1) * all / done.max(1)).max(1);
        if orders[0].1.count == 1 {
            smooth(&self.gauges.decode_micros, micros / positions.max(1));
        } else {
            smooth(&self.gauges.prefill_rate, positions * 1_000_000 / micros);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taimatsu_executor::EchoExecutor;

    const SHAPE: ModelShape = ModelShape { blocks: 4, hidden: 16, vocab: 64, context_length: 512 };

    fn bench() -> Bench {
        let executor = Box::new(EchoExecutor::new(Span::new(0..2, 4).unwrap(), SHAPE, 512));
        Bench { executor, places: BTreeMap::new(), gauges: Arc::default() }
    }

    fn order(bench: &mut Bench, ids: &[u32]) -> (Order, oneshot::Receiver<Done>) {
        order_of(bench, "0-1", ids)
    }

    fn order_of(bench: &mut Bench, part: &str, ids: &[u32]) -> (Order, oneshot::Receiver<Done>) {
        let part = Span::parse_inclusive(part, SHAPE.blocks).unwrap();
        let (reply, mut opened) = oneshot::channel();
        bench.take(Command::Open { positions: 64, part, tail: None, reply }, &mut Vec::new());
        let kv = opened.try_recv().unwrap().unwrap();
        let (reply, answer) = oneshot::channel();
        let (input, count) = (JobInput::Ids(ids.to_vec()), ids.len() as u32);
        ((kv, Job { start: 0, count, input, want: Want::Hidden }, reply), answer)
    }

    #[test]
    fn a_round_has_all_that_decode_and_one_piece_of_a_prompt() {
        let mut bench = bench();
        let prompts = [order(&mut bench, &[1, 2]), order(&mut bench, &[3, 4, 5])];
        let decode = [order(&mut bench, &[6]), order(&mut bench, &[7])];
        let (orders, mut answers): (Vec<_>, Vec<_>) = prompts.into_iter().chain(decode).unzip();
        let rest = bench.round(orders);
        let done: Vec<bool> = answers.iter_mut().map(|answer| answer.try_recv().is_ok()).collect();
        assert_eq!((done, rest.len()), (vec![true, false, true, true], 1));
        assert!(bench.round(rest).is_empty());
        assert!(answers[1].try_recv().is_ok());
    }

    #[test]
    fn what_fails_at_once_is_not_fast() {
        let mut bench = bench();
        let (bad, mut answer) = order(&mut bench, &[9_999]);
        assert!(bench.round(vec![bad]).is_empty());
        assert!(answer.try_recv().unwrap().0.is_err());
        assert_eq!(bench.gauges.decode_micros.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn half_a_span_is_not_twice_the_speed() {
        let mut bench = bench();
        let (half, _answer) = order_of(&mut bench, "0-0", &[1]);
        bench.measure(&[half], 1_000);
        assert_eq!(bench.gauges.decode_micros.load(Ordering::Relaxed), 2_000);
    }
}

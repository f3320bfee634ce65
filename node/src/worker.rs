//! The thread that computes a span: sessions' jobs in, results out, several sessions a pass.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use taimatsu_executor::{ExecutorError, KvId, LayerExecutor, ModelShape};
use taimatsu_peer::session::{Executed, Job};
use taimatsu_protocol::Span;
use taimatsu_protocol::control::HopFailure;
use taimatsu_protocol::opening::TailTask;
use tokio::sync::{mpsc, oneshot};

mod bench;
mod forms;
mod gauges;
mod pace;
mod rehearsal;
mod shares;
mod voice;

use bench::Bench;
use gauges::{Gauges, smooth};
use shares::Client;

/// Commands that may wait for the thread. Each session has one job at a time, and the number of
/// sessions is bounded by the node.
const WAITING_COMMANDS: usize = 256;

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
        client: Client,
        positions: u32,
        part: Span,
        tail: Option<Tail>,
        /// Makes the seat: one that nobody takes frees its KV like any other.
        commands: mpsc::Sender<Self>,
        reply: oneshot::Sender<Result<Seat, ExecutorError>>,
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
    /// The answer's ids so far.
    pub(crate) answer: Vec<u32>,
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
        let mut bench = Bench::new(executor, gauges.clone());
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

    /// Reserves KV for a session of `client` that runs `part` of the span.
    ///
    /// # Errors
    /// No KV, or no answer.
    pub(crate) async fn open(
        &self,
        client: Client,
        positions: u32,
        part: Span,
        tail: Option<Tail>,
    ) -> Result<Seat, SeatError> {
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.clone();
        let command = Command::Open { client, positions, part, tail, commands, reply };
        self.commands.try_send(command).map_err(|_| SeatError::Unavailable)?;
        Ok(answer.await.map_err(|_| SeatError::Unavailable)??)
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

//! An inference in this process: the hop machine alone in its ring, around a worker. The same
//! machine, chunks and sampler as on hosts, so the same bits.

use std::collections::VecDeque;

use taimatsu_peer::session::policy::CREDIT;
use taimatsu_peer::session::{Finish, Hop, HopConfig, HopInput, HopOutput, TailConfig};
use taimatsu_protocol::control::{HopFailure, HopStats, ToClient, ToHop};
use tokio::sync::{oneshot, watch};

use crate::driver::clock::Clock;
use crate::run::{Kind, Made, RunFailure, Task};
use crate::worker::{Done, Seat, SeatError, Tail, Worker};

/// See the module's page.
pub(crate) struct SoloRun {
    machine: Hop,
    clock: Clock,
    seat: Seat,
    job: Option<oneshot::Receiver<Done>>,
    made: VecDeque<Made>,
    task: Task,
    handed: u32,
    stats: HopStats,
    cancelled: bool,
}

impl SoloRun {
    /// Reserves KV and begins.
    ///
    /// # Errors
    /// No KV, or the worker does not answer.
    pub(crate) async fn begin(worker: &Worker, task: Task) -> Result<Self, SeatError> {
        let clock = Clock::start();
        let credit = task.max_tokens.min(CREDIT);
        let prompt_len = u32::try_from(task.prompt.len()).unwrap_or(u32::MAX);
        let tail =
            Tail { task: task.tail_task(credit), prompt: task.prompt.clone(), answer: vec![] };
        let seat = worker.open(None, task.positions(), worker.span(), Some(tail)).await?;
        let config = HopConfig {
            hop: 0,
            hidden: worker.shape().hidden,
            prompt_len,
            positions: task.positions(),
            prompt: task.prompt.clone(),
            answer: Vec::new(),
            lanes: None,
            tail: Some(match &task.kind {
                Kind::Generate { end_ids, .. } => {
                    TailConfig::Generate { credit, end_ids: end_ids.clone() }
                }
                Kind::Score { .. } => TailConfig::Score,
            }),
            receipts: None,
        };
        let machine = Hop::new(clock.now(), config);
        let mut run = Self {
            machine,
            clock,
            seat,
            job: None,
            made: VecDeque::new(),
            task,
            handed: 0,
            stats: HopStats::default(),
            cancelled: false,
        };
        run.perform();
        Ok(run)
    }

    /// See [`crate::run::Run::next`].
    pub(crate) async fn next(&mut self, consumed: &mut watch::Receiver<u32>) -> Made {
        loop {
            if let Some(made) = self.made.pop_front() {
                return made;
            }
            if self.machine.is_done() {
                return Made::Ended(Ok(self.finish()));
            }
            let timeout = self.machine.poll_timeout();
            tokio::select! {
                done = async {
                    match &mut self.job {
                        Some(job) => job.await.unwrap_or((Err(HopFailure::Internal), 0)),
                        None => std::future::pending().await,
                    }
                } => {
                    self.job = None;
                    let (result, micros) = done;
                    self.input(HopInput::Executed { result, micros });
                }
                Ok(()) = consumed.changed() => {
                    let until = consumed.borrow_and_update().saturating_add(CREDIT);
                    let until = until.min(self.task.max_tokens);
                    self.input(HopInput::FromClient(ToHop::Grant { until }));
                }
                () = self.clock.sleep_until(timeout) => {
                    // The client is this very task: it is never silent.
                    self.input(HopInput::FromClient(ToHop::KeepAlive));
                    self.machine.handle_timeout(self.clock.now());
                    self.perform();
                }
            }
        }
    }

    /// See [`crate::run::Run::cancel`].
    pub(crate) fn cancel(&mut self) {
        self.cancelled = true;
        self.input(HopInput::FromClient(ToHop::Close { through: 0 }));
    }

    /// See [`crate::run::Run::stats`].
    pub(crate) const fn stats(&self) -> HopStats {
        self.stats
    }

    fn finish(&self) -> Finish {
        if self.cancelled { Finish::Cancelled } else { Finish::Length }
    }

    fn input(&mut self, input: HopInput) {
        self.machine.handle(self.clock.now(), input);
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                HopOutput::Execute(job) => self.job = Some(self.seat.run(job)),
                HopOutput::ToClient(message) => self.told(message),
                // Alone in its ring, a hop has no lanes; and nobody asks itself for receipts.
                HopOutput::Dial { .. }
                | HopOutput::Neighbour { .. }
                | HopOutput::Sign(_)
                | HopOutput::Expect { .. }
                | HopOutput::Down { .. }
                | HopOutput::Up(_)
                | HopOutput::End => {}
            }
        }
    }

    fn told(&mut self, message: ToClient) {
        match message {
            ToClient::Verdict { tokens, end, .. } => {
                self.handed += tokens.len() as u32;
                self.made.extend(tokens.into_vec().into_iter().map(Made::Token));
                if end || self.handed >= self.task.max_tokens {
                    let finish = if end { Finish::End } else { Finish::Length };
                    self.ended(Ok(finish));
                }
            }
            ToClient::Scored { rows, .. } => {
                self.handed += rows.len() as u32;
                self.made.extend(rows.into_vec().into_iter().map(Made::Scored));
                if self.handed as usize >= self.task.prompt.len() {
                    self.ended(Ok(Finish::Length));
                }
            }
            ToClient::Failed(failure) => self.ended(Err(RunFailure::Here(failure))),
            ToClient::Ack { stats, .. } | ToClient::Closed { stats } => self.stats = stats,
            ToClient::Linked { .. }
            | ToClient::LinkFailed { .. }
            | ToClient::Forward(_)
            | ToClient::Leaving
            | ToClient::Receipt(_) => {}
        }
    }

    fn ended(&mut self, outcome: Result<Finish, RunFailure>) {
        self.made.push_back(Made::Ended(outcome));
        self.machine.handle(self.clock.now(), HopInput::FromClient(ToHop::Close { through: 0 }));
    }
}

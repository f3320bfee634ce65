//! The thread that computes a span, as `node/src/worker.rs` has it: commands in, several sessions
//! a pass, decode first. The arithmetic is the echo executor's, the time is made up.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use taimatsu_executor::{
    EchoExecutor, ExecutorError, History, Input, KvId, LayerExecutor, ModelShape, Output, Sampler,
    Want as Wanted, Work,
};
use taimatsu_peer::session::{Executed, HopInput, Job, JobInput, Want};
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::control::{HopFailure, Token};
use taimatsu_protocol::{ModelId, Sampling, SessionId, Span};

use super::events::Event;
use super::world::{NodeId, World};

/// Jobs of one pass.
const BATCH: usize = 16;

/// How fast a host is, and how fast it says that it is.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Microseconds of one position in decode, over its span.
    pub decode_micros: u64,
    /// Microseconds of one position in prefill.
    pub prefill_micros: u64,
    /// What it says instead, in announcements and in its sessions' figures.
    pub lie: Option<u32>,
    /// Positions of KV.
    pub capacity: u32,
}

/// A span's thread.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) model: ModelId,
    pub(crate) shape: ModelShape,
    pub(crate) span: Span,
    pub(crate) speed: Speed,
    executor: EchoExecutor,
    /// The ids so far of sessions whose tail is here.
    tails: BTreeMap<KvId, Vec<u32>>,
    inbox: VecDeque<Command>,
    /// Jobs that wait for the next round.
    orders: Vec<Order>,
    /// Passes of this round that are still to be made; the first is under way.
    round: VecDeque<Vec<Order>>,
    decode_micros: u32,
    prefill_rate: u32,
    pub(crate) load_due: bool,
}

#[derive(Debug)]
pub(crate) enum Command {
    Open { session: SessionId, positions: u32, part: Span, tail: Option<Vec<u32>> },
    Run(Order),
    Close(KvId),
}

#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) session: SessionId,
    pub(crate) kv: KvId,
    pub(crate) job: Job,
}

/// What a round's beginning has brought at once.
pub(crate) type Opening = (SessionId, Result<KvId, ExecutorError>);

impl Worker {
    /// How often its figures are told to the judge.
    pub(crate) const TOLD_EVERY: Duration = Duration::from_secs(1);

    pub(crate) fn new(model: ModelId, shape: ModelShape, span: Span, speed: Speed) -> Self {
        Self {
            model,
            shape,
            span,
            speed,
            executor: EchoExecutor::new(span, shape, speed.capacity),
            tails: BTreeMap::new(),
            inbox: VecDeque::new(),
            orders: Vec::new(),
            round: VecDeque::new(),
            decode_micros: 0,
            prefill_rate: 0,
            load_due: true,
        }
    }

    /// As if it had answered before, so that it has something to say of its speed.
    pub(crate) fn warm_up(&mut self) {
        self.decode_micros = u32::try_from(self.speed.decode_micros).unwrap_or(u32::MAX);
    }

    /// As after a restart.
    pub(crate) fn renew(&mut self) {
        *self = Self::new(self.model, self.shape, self.span, self.speed);
    }

    pub(crate) const fn capacity(&self) -> u32 {
        self.speed.capacity
    }

    /// Positions that a session has computed.
    pub(crate) fn kv_len(&self, kv: KvId) -> u32 {
        self.executor.kv_len(kv).unwrap_or(0)
    }

    pub(crate) fn free_positions(&self) -> u32 {
        self.executor.free_positions()
    }

    pub(crate) fn said_decode_micros(&self) -> u32 {
        self.speed.lie.unwrap_or(self.decode_micros)
    }

    pub(crate) const fn prefill_rate(&self) -> u32 {
        self.prefill_rate
    }

    /// Takes commands, and opens and closes; false if there is nothing to compute.
    fn begin_round(&mut self, opened: &mut Vec<Opening>) -> bool {
        while let Some(command) = self.inbox.pop_front() {
            match command {
                Command::Open { session, positions, part, tail } => {
                    let kv = self.executor.open(positions, part);
                    if let (Ok(kv), Some(prompt)) = (&kv, tail) {
                        self.tails.insert(*kv, prompt);
                    }
                    opened.push((session, kv));
                }
                Command::Run(order) => self.orders.push(order),
                Command::Close(kv) => {
                    self.orders.retain(|order| order.kv != kv);
                    self.tails.remove(&kv);
                    self.executor.close(kv);
                }
            }
        }
        self.orders.sort_by_key(|order| order.job.count > 1);
        let decoding = self.orders.iter().take_while(|order| order.job.count == 1).count();
        let mut rest = self.orders.split_off(decoding.min(BATCH));
        let decode = std::mem::take(&mut self.orders);
        let prefill = rest.iter().position(|order| order.job.count > 1);
        let prefill = prefill.map(|at| vec![rest.remove(at)]);
        self.orders = rest;
        let passes = std::iter::once(decode).chain(prefill);
        self.round = passes.filter(|pass| !pass.is_empty()).collect();
        !self.round.is_empty()
    }

    /// How long the first pass takes.
    fn pass_micros(&self) -> u64 {
        let Some(pass) = self.round.front() else { return 0 };
        let part = |order: &Order| {
            let count = u64::from(order.job.count);
            let each =
                if count == 1 { self.speed.decode_micros } else { self.speed.prefill_micros };
            count * each
        };
        let alone = pass.iter().map(part).max().unwrap_or(0);
        let all: u64 = pass.iter().map(part).sum();
        // Weights are read once for all: a batch is cheaper than its parts.
        alone + (all - alone) / 4
    }

    /// The first pass is over.
    fn end_pass(&mut self) -> Vec<(SessionId, KvId, HopInput)> {
        let micros = self.pass_micros().max(1);
        let Some(pass) = self.round.pop_front() else { return Vec::new() };
        let positions: u64 = pass.iter().map(|order| u64::from(order.job.count)).sum();
        if pass[0].job.count == 1 {
            smooth(&mut self.decode_micros, micros / positions);
        } else {
            smooth(&mut self.prefill_rate, positions * 1_000_000 / micros);
        }
        let micros = self.speed.lie.map_or(micros, u64::from);
        let done = pass.into_iter().map(|order| {
            let result = self.compute(&order);
            (order.session, order.kv, HopInput::Executed { result, micros })
        });
        done.collect()
    }

    fn compute(&mut self, order: &Order) -> Result<Executed, HopFailure> {
        let Order { kv, job, .. } = order;
        if self.executor.kv_len(*kv).is_some_and(|length| length > job.start) {
            self.executor.truncate(*kv, job.start).map_err(|_| HopFailure::Internal)?;
        }
        let hidden = floats(job);
        let input = match &job.input {
            JobInput::Ids(ids) => Input::Tokens(ids),
            JobInput::Hidden(_) => Input::Hidden(&hidden),
        };
        let want = match job.want {
            Want::Hidden => Wanted::Hidden,
            Want::Sample { .. } => Wanted::LastLogits,
            Want::Scores => Wanted::AllLogits,
            Want::Nothing => Wanted::Nothing,
        };
        let work = Work { kv: *kv, start: job.start, input, want };
        match self.executor.step(&[work]).remove(0) {
            Ok(Output::Hidden(values)) => {
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                Ok(Executed::Hidden(Bytes::from(bytes)))
            }
            Ok(Output::Logits(logits)) => {
                let tail = self.tails.get_mut(kv).ok_or(HopFailure::Internal)?;
                let position = job.start + job.count;
                tail.truncate(position as usize);
                let history = History { prompt: tail, answer: &[] };
                let id = Sampler::new(Sampling::greedy()).sample(&logits, history, position);
                tail.push(id);
                Ok(Executed::Sampled(Token { id, logprob: None, top: BoundedVec::new() }))
            }
            Ok(Output::Nothing) => Ok(Executed::Nothing),
            Err(_) => Err(HopFailure::Internal),
        }
    }
}

impl World {
    /// Gives a worker a command; a refused one is lost, as in the node.
    pub(crate) fn command(&mut self, node: NodeId, worker: usize, command: Command) {
        self.nodes[node].workers[worker].inbox.push_back(command);
        if self.nodes[node].workers[worker].round.is_empty() {
            self.begin_round(node, worker);
        }
    }

    /// A pass is over.
    pub(crate) fn worked(&mut self, node: NodeId, life: u32, worker: usize) {
        if self.nodes[node].life != life || !self.nodes[node].up {
            return;
        }
        let done = self.nodes[node].workers[worker].end_pass();
        if self.nodes[node].workers[worker].round.is_empty() {
            self.begin_round(node, worker);
        } else {
            self.schedule_pass(node, worker);
        }
        for (session, kv, input) in done {
            self.executed(node, session, kv, input);
        }
    }

    fn begin_round(&mut self, node: NodeId, worker: usize) {
        let mut opened = Vec::new();
        if self.nodes[node].workers[worker].begin_round(&mut opened) {
            self.schedule_pass(node, worker);
        }
        let life = self.nodes[node].life;
        let this = &mut self.nodes[node].workers[worker];
        if !std::mem::replace(&mut this.load_due, true) {
            self.after(Worker::TOLD_EVERY, Event::Load { node, life, worker });
        }
        for (session, kv) in opened {
            self.seated(node, session, worker, kv);
        }
    }

    fn schedule_pass(&mut self, node: NodeId, worker: usize) {
        let micros = self.nodes[node].workers[worker].pass_micros();
        let life = self.nodes[node].life;
        self.after(Duration::from_micros(micros), Event::Worked { node, life, worker });
    }
}

fn floats(job: &Job) -> Vec<f32> {
    match &job.input {
        JobInput::Ids(_) => Vec::new(),
        JobInput::Hidden(bytes) => {
            let (words, _) = bytes.as_chunks::<4>();
            words.iter().map(|word| f32::from_le_bytes(*word)).collect()
        }
    }
}

/// As the node's worker smooths its gauges.
fn smooth(gauge: &mut u32, value: u64) {
    let old = u64::from(*gauge);
    let value = value.min(u32::MAX.into());
    let new = if old == 0 { value } else { (old * 7 + value) / 8 };
    *gauge = u32::try_from(new).unwrap_or(u32::MAX).max(1);
}

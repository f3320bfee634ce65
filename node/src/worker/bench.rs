//! The worker's thread: which orders a pass takes, and what becomes of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use taimatsu_executor::{ExecutorError, KvId, LayerExecutor, Output, Work};
use taimatsu_peer::session::{Executed, Job, Want};
use taimatsu_protocol::control::HopFailure;
use taimatsu_protocol::opening::TailTask;
use tokio::sync::mpsc;

use super::Command;
use super::forms::{Order, failure, floats, joined, le_bytes, order_work, values};
use super::gauges::{Gauges, smooth};
use super::pace::Pace;
use super::voice::{Voice, score};

/// Streams of one pass.
const BATCH: usize = 16;

/// How long a pass waits for streams of the last one: what their tokens take through the program.
const GATHER: Duration = Duration::from_micros(1200);

/// How long after a stream's step its next one may come: a lap on slow links.
const LIVELY: Duration = Duration::from_millis(400);

/// How often it looks for them.
const GLANCE: Duration = Duration::from_micros(20);

/// The thread's own things.
pub(super) struct Bench {
    executor: Box<dyn LayerExecutor>,
    places: BTreeMap<KvId, Place>,
    gauges: Arc<Gauges>,
    /// Streams of the last pass.
    streams: usize,
    /// When there was one last.
    lively: Option<Instant>,
    pace: Pace,
}

/// A session's.
struct Place {
    /// How many of the span's blocks it runs.
    blocks: u64,
    /// Where its tail is here.
    voice: Option<Voice>,
}

impl Bench {
    pub(super) fn new(executor: Box<dyn LayerExecutor>, gauges: Arc<Gauges>) -> Self {
        Self {
            executor,
            places: BTreeMap::new(),
            gauges,
            streams: 0,
            lively: None,
            pace: Pace::default(),
        }
    }

    pub(super) fn serve(&mut self, mut inbox: mpsc::Receiver<Command>) {
        // A session has one job at a time, so as many as there are sessions.
        let mut orders: Vec<Order> = Vec::new();
        loop {
            if orders.is_empty() {
                let Some(command) = inbox.blocking_recv() else { return };
                self.take(command, &mut orders);
            }
            let until = Instant::now() + GATHER;
            loop {
                while let Ok(command) = inbox.try_recv() {
                    self.take(command, &mut orders);
                }
                // Streams of the last pass come back one by one, and are cheaper together.
                let streams = orders.iter().filter(|order| order.is_stream()).count();
                if orders.is_empty() || streams >= self.streams || Instant::now() >= until {
                    break;
                }
                std::thread::sleep(GLANCE);
            }
            orders = self.round(orders);
            let free = self.executor.free_positions();
            self.gauges.free_positions.store(free, Ordering::Relaxed);
        }
    }

    /// One pass: streams first, and beside them as much of one prompt as they hardly feel; a
    /// prompt's whole piece where no stream was of late. What is left waits for the next round.
    fn round(&mut self, mut orders: Vec<Order>) -> Vec<Order> {
        orders.sort_by_key(|order| !order.is_stream());
        let streams = orders.iter().take_while(|order| order.is_stream()).count();
        let mut rest = orders.split_off(streams.min(BATCH));
        self.streams = orders.len();
        if streams > 0 {
            self.lively = Some(Instant::now());
        }
        let prompt = rest.iter().position(|order| !order.is_stream());
        let mut rows = 0;
        if let Some(at) = prompt {
            let order = rest.remove(at);
            let left = order.job.count - order.done;
            let lively = streams > 0 || self.lively.is_some_and(|at| at.elapsed() < LIVELY);
            rows = if lively { left.min(self.pace.rows(self.streams as u32)) } else { left };
            orders.push(order);
        }
        if let Some(unfinished) = self.run(orders, rows) {
            rest.insert(0, unfinished);
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
            Command::Run { kv, job, reply } => {
                orders.push(Order { kv, job, reply, done: 0, values: Vec::new(), micros: 0 });
            }
            Command::Look => {
                let spoilt = !self.executor.is_sound();
                self.gauges.spoilt.fetch_or(spoilt, Ordering::Relaxed);
            }
            Command::Close { kv } => {
                orders.retain(|order| order.kv != kv);
                self.close(kv);
            }
        }
    }

    fn close(&mut self, kv: KvId) {
        self.places.remove(&kv);
        self.executor.close(kv);
    }

    /// Computes the streams, and `rows` of the prompt behind them; gives back a prompt that is not
    /// whole yet.
    fn run(&mut self, mut orders: Vec<Order>, rows: u32) -> Option<Order> {
        if orders.is_empty() {
            return None;
        }
        let began = Instant::now();
        let count = |order: &Order| if order.is_stream() { 1 } else { rows };
        let hidden: Vec<Vec<f32>> =
            orders.iter().map(|order| floats(&order.job, order.done, count(order))).collect();
        let mut early: BTreeMap<usize, ExecutorError> = BTreeMap::new();
        for (index, order) in orders.iter().enumerate() {
            if self.executor.kv_len(order.kv).is_some_and(|length| length > order.start())
                && let Err(error) = self.executor.truncate(order.kv, order.start())
            {
                early.insert(index, error);
            }
        }
        let both = orders.iter().zip(&hidden);
        let batch: Vec<Work<'_>> =
            both.map(|(order, hidden)| order_work(order, hidden, count(order))).collect();
        let outputs = self.executor.step(&batch);
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let spoilt = outputs.contains(&Err(ExecutorError::FileChanged));
        self.gauges.spoilt.fetch_or(spoilt, Ordering::Relaxed);
        // What failed at once was not fast.
        if outputs.iter().any(Result::is_ok) {
            self.measure(&orders, rows, micros);
        }
        let mut unfinished = None;
        for (index, (mut order, output)) in orders.drain(..).zip(outputs).enumerate() {
            let output = early.remove(&index).map_or(output, Err);
            order.done += count(&order);
            order.micros = order.micros.saturating_add(micros);
            let result = match output {
                Ok(output) if order.done < order.job.count => {
                    order.values.extend(values(output));
                    unfinished = Some(order);
                    continue;
                }
                Ok(output) => self.finish(order.kv, &order.job, joined(&mut order.values, output)),
                Err(error) => Err(failure(&error)),
            };
            let _ = order.reply.send((result, order.micros));
        }
        unfinished
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

    /// Speeds are of the whole span: a session that runs half of it counts for half. Of streams and
    /// a prompt together neither's speed is known.
    fn measure(&mut self, orders: &[Order], rows: u32, micros: u64) {
        let counts = || {
            let count = |order: &Order| if order.is_stream() { 1 } else { u64::from(rows) };
            orders.iter().map(move |order| (order.kv, count(order)))
        };
        let positions: u64 = counts().map(|(_, count)| count).sum();
        self.gauges.computed.fetch_add(positions, Ordering::Relaxed);
        let streams = orders[0].is_stream();
        if streams {
            self.pace.passed(rows, micros);
        }
        if streams && rows > 0 {
            return;
        }
        let blocks = |kv| self.places.get(&kv).map_or(1, |place| place.blocks);
        let done: u64 = counts().map(|(kv, count)| count * blocks(kv)).sum();
        let all = positions * self.executor.span().blocks().len() as u64;
        let micros = (micros.max(1) * all / done.max(1)).max(1);
        if streams {
            smooth(&self.gauges.decode_micros, micros / positions.max(1));
        } else {
            smooth(&self.gauges.prefill_rate, positions * 1_000_000 / micros);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Done;
    use taimatsu_executor::{EchoExecutor, ModelShape};
    use taimatsu_peer::session::JobInput;
    use taimatsu_protocol::Span;
    use tokio::sync::oneshot;

    const SHAPE: ModelShape = ModelShape { blocks: 4, hidden: 16, vocab: 64, context_length: 512 };

    fn bench() -> Bench {
        let executor = Box::new(EchoExecutor::new(Span::new(0..2, 4).unwrap(), SHAPE, 512));
        Bench::new(executor, Arc::default())
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
        let job = Job { start: 0, count, input, want: Want::Hidden };
        (Order { kv, job, reply, done: 0, values: Vec::new(), micros: 0 }, answer)
    }

    #[test]
    fn a_round_has_all_streams_and_some_of_one_prompt() {
        let mut bench = bench();
        let long: Vec<u32> = (0..20).collect();
        let prompts = [order(&mut bench, &long), order(&mut bench, &[3, 4, 5])];
        let streams = [order(&mut bench, &[6]), order(&mut bench, &[7])];
        let alone = order(&mut bench, &long);
        let (orders, mut answers): (Vec<_>, Vec<_>) = prompts.into_iter().chain(streams).unzip();
        let mut rest = bench.round(orders);
        let done: Vec<bool> = answers.iter_mut().map(|answer| answer.try_recv().is_ok()).collect();
        assert_eq!((done, rest.len()), (vec![false, false, true, true], 2));
        assert_eq!((rest[0].done, rest[1].done), (6, 0), "the first goes on");
        while !rest.is_empty() {
            rest = bench.round(rest);
        }
        assert!(answers[1].try_recv().is_ok());
        // In pieces, beside streams, it is what it is in one.
        let (in_pieces, _) = answers[0].try_recv().unwrap();
        let (alone, mut answer) = alone;
        bench.lively = None;
        assert!(bench.round(vec![alone]).is_empty());
        let (at_once, _) = answer.try_recv().unwrap();
        let [Ok(Executed::Hidden(at_once)), Ok(Executed::Hidden(in_pieces))] = [at_once, in_pieces]
        else {
            panic!("both are hidden values")
        };
        assert_eq!((at_once.len(), at_once), (20 * 16 * 4, in_pieces));
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
        bench.measure(&[half], 0, 1_000);
        assert_eq!(bench.gauges.decode_micros.load(Ordering::Relaxed), 2_000);
    }
}

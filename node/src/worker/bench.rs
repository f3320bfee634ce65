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

use super::forms::{Order, failure, floats, joined, le_bytes, order_work, values};
use super::gauges::{Gauges, smooth};
use super::pace::{Next, Pace, Waiting};
use super::shares::{Client, Shares};
use super::voice::{Voice, score};
use super::{Command, Seat};

/// Streams of one pass.
const BATCH: usize = 16;

/// How often it looks for streams that it waits for.
const GLANCE: Duration = Duration::from_micros(20);

/// The thread's own things.
pub(super) struct Bench {
    executor: Box<dyn LayerExecutor>,
    places: BTreeMap<KvId, Place>,
    gauges: Arc<Gauges>,
    /// When the last pass of streams ended.
    passed: Option<Instant>,
    pace: Pace,
    shares: Shares,
}

/// A session's.
struct Place {
    client: Client,
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
            passed: None,
            pace: Pace::default(),
            shares: Shares::default(),
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
            while let Ok(command) = inbox.try_recv() {
                self.take(command, &mut orders);
            }
            if !orders.is_empty() && !self.round(&mut orders) {
                std::thread::sleep(GLANCE);
            }
            let free = self.executor.free_positions();
            self.gauges.free_positions.store(free, Ordering::Relaxed);
        }
    }

    /// One pass of streams, or one block of one prompt; false where it is better to wait.
    fn round(&mut self, orders: &mut Vec<Order>) -> bool {
        let streams = orders.iter().filter(|order| order.is_stream()).count();
        let prompt = streams < orders.len();
        let since = self.passed.map(|at| at.elapsed());
        match self.pace.next(Waiting { streams: streams as u32, prompt, since }) {
            Next::Streams => {
                let own = |order: &mut Order| order.is_stream();
                let mut batch: Vec<Order> = orders.extract_if(.., own).collect();
                if batch.len() > BATCH {
                    batch.sort_by_key(|order| self.shares.of(self.client(order.kv)));
                    orders.splice(0..0, batch.split_off(BATCH));
                }
                self.streams(batch);
                true
            }
            Next::Block => {
                self.block(orders, since);
                true
            }
            Next::Wait => false,
        }
    }

    fn client(&self, kv: KvId) -> Client {
        self.places.get(&kv).and_then(|place| place.client)
    }

    fn take(&mut self, command: Command, orders: &mut Vec<Order>) {
        match command {
            Command::Open { client, positions, part, tail, commands, reply } => {
                let opened = self.executor.open(positions, part);
                if let Ok(kv) = &opened {
                    let voice = tail.map(Voice::new);
                    let blocks = part.blocks().len() as u64;
                    self.places.insert(*kv, Place { client, blocks, voice });
                    self.shares.enter(client);
                }
                let seat = opened.map(|kv| Seat { kv, commands });
                if let Err(Ok(seat)) = reply.send(seat) {
                    self.close(seat.kv);
                }
            }
            Command::Run { kv, job, reply } => {
                self.shares.ask(self.client(kv));
                orders.push(Order::new(kv, job, reply));
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
        if let Some(place) = self.places.remove(&kv) {
            self.shares.leave(place.client);
        }
        self.executor.close(kv);
    }

    /// One pass of one step of each.
    fn streams(&mut self, orders: Vec<Order>) {
        let began = Instant::now();
        let hidden: Vec<Vec<f32>> = orders.iter().map(|order| floats(&order.job, 0, 1)).collect();
        let early: Vec<_> = orders.iter().map(|order| self.rolled_back(order)).collect();
        let both = orders.iter().zip(&hidden);
        let batch: Vec<Work<'_>> =
            both.map(|(order, hidden)| order_work(order, hidden, 1)).collect();
        let outputs = self.executor.step(&batch);
        let micros = micros(began);
        let outputs: Vec<_> = early
            .into_iter()
            .zip(outputs)
            .map(|(rolled_back, output)| rolled_back.and(output))
            .collect();
        self.pace.passed(orders.len() as u32, micros);
        // What failed at once was not fast.
        if outputs.iter().any(Result::is_ok) {
            self.measure(orders.iter().map(|order| (order.kv, 1)), micros, Speed::Decode);
        }
        for (order, output) in orders.into_iter().zip(outputs) {
            self.reply(order, output, micros);
        }
        self.passed = Some(Instant::now());
    }

    /// Forgets what a client has taken back.
    fn rolled_back(&mut self, order: &Order) -> Result<(), ExecutorError> {
        match self.executor.kv_len(order.kv) {
            Some(length) if length > order.start() => {
                self.executor.truncate(order.kv, order.start())
            }
            _ => Ok(()),
        }
    }

    /// One block of the prompt that was begun; else of the client's that was served least its
    /// shortest: what is asked in a word does not wait for its asker's long ones.
    fn block(&mut self, orders: &mut Vec<Order>, since: Option<Duration>) {
        let turn = |order: &Order| {
            let others = order.piece == 0;
            let left = order.job.count - order.done;
            (order.is_stream(), others, self.shares.of(self.client(order.kv)), left)
        };
        let first = (0..orders.len()).min_by_key(|index| turn(&orders[*index]));
        let Some(first) = first else { return };
        let mut order = orders.remove(first);
        let began = Instant::now();
        if order.piece == 0
            && let Err(error) = self.begin(&mut order, since)
        {
            return self.reply(order, Err(error), 0);
        }
        let output = self.executor.proceed(order.kv);
        let micros = micros(began);
        order.micros = order.micros.saturating_add(micros);
        order.in_piece += micros;
        self.pace.blocked(order.piece, micros);
        let Some(output) = output else { return orders.insert(first, order) };
        let (piece, in_piece) = (std::mem::take(&mut order.piece), order.in_piece);
        order.done += piece;
        if output.is_ok() {
            let speed = if piece == order.job.count { Speed::Prefill } else { Speed::Unknown };
            self.measure(std::iter::once((order.kv, piece)), in_piece, speed);
        }
        match output {
            Ok(output) if order.done < order.job.count => {
                order.values.extend(values(output));
                orders.insert(first, order);
            }
            output => self.reply(order, output, 0),
        }
    }

    /// Begins the next piece of a prompt.
    fn begin(&mut self, order: &mut Order, since: Option<Duration>) -> Result<(), ExecutorError> {
        self.rolled_back(order)?;
        let piece = self.pace.rows(since, order.job.count - order.done);
        let hidden = floats(&order.job, order.done, piece);
        self.executor.begin(&order_work(order, &hidden, piece))?;
        (order.piece, order.in_piece) = (piece, 0);
        Ok(())
    }

    /// Tells a session what became of its job.
    fn reply(&mut self, mut order: Order, output: Result<Output, ExecutorError>, micros: u64) {
        order.micros = order.micros.saturating_add(micros);
        let spoilt = output == Err(ExecutorError::FileChanged);
        self.gauges.spoilt.fetch_or(spoilt, Ordering::Relaxed);
        let result = match output {
            Ok(output) => self.finish(order.kv, &order.job, joined(&mut order.values, output)),
            Err(error) => Err(failure(&error)),
        };
        let _ = order.reply.send((result, order.micros));
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

    /// Positions of sessions were computed. Speeds are of the whole span: a session that runs half
    /// of it counts for half.
    fn measure(
        &mut self,
        counts: impl Iterator<Item = (KvId, u32)> + Clone,
        micros: u64,
        speed: Speed,
    ) {
        for (kv, count) in counts.clone() {
            self.shares.serve(self.client(kv), count);
        }
        let positions: u64 = counts.clone().map(|(_, count)| u64::from(count)).sum();
        self.gauges.computed.fetch_add(positions, Ordering::Relaxed);
        let blocks = |kv| self.places.get(&kv).map_or(1, |place| place.blocks);
        let done: u64 = counts.map(|(kv, count)| u64::from(count) * blocks(kv)).sum();
        let all = positions * self.executor.span().blocks().len() as u64;
        let micros = (micros.max(1) * all / done.max(1)).max(1);
        match speed {
            Speed::Decode => smooth(&self.gauges.decode_micros, micros / positions.max(1)),
            Speed::Prefill => smooth(&self.gauges.prefill_rate, positions * 1_000_000 / micros),
            Speed::Unknown => {}
        }
    }
}

/// Which of a host's speeds something was.
#[derive(Debug, Clone, Copy)]
enum Speed {
    Decode,
    Prefill,
    /// Pieces of a prompt that were made short for others' sake.
    Unknown,
}

fn micros(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
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
        order_from(bench, None, part, ids)
    }

    fn order_from(
        bench: &mut Bench,
        client: Client,
        part: &str,
        ids: &[u32],
    ) -> (Order, oneshot::Receiver<Done>) {
        let part = Span::parse_inclusive(part, SHAPE.blocks).unwrap();
        let ((reply, mut opened), (commands, closed)) = (oneshot::channel(), mpsc::channel(1));
        // Nobody takes the seat's word of its end.
        drop(closed);
        let open = Command::Open { client, positions: 64, part, tail: None, commands, reply };
        bench.take(open, &mut Vec::new());
        let kv = opened.try_recv().unwrap().unwrap().kv;
        let (reply, answer) = oneshot::channel();
        let (input, count) = (JobInput::Ids(ids.to_vec()), ids.len() as u32);
        let job = Job { start: 0, count, input, want: Want::Hidden };
        (Order::new(kv, job, reply), answer)
    }

    /// Rounds until nothing is left.
    fn all(bench: &mut Bench, mut orders: Vec<Order>) {
        while !orders.is_empty() {
            bench.round(&mut orders);
        }
    }

    #[test]
    fn streams_go_first_and_between_a_prompts_blocks() {
        let mut bench = bench();
        let long: Vec<u32> = (0..40).collect();
        let longer: Vec<u32> = (0..50).collect();
        let prompts = [order(&mut bench, &long), order(&mut bench, &longer)];
        let streams = [order(&mut bench, &[6]), order(&mut bench, &[7])];
        let (late, mut late_answer) = order(&mut bench, &[8]);
        let (alone, mut alone_answer) = order(&mut bench, &long);
        let (mut orders, mut answers): (Vec<_>, Vec<_>) =
            prompts.into_iter().chain(streams).unzip();
        bench.round(&mut orders);
        let done: Vec<bool> = answers.iter_mut().map(|answer| answer.try_recv().is_ok()).collect();
        assert_eq!((done, orders.len()), (vec![false, false, true, true], 2));
        bench.pace.passed(1, 1_000_000);
        bench.round(&mut orders);
        assert_eq!((orders[0].piece, orders[0].done), (16, 0), "it is within its first piece");
        orders.push(late);
        bench.pace = Pace::default();
        bench.round(&mut orders);
        assert!(late_answer.try_recv().is_ok(), "a stream does not wait for the piece's end");
        all(&mut bench, orders);
        assert!(answers[1].try_recv().is_ok());
        // In pieces, beside streams, it is what it is in one.
        let (in_pieces, _) = answers[0].try_recv().unwrap();
        bench.passed = None;
        all(&mut bench, vec![alone]);
        let (at_once, _) = alone_answer.try_recv().unwrap();
        let [Ok(Executed::Hidden(at_once)), Ok(Executed::Hidden(in_pieces))] = [at_once, in_pieces]
        else {
            panic!("both are hidden values")
        };
        assert_eq!((at_once.len(), at_once), (40 * 16 * 4, in_pieces));
    }

    #[test]
    fn a_cancelled_prompt_ends_within_its_step() {
        let mut bench = bench();
        let (prompt, mut answer) = order(&mut bench, &[1, 2, 3]);
        let kv = prompt.kv;
        let mut orders = vec![prompt];
        bench.round(&mut orders);
        assert_eq!((orders.len(), orders[0].piece), (1, 3));
        bench.take(Command::Close { kv }, &mut orders);
        assert!(orders.is_empty() && answer.try_recv().is_err());
        assert_eq!(bench.executor.free_positions(), 512);
    }

    #[test]
    fn a_seat_that_nobody_takes_is_free_again() {
        let mut bench = bench();
        let part = Span::parse_inclusive("0-1", SHAPE.blocks).unwrap();
        let (commands, mut inbox) = mpsc::channel(4);
        let open = |reply| Command::Open {
            client: None,
            positions: 64,
            part,
            tail: None,
            commands: commands.clone(),
            reply,
        };
        // Who asked is gone before the answer, or after it was sent.
        let (gone, _) = oneshot::channel();
        bench.take(open(gone), &mut Vec::new());
        let (reply, answer) = oneshot::channel();
        bench.take(open(reply), &mut Vec::new());
        drop(answer);
        while let Ok(command) = inbox.try_recv() {
            bench.take(command, &mut Vec::new());
        }
        assert_eq!(bench.executor.free_positions(), 512);
    }

    #[test]
    fn a_short_prompt_goes_before_its_clients_long_ones() {
        let mut bench = bench();
        let (long, mut long_answer) = order(&mut bench, &[1, 2, 3, 4]);
        let (short, mut short_answer) = order(&mut bench, &[1, 2]);
        let mut orders = vec![long, short];
        bench.round(&mut orders);
        bench.round(&mut orders);
        assert!(short_answer.try_recv().is_ok() && long_answer.try_recv().is_err());
        all(&mut bench, orders);
        assert!(long_answer.try_recv().is_ok());
    }

    #[test]
    fn a_client_with_many_prompts_does_not_hold_up_another() {
        let mut bench = bench();
        let other = Some(taimatsu_protocol::PeerId::from_public_key([1; 32]));
        let many = (0..5).map(|_| order(&mut bench, &[1, 2, 3])).collect::<Vec<_>>();
        let (one, mut one_answer) = order_from(&mut bench, other, "0-1", &[1, 2, 3]);
        let (mut orders, mut answers): (Vec<_>, Vec<_>) = many.into_iter().unzip();
        orders.push(one);
        for _ in 0..4 {
            bench.round(&mut orders);
        }
        assert!(answers[0].try_recv().is_ok() && one_answer.try_recv().is_ok());
        assert!(answers[1].try_recv().is_err());
    }

    #[test]
    fn what_fails_at_once_is_not_fast() {
        let mut bench = bench();
        let (bad, mut answer) = order(&mut bench, &[9_999]);
        all(&mut bench, vec![bad]);
        assert!(answer.try_recv().unwrap().0.is_err());
        assert_eq!(bench.gauges.decode_micros.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn half_a_span_is_not_twice_the_speed() {
        let mut bench = bench();
        let (half, _answer) = order_of(&mut bench, "0-0", &[1]);
        bench.measure(std::iter::once((half.kv, 1)), 1_000, Speed::Decode);
        assert_eq!(bench.gauges.decode_micros.load(Ordering::Relaxed), 2_000);
    }
}

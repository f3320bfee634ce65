//! A host's part of one session (docs/protocol.md 4.1).

use std::collections::VecDeque;

use bytes::Bytes;
use taimatsu_protocol::Moment;
use taimatsu_protocol::control::{HopFailure, HopStats, ToClient, ToHop, Violation};
use taimatsu_protocol::link::Downstream;
use taimatsu_protocol::sealed::Mark;

use crate::policy::{ACK_COALESCE, CLIENT_SILENCE, HEARTBEAT, LANE_GRACE, PREFILL_CHUNK, WINDOW};
use crate::tail::{Tail, TailConfig};

mod io;
mod lanes;
mod receipts;
mod steps;

use receipts::Book;

pub use io::{End, Executed, HopConfig, HopInput, HopOutput, Job, JobInput, Want};

/// A host's part of a session. See the crate's page for the call order.
#[derive(Debug)]
pub struct Hop {
    config: HopConfig,
    /// None in a scoring session, and elsewhere than at the tail.
    tail: Option<Tail>,
    state: State,
    lane_in: Lane,
    lane_out: Lane,
    epoch: u32,
    /// Positions whose input has been taken in; the prompt counts at once for the leader.
    received: u32,
    /// Positions computed.
    kv_len: u32,
    /// Positions below this are final: nothing rolls them back.
    committed: u32,
    /// Inputs that wait for the executor, oldest first; bounded by the permission given.
    queue: VecDeque<Pending>,
    executing: Option<Running>,
    /// Computed and over the next hop's permission, with its first position.
    held: Option<(Mark, Bytes)>,
    /// The next hop's permission.
    may_send_until: u32,
    /// Our permission to the previous hop.
    permitted: u32,
    stats: HopStats,
    outputs: VecDeque<HopOutput>,
    last_client: Moment,
    last_told: Moment,
    news: bool,
    /// Gathers what this hop signs; none where nothing is.
    book: Option<Book>,
    /// The first lane that was lost while running, and when.
    lost: Option<(u8, Moment)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Linking,
    Running,
    Done,
}

#[derive(Debug, Clone, Copy)]
struct Lane {
    number: u8,
    generation: u32,
    up: bool,
    relayed: bool,
}

#[derive(Debug)]
struct Pending {
    start: u32,
    count: u32,
    input: JobInput,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    start: u32,
    count: u32,
    /// Rolled back meanwhile.
    void: bool,
}

impl Hop {
    /// The session as it is right after its opening was accepted.
    #[must_use]
    pub fn new(now: Moment, mut config: HopConfig) -> Self {
        let lane = |number, generation| Lane { number, generation, up: false, relayed: false };
        let previous = (config.hop + config.hops - 1) % config.hops;
        let tail = match config.tail.take() {
            Some(TailConfig::Generate { credit, end_ids }) => {
                // The last token needs no KV of its own.
                let limit = config.positions - config.prompt_len + 1;
                Some(Tail::new(credit, limit, end_ids))
            }
            Some(TailConfig::Score) | None => None,
        };
        let mut hop = Self {
            tail,
            state: State::Linking,
            lane_in: lane(previous, config.generations.0),
            lane_out: lane(config.hop, config.generations.1),
            epoch: 0,
            received: 0,
            kv_len: 0,
            committed: 0,
            queue: VecDeque::new(),
            executing: None,
            held: None,
            may_send_until: WINDOW,
            permitted: WINDOW,
            stats: HopStats::default(),
            outputs: VecDeque::new(),
            last_client: now,
            last_told: now,
            news: false,
            book: config.receipts.map(Book::new),
            lost: None,
            config,
        };
        hop.begin();
        hop
    }

    /// Takes an event in.
    pub fn handle(&mut self, now: Moment, input: HopInput) {
        if self.state == State::Done {
            return;
        }
        match input {
            HopInput::LaneUp(end, generation) => self.lane_up(now, end, generation),
            HopInput::LaneLost(end, generation) => self.lane_lost(now, end, generation),
            HopInput::FromUpstream { mark, message, tensor } => {
                self.on_upstream(now, mark, message, tensor);
            }
            HopInput::FromDownstream(ack) => {
                self.may_send_until = self.may_send_until.max(ack.until);
                self.send_held();
            }
            HopInput::FromClient(message) => self.on_client(now, message),
            HopInput::Broken(violation) => self.fail(HopFailure::BadFrame(violation)),
            HopInput::ClientLost => self.end(),
            HopInput::Executed { result, micros } => self.executed(now, result, micros),
            HopInput::Signed(signed) => self.signed(signed),
            HopInput::Drain => self.fail(HopFailure::Draining),
        }
        self.work();
        self.sign_next(now);
        self.tell(now);
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self) -> Option<HopOutput> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`], if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        if self.state == State::Done {
            return None;
        }
        let tell = if self.news { ACK_COALESCE } else { HEARTBEAT };
        let next = (self.last_client + CLIENT_SILENCE).min(self.last_told + tell);
        Some(self.lost.map_or(next, |(_, at)| next.min(at + LANE_GRACE)))
    }

    /// The moment of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Moment) {
        if self.state == State::Done {
            return;
        }
        if now.since(self.last_client) >= CLIENT_SILENCE {
            self.end();
            return;
        }
        self.complain(now);
        self.tell(now);
        if now.since(self.last_told) >= HEARTBEAT {
            self.ack(now);
        }
    }

    /// Whether the session is over here.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn is_leader(&self) -> bool {
        self.config.hop == 0
    }

    fn is_tail(&self) -> bool {
        self.config.hop + 1 == self.config.hops
    }

    fn begin(&mut self) {
        if self.is_leader() {
            let prompt = std::mem::take(&mut self.config.prompt);
            self.received = self.config.prompt_len;
            self.book_input(&JobInput::Ids(prompt.clone()));
            self.commit(self.received);
            let mut start = 0;
            for chunk in prompt.chunks(PREFILL_CHUNK as usize) {
                let count = chunk.len() as u32;
                let input = JobInput::Ids(chunk.to_vec());
                self.queue.push_back(Pending { start, count, input });
                start += count;
            }
        }
        if self.config.hops == 1 {
            self.state = State::Running;
            self.work();
        } else {
            let (inward, outward) = (self.lane_in.generation, self.lane_out.generation);
            self.outputs.push_back(HopOutput::Expect { generation: inward, relayed: false });
            self.outputs.push_back(HopOutput::Dial { generation: outward, relayed: false });
        }
    }

    fn on_client(&mut self, now: Moment, message: ToHop) {
        self.last_client = now;
        match message {
            ToHop::Grant { until } => {
                let releases = self.tail.as_mut().map(|tail| tail.grant(until));
                self.release(now, releases.unwrap_or_default());
            }
            ToHop::Relay { lane, generation } => self.relay(lane, generation),
            ToHop::KeepAlive | ToHop::Forward(_) => {}
            ToHop::Close { through } => self.close(now, through),
        }
    }

    fn on_upstream(&mut self, now: Moment, mark: Mark, message: Downstream, tensor: Option<Bytes>) {
        let taken = match (message, tensor, self.is_leader()) {
            (Downstream::Step { count, committed_through }, Some(tensor), false) => {
                let taken = self.take_step(mark, count, tensor);
                self.commit(committed_through);
                taken
            }
            (Downstream::Receipt(above), None, false) => self.take_receipt(above),
            (Downstream::Accepted { ids, .. }, None, true) => self.take_accepted(mark, &ids),
            _ => Err(Violation::OutOfPlace),
        };
        match taken {
            Ok(()) => self.news = true,
            Err(violation) => self.fail(HopFailure::BadFrame(violation)),
        }
        self.tell(now);
    }

    /// Tells the client what is new, once enough time has passed to gather it.
    fn tell(&mut self, now: Moment) {
        if self.news && now.since(self.last_told) >= ACK_COALESCE && self.state != State::Done {
            self.ack(now);
        }
    }

    fn ack(&mut self, now: Moment) {
        self.news = false;
        let (received, kv_len, stats) = (self.received, self.kv_len, self.stats);
        self.tell_client(now, ToClient::Ack { received, kv_len, stats });
    }

    fn tell_client(&mut self, now: Moment, message: ToClient) {
        self.last_told = now;
        self.outputs.push_back(HopOutput::ToClient(message));
    }

    fn fail(&mut self, failure: HopFailure) {
        self.outputs.push_back(HopOutput::ToClient(ToClient::Failed(failure)));
        self.end();
    }

    fn end(&mut self) {
        if self.state != State::Done {
            self.state = State::Done;
            self.queue.clear();
            self.held = None;
            self.outputs.push_back(HopOutput::End);
        }
    }
}

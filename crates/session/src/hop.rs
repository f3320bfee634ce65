//! A host's part of one session (docs/protocol.md 4.1).

use std::collections::VecDeque;

use bytes::Bytes;
use taimatsu_protocol::Moment;
use taimatsu_protocol::control::{HopFailure, HopStats, ToClient, ToHop, Violation};
use taimatsu_protocol::link::Downstream;
use taimatsu_protocol::sealed::Mark;

use crate::policy::{ACK_COALESCE, CLIENT_SILENCE, HEARTBEAT, PREFILL_CHUNK, WINDOW};
use crate::tail::{Tail, TailConfig};

mod io;
mod lanes;
mod receipts;
mod retained;
mod steps;

use receipts::Book;
use retained::Retained;

pub use io::{
    End, Executed, HopConfig, HopInput, HopOutput, Job, JobInput, LaneTerms, Lanes, Want,
};

/// A host's part of a session. See the crate's page for the call order.
#[derive(Debug)]
pub struct Hop {
    config: HopConfig,
    leader: bool,
    /// None in a scoring session, and elsewhere than at the tail.
    tail: Option<Tail>,
    /// Whether it is the tail.
    head: bool,
    state: State,
    /// It may compute: both its lanes stood once, or there is somebody who waits for it.
    started: bool,
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
    /// What came out, for the next hop and whoever takes its place; empty at the tail.
    retained: Retained,
    /// It is known where on this connection the next hop goes on.
    sending: bool,
    /// What the next hop has, or is on its way to it: the end of positions; of the tail's ids,
    /// the position of the next one.
    sent: u32,
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
    /// Lost in this generation, and the client knows.
    failed: bool,
    relayed: bool,
    /// Its receiver is new to the session.
    fresh: bool,
}

impl Lane {
    const fn new(number: u8, generation: u32, fresh: bool) -> Self {
        Self { number, generation, up: false, failed: false, relayed: false, fresh }
    }

    const fn of(terms: LaneTerms) -> Self {
        Self::new(terms.number, terms.generation, terms.fresh)
    }
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
        // All lanes of a new session have the generation 1.
        let later = |lanes: Lanes| lanes.inward.generation > 1;
        let heir = config.lanes.map_or(!config.answer.is_empty(), later);
        let head = config.tail.is_some();
        let tail = match config.tail.take() {
            Some(TailConfig::Generate { credit, end_ids }) => {
                // The last token needs no KV of its own.
                let limit = config.positions - config.prompt_len + 1;
                let tail = Tail::new(credit, limit, end_ids);
                Some(if heir { tail.after(config.answer.clone()) } else { tail })
            }
            Some(TailConfig::Score) | None => None,
        };
        let alone = LaneTerms { number: config.hop, generation: 0, fresh: true };
        let Lanes { inward, out } = config.lanes.unwrap_or(Lanes { inward: alone, out: alone });
        let leader = !config.prompt.is_empty();
        let mut hop = Self {
            tail,
            head,
            leader,
            state: State::Linking,
            // A leader in a lost one's place is waited for.
            started: !leader || heir,
            lane_in: Lane::of(inward),
            lane_out: Lane::of(out),
            epoch: 0,
            received: 0,
            kv_len: 0,
            committed: 0,
            queue: VecDeque::new(),
            executing: None,
            retained: Retained::new(config.hidden as usize * 4),
            sending: false,
            sent: 0,
            may_send_until: WINDOW,
            permitted: WINDOW,
            stats: HopStats::default(),
            outputs: VecDeque::new(),
            last_client: now,
            last_told: now,
            news: false,
            book: config.receipts.map(Book::new),
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
            HopInput::FromDownstream(ack) => self.acknowledged(ack),
            HopInput::FromClient(message) => self.on_client(now, message),
            HopInput::Broken(violation) => self.fail(HopFailure::BadFrame(violation)),
            HopInput::ClientLost => self.end(),
            HopInput::Executed { result, micros } => self.executed(now, result, micros),
            HopInput::Signed(signed) => self.signed(signed),
            HopInput::Leaving => self.tell_client(now, ToClient::Leaving),
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
        Some((self.last_client + CLIENT_SILENCE).min(self.last_told + tell))
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

    /// Positions taken in so far.
    #[must_use]
    pub const fn received(&self) -> u32 {
        self.received
    }

    fn begin(&mut self) {
        if self.leader {
            let mut ids = std::mem::take(&mut self.config.prompt);
            // The last one comes from the tail, when the credit covers what follows it.
            let given = self.config.answer.len().saturating_sub(1);
            ids.extend(&self.config.answer[..given]);
            self.received = ids.len() as u32;
            self.book_input(&JobInput::Ids(ids.clone()));
            self.commit(self.received);
            let mut start = 0;
            for chunk in ids.chunks(PREFILL_CHUNK as usize) {
                let count = chunk.len() as u32;
                let input = JobInput::Ids(chunk.to_vec());
                self.queue.push_back(Pending { start, count, input });
                start += count;
            }
        }
        self.config.answer = Vec::new();
        if self.config.lanes.is_none() {
            (self.state, self.started) = (State::Running, true);
            self.pass_on();
        } else {
            let (inward, outward) = (self.lane_in.generation, self.lane_out.generation);
            self.outputs.push_back(HopOutput::Expect { generation: inward, relayed: false });
            self.outputs.push_back(HopOutput::Dial { generation: outward, relayed: false });
        }
        self.work();
    }

    fn on_client(&mut self, now: Moment, message: ToHop) {
        self.last_client = now;
        match message {
            ToHop::Grant { until } => {
                let verdict = self.tail.as_mut().and_then(|tail| tail.grant(until));
                self.release(now, verdict);
            }
            ToHop::Relay { lane, generation } => self.relay(lane, generation),
            ToHop::Relink(lane) => self.relink(lane),
            ToHop::KeepAlive | ToHop::Forward(_) => {}
            ToHop::Close { through } => self.close(now, through),
        }
    }

    fn on_upstream(&mut self, now: Moment, mark: Mark, message: Downstream, tensor: Option<Bytes>) {
        let taken = match (message, tensor, self.leader) {
            (Downstream::Step { count, committed_through }, Some(tensor), false) => {
                let taken = self.take_step(mark, count, tensor);
                self.commit(committed_through);
                taken
            }
            (Downstream::Receipt(above), None, false) => self.take_receipt(mark.step, above),
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
            self.outputs.push_back(HopOutput::End);
        }
    }
}

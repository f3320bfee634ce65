//! The client's part of one session (docs/protocol.md 4.2).

use std::collections::VecDeque;

use bytes::Bytes;
use taimatsu_protocol::Moment;
use taimatsu_protocol::control::{HopFailure, HopStats, Score, ToClient, ToHop, Token};
use taimatsu_protocol::receipt::RECEIPT_EVERY;
use taimatsu_protocol::signed::SignedBytes;

use crate::policy::{CLOSE_TIMEOUT, CREDIT, HEARTBEAT, OPEN_TIMEOUT, STALL};

mod blame;
mod io;
mod lanes;

pub use io::{Failure, Finish, OriginConfig, OriginInput, OriginOutput};

/// The client's part of a session. See the crate's page for the call order.
#[derive(Debug)]
pub struct Origin {
    config: OriginConfig,
    state: State,
    hops: Vec<HopView>,
    lanes: Vec<LaneView>,
    granted: u32,
    /// Tokens (or scored positions) handed on.
    handed: u32,
    finish: Finish,
    /// Of each hop, in the order of positions.
    receipts: Vec<Vec<SignedBytes>>,
    /// Ids that the chain had released when it was closed: not handed on, but signed for.
    late: Vec<u32>,
    forwarded: u32,
    opened_at: Moment,
    progress_at: Moment,
    closing_at: Moment,
    told_at: Moment,
    outputs: VecDeque<OriginOutput>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Running,
    Closing,
    Done,
}

/// What the client knows of a hop.
#[derive(Debug, Clone, Copy)]
struct HopView {
    accepted: bool,
    closed: bool,
    /// It said so itself, and with it everything that it had to say.
    said_goodbye: bool,
    complaint: Option<blame::Complaint>,
    heard_at: Moment,
    kv_len: u32,
    stats: HopStats,
}

/// What the client knows of a lane.
#[derive(Debug, Clone, Copy)]
struct LaneView {
    generation: u32,
    relayed: bool,
    up_at_source: bool,
    up_at_target: bool,
}

impl Origin {
    /// The session as it is when the openings are sent.
    #[must_use]
    pub fn new(now: Moment, config: OriginConfig) -> Self {
        let hop = HopView {
            accepted: false,
            closed: false,
            said_goodbye: false,
            complaint: None,
            heard_at: now,
            kv_len: 0,
            stats: HopStats::default(),
        };
        let lane =
            LaneView { generation: 1, relayed: false, up_at_source: false, up_at_target: false };
        let lanes = if config.hops == 1 { 0 } else { usize::from(config.hops) };
        Self {
            config,
            state: State::Opening,
            hops: vec![hop; usize::from(config.hops)],
            lanes: vec![lane; lanes],
            granted: config.first_credit(),
            handed: 0,
            finish: Finish::Length,
            receipts: vec![Vec::new(); usize::from(config.hops)],
            late: Vec::new(),
            forwarded: 0,
            opened_at: now,
            progress_at: now,
            closing_at: now,
            told_at: now,
            outputs: VecDeque::new(),
        }
    }

    /// Takes an event in.
    pub fn handle(&mut self, now: Moment, input: OriginInput) {
        if self.state == State::Done {
            return;
        }
        match input {
            OriginInput::Accepted { hop } => self.accepted(now, hop),
            OriginInput::Refused { hop, refusal } => self.fail(Failure::Refused { hop, refusal }),
            OriginInput::FromHop { hop, message, frame } => {
                self.hops[usize::from(hop)].heard_at = now;
                self.on_hop(now, hop, message, frame);
            }
            OriginInput::Broken { hop } => self.fail(Failure::Violation { hop }),
            OriginInput::Lost { hop } if self.state == State::Closing => self.closed(hop, None),
            OriginInput::Lost { hop } => self.lost(hop),
            OriginInput::Consumed(total) => self.consumed(now, total),
            OriginInput::Cancel => self.close(now, Finish::Cancelled),
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self) -> Option<OriginOutput> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`], if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let late = match self.state {
            State::Opening => Some(self.opened_at + OPEN_TIMEOUT),
            State::Running => self.is_owed().then(|| self.progress_at + STALL),
            State::Closing => return Some(self.closing_at + CLOSE_TIMEOUT),
            State::Done => return None,
        };
        let told = Some(self.told_at + HEARTBEAT);
        [late, told, self.silence_at(), self.verdict_at()].into_iter().flatten().min()
    }

    /// The moment of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Moment) {
        let due = match self.state {
            State::Opening if now.since(self.opened_at) >= OPEN_TIMEOUT => {
                Some(Failure::OpenTimeout { hop: self.first_not_open() })
            }
            State::Running if self.is_owed() && now.since(self.progress_at) >= STALL => {
                Some(Failure::Stalled { hop: self.furthest_behind() })
            }
            State::Closing if now.since(self.closing_at) >= CLOSE_TIMEOUT => {
                return self.finish();
            }
            State::Closing | State::Done => return,
            State::Opening | State::Running => self.judged(now).or_else(|| self.silent(now)),
        };
        match due {
            Some(failure) => self.fail(failure),
            None if now.since(self.told_at) >= HEARTBEAT => self.keep_alive(now),
            None => {}
        }
    }

    /// What the session cost each hop, as far as it is known.
    pub fn stats(&self) -> impl Iterator<Item = HopStats> + '_ {
        self.hops.iter().map(|hop| hop.stats)
    }

    /// Whether every hop has said all that it had to say: then its receipts are complete, or it
    /// withholds some.
    #[must_use]
    pub fn is_told_all(&self) -> bool {
        self.hops.iter().all(|hop| hop.said_goodbye)
    }

    /// The receipts of each hop, in the order of positions: to be checked once the answer ended.
    #[must_use]
    pub fn receipts(&self) -> &[Vec<SignedBytes>] {
        &self.receipts
    }

    /// Ids of the chain that came after the end: its receipts may be of them, too.
    #[must_use]
    pub fn late(&self) -> &[u32] {
        &self.late
    }

    /// Frames that went through this client because two neighbours could not reach each other.
    #[must_use]
    pub const fn forwarded(&self) -> u32 {
        self.forwarded
    }

    /// Whether the lane goes through this client.
    #[must_use]
    pub fn is_relayed(&self, lane: u8) -> bool {
        self.lanes.get(usize::from(lane)).is_some_and(|lane| lane.relayed)
    }

    fn accepted(&mut self, now: Moment, hop: u8) {
        let view = &mut self.hops[usize::from(hop)];
        if view.accepted || self.state == State::Closing {
            return;
        }
        view.accepted = true;
        view.heard_at = now;
        self.relay_late(hop);
        self.opened(now);
    }

    fn opened(&mut self, now: Moment) {
        let linked = self.lanes.iter().all(|lane| lane.up_at_source && lane.up_at_target);
        if self.state == State::Opening && linked && self.hops.iter().all(|hop| hop.accepted) {
            self.state = State::Running;
            self.progress_at = now;
            self.outputs.push_back(OriginOutput::Open);
        }
    }

    fn on_hop(&mut self, now: Moment, hop: u8, message: ToClient, frame: Option<Bytes>) {
        if self.state == State::Closing {
            match message {
                ToClient::Closed { stats } => self.closed(hop, Some(stats)),
                ToClient::Ack { stats, .. } => self.hops[usize::from(hop)].stats = stats,
                ToClient::Failed(_) => self.closed(hop, None),
                ToClient::Receipt(own) => self.keep_receipt(hop, own),
                ToClient::Verdict { index, tokens, .. } => self.came_late(hop, index, &tokens),
                _ => {}
            }
            return;
        }
        match message {
            ToClient::Linked { lane, generation } => self.linked(now, hop, lane, generation),
            ToClient::LinkFailed { lane, generation } => {
                self.link_failed(hop, lane, generation);
            }
            ToClient::Forward(forward) => self.forward(hop, forward, frame),
            ToClient::Ack { kv_len, stats, .. } => {
                let view = &mut self.hops[usize::from(hop)];
                if kv_len > view.kv_len {
                    self.progress_at = now;
                }
                (view.kv_len, view.stats) = (kv_len, stats);
            }
            ToClient::Verdict { index, tokens, end } => {
                self.verdict(now, hop, index, tokens.into_vec(), end);
            }
            ToClient::Scored { position, rows } => {
                self.scored(now, hop, position, rows.into_vec());
            }
            ToClient::Failed(HopFailure::NeighbourLost { lane }) => self.complained(now, hop, lane),
            ToClient::Failed(failure) => self.fail(Failure::HopFailed { hop, failure }),
            ToClient::Receipt(own) if !self.config.score => self.keep_receipt(hop, own),
            ToClient::Closed { .. } | ToClient::Receipt(_) => {
                self.fail(Failure::Violation { hop });
            }
        }
    }

    fn verdict(&mut self, now: Moment, hop: u8, index: u32, tokens: Vec<Token>, end: bool) {
        let until = u64::from(index) + tokens.len() as u64;
        let fits = index == self.handed && until <= u64::from(self.granted) && !tokens.is_empty();
        if !fits || hop + 1 != self.config.hops || self.config.score {
            return self.fail(Failure::Violation { hop });
        }
        self.handed += tokens.len() as u32;
        self.progress_at = now;
        self.outputs.extend(tokens.into_iter().map(OriginOutput::Token));
        if end {
            self.close(now, Finish::End);
        } else if self.handed >= self.config.max_tokens {
            self.close(now, Finish::Length);
        }
    }

    fn scored(&mut self, now: Moment, hop: u8, position: u32, rows: Vec<Score>) {
        let until = u64::from(position) + rows.len() as u64;
        let fits = position == self.handed && until <= u64::from(self.config.prompt_len);
        if !fits || hop + 1 != self.config.hops || !self.config.score {
            return self.fail(Failure::Violation { hop });
        }
        self.handed += rows.len() as u32;
        self.progress_at = now;
        self.outputs.extend(rows.into_iter().map(OriginOutput::Scored));
        if self.handed == self.config.prompt_len {
            self.close(now, Finish::Length);
        }
    }

    fn consumed(&mut self, now: Moment, total: u32) {
        let until = total.saturating_add(CREDIT).min(self.config.max_tokens);
        // Half a credit at a time, so that grants are rare; the last one as it comes.
        let worth =
            until >= self.granted.saturating_add(CREDIT / 2) || until == self.config.max_tokens;
        if until > self.granted && worth && self.state != State::Closing && !self.config.score {
            if !self.is_owed() {
                self.progress_at = now;
            }
            self.granted = until;
            self.send(self.config.hops - 1, ToHop::Grant { until }, None);
        }
    }

    /// Ends the answer well; the hops' last figures are waited for.
    fn close(&mut self, now: Moment, finish: Finish) {
        if self.state == State::Closing {
            return;
        }
        self.finish = finish;
        self.state = State::Closing;
        self.closing_at = now;
        let through = match self.handed {
            0 => 0,
            _ if self.config.score => 0,
            // The last token needed no position of its own.
            handed => self.config.prompt_len + handed - 1,
        };
        self.close_all(through);
        if self.hops.iter().all(|hop| hop.closed || !hop.accepted) {
            self.finish();
        }
    }

    fn close_all(&mut self, through: u32) {
        for hop in 0..self.config.hops {
            self.send(hop, ToHop::Close { through }, None);
        }
    }

    /// What a hop signed is checked at the end; more than there are positions is left out.
    fn keep_receipt(&mut self, hop: u8, own: SignedBytes) {
        let positions = self.config.prompt_len.saturating_add(self.config.max_tokens);
        let kept = &mut self.receipts[usize::from(hop)];
        if kept.len() <= (positions / RECEIPT_EVERY) as usize {
            kept.push(own);
        }
    }

    /// The tail was ahead within its credit.
    fn came_late(&mut self, hop: u8, index: u32, tokens: &[Token]) {
        let have = self.handed + self.late.len() as u32;
        let room = self.granted.saturating_sub(have) as usize;
        if index == have && hop + 1 == self.config.hops {
            self.late.extend(tokens.iter().take(room).map(|token| token.id));
        }
    }

    fn closed(&mut self, hop: u8, stats: Option<HopStats>) {
        let view = &mut self.hops[usize::from(hop)];
        view.closed = true;
        view.said_goodbye |= stats.is_some();
        view.stats = stats.unwrap_or(view.stats);
        if self.hops.iter().all(|hop| hop.closed || !hop.accepted) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.state = State::Done;
        self.outputs.push_back(OriginOutput::Ended(Ok(self.finish)));
    }

    fn fail(&mut self, failure: Failure) {
        if self.state == State::Closing {
            // The answer is complete; how a hop says goodbye changes nothing.
            return;
        }
        self.state = State::Done;
        self.close_all(0);
        self.outputs.push_back(OriginOutput::Ended(Err(failure)));
    }

    /// Whether the chain has credit left: without it, it stands still by right.
    const fn is_owed(&self) -> bool {
        self.config.score || self.handed < self.granted
    }

    fn keep_alive(&mut self, now: Moment) {
        for hop in 0..self.config.hops {
            if self.hops[usize::from(hop)].accepted {
                self.send(hop, ToHop::KeepAlive, None);
            }
        }
        self.told_at = now;
    }
}

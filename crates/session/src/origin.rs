//! The client's part of one session (docs/protocol.md 4.2).

use std::collections::VecDeque;

use bytes::Bytes;
use taimatsu_protocol::Moment;
use taimatsu_protocol::control::{HopStats, Score, ToClient, ToHop, Token};
use taimatsu_protocol::signed::SignedBytes;

use crate::policy::{CLOSE_TIMEOUT, CREDIT, HEARTBEAT, OPEN_TIMEOUT, STALL};

mod closing;
mod io;
mod lanes;
mod mending;
mod views;

use mending::{Mending, Seek};
use views::{HopView, LaneView};

pub use io::{Failure, Finish, LaneEnd, Newcomer, OriginConfig, OriginInput, OriginOutput};

/// The client's part of a session. See the crate's page for the call order.
#[derive(Debug)]
pub struct Origin {
    config: OriginConfig,
    state: State,
    /// The numbers of the hops, leader first.
    ring: Vec<u8>,
    /// By number, those included that are gone.
    hops: Vec<HopView>,
    /// The last one that a connection was given.
    generation: u32,
    /// The ring is not whole.
    mending: Option<Mending>,
    seek: Seek,
    /// The ring that a failure speaks of.
    blamed: Vec<u8>,
    /// Since the last token.
    losses: u32,
    /// Losses where nobody knows who was wrong.
    disputes: u32,
    granted: u32,
    /// Tokens (or scored positions) handed on.
    handed: u32,
    finish: Finish,
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

impl Origin {
    /// The session as it begins: its openings are to be sent.
    #[must_use]
    pub fn new(now: Moment, config: OriginConfig) -> Self {
        let ring: Vec<u8> = (0..config.hops).collect();
        let mut hops = vec![HopView::new(now, false); ring.len()];
        for (hop, view) in hops.iter_mut().enumerate() {
            let to = ring[(hop + 1) % ring.len()];
            view.lane = LaneView::new(now, to, 1, true);
        }
        let mut origin = Self {
            config,
            state: State::Opening,
            ring,
            hops,
            generation: 1,
            mending: None,
            seek: Seek::new(),
            blamed: Vec::new(),
            losses: 0,
            disputes: 0,
            granted: config.first_credit(),
            handed: 0,
            finish: Finish::Length,
            late: Vec::new(),
            forwarded: 0,
            opened_at: now,
            progress_at: now,
            closing_at: now,
            told_at: now,
            outputs: VecDeque::new(),
        };
        for hop in 0..config.hops {
            origin.knock(hop);
        }
        origin
    }

    /// Takes an event in.
    pub fn handle(&mut self, now: Moment, input: OriginInput) {
        if self.state == State::Done {
            return;
        }
        match input {
            OriginInput::Accepted { hop } => self.accepted(now, hop),
            OriginInput::Refused { hop, refusal } => {
                let failure = Failure::Refused { hop: self.place(hop), refusal };
                self.lose(now, hop, failure);
            }
            OriginInput::FromHop { hop, message, frame } => {
                let view = &mut self.hops[usize::from(hop)];
                if !view.gone {
                    view.heard_at = now;
                    self.on_hop(now, hop, message, frame);
                }
            }
            OriginInput::Broken { hop } => self.violation(now, hop),
            OriginInput::Lost { hop } => {
                let failure = Failure::HopLost { hop: self.place(hop) };
                self.lose(now, hop, failure);
            }
            OriginInput::Found { seek, hops } => self.found(now, seek, hops),
            OriginInput::Nobody { seek } => self.nobody(now, seek),
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
        let mending = self.mending.is_some();
        let late = match self.state {
            State::Opening => Some(self.opened_at + OPEN_TIMEOUT),
            State::Running if mending => self.mended_by(),
            State::Running => self.is_owed().then(|| self.progress_at + STALL),
            State::Closing => return Some(self.closing_at + CLOSE_TIMEOUT),
            State::Done => return None,
        };
        let lane = self.late_lane().filter(|_| mending).map(|(_, at)| at);
        let told = Some(self.told_at + HEARTBEAT);
        let newcomer = self.newcomer_by();
        let stalled = self.stalled_lane().map(|(_, at)| at);
        [
            late,
            told,
            self.silence_at(),
            self.hearsay_at(),
            newcomer,
            lane,
            stalled,
            self.seek.again_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The moment of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Moment) {
        match self.state {
            State::Opening if now.since(self.opened_at) >= OPEN_TIMEOUT => {
                return self.fail(Failure::OpenTimeout { hop: self.first_not_open() });
            }
            State::Closing if now.since(self.closing_at) >= CLOSE_TIMEOUT => {
                return self.finish();
            }
            State::Closing | State::Done => return,
            State::Opening | State::Running => {}
        }
        if self.mended_by().is_some_and(|by| now >= by) {
            return self.give_up();
        }
        let stalled = self.state == State::Running && self.mending.is_none() && self.is_owed();
        if let Some((hop, failure)) = self.overdue(now) {
            return self.lose(now, hop, failure);
        }
        if stalled && now.since(self.progress_at) >= STALL {
            let hop = self.furthest_behind();
            return self.lose(now, hop, Failure::Stalled { hop: self.place(hop) });
        }
        self.renew_failed(now);
        self.renew_stalled(now);
        if self.seek.again_at.is_some_and(|at| now >= at) {
            self.seek_now();
        }
        if now.since(self.told_at) >= HEARTBEAT {
            self.keep_alive(now);
        }
    }

    /// What the session cost each hop of the ring, as far as it is known.
    pub fn stats(&self) -> impl Iterator<Item = HopStats> + '_ {
        self.ring_views().map(|hop| hop.stats)
    }

    /// Whether every hop has said all that it had to say: then its receipts are complete, or it
    /// withholds some.
    #[must_use]
    pub fn is_told_all(&self) -> bool {
        self.ring_views().all(|hop| hop.said_goodbye)
    }

    /// The receipts of each hop of the ring, in the order of positions: to be checked once the
    /// answer ended.
    #[must_use]
    pub fn receipts(&self) -> Vec<Vec<SignedBytes>> {
        self.ring_views().map(|hop| hop.receipts.clone()).collect()
    }

    /// The numbers of the hops, leader first.
    #[must_use]
    pub fn ring(&self) -> &[u8] {
        &self.ring
    }

    /// The numbers of the hops by their places, as the failure speaks of them that the answer ended
    /// with; and whether [`OriginOutput::Lost`] has told of it before.
    #[must_use]
    pub fn blamed(&self) -> (&[u8], bool) {
        match self.blamed.is_empty() {
            true => (&self.ring, false),
            false => (&self.blamed, true),
        }
    }

    /// Whether the hop took a lost one's place.
    #[must_use]
    pub fn is_newcomer(&self, hop: u8) -> bool {
        self.hops.get(usize::from(hop)).is_some_and(|hop| hop.newcomer)
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
        self.hops.get(usize::from(lane)).is_some_and(|hop| hop.lane.relayed)
    }

    fn ring_views(&self) -> impl Iterator<Item = &HopView> + '_ {
        self.ring.iter().map(|hop| &self.hops[usize::from(*hop)])
    }

    fn tail(&self) -> u8 {
        self.ring[self.ring.len() - 1]
    }

    fn accepted(&mut self, now: Moment, hop: u8) {
        let granted = self.granted;
        let view = &mut self.hops[usize::from(hop)];
        if view.accepted || view.gone || self.state == State::Closing {
            return;
        }
        (view.accepted, view.heard_at) = (true, now);
        let behind = view.credit < granted;
        for lane in self.lanes_of(hop) {
            self.tell_lane(lane);
        }
        if hop == self.tail() && behind {
            self.send(hop, ToHop::Grant { until: granted }, None);
        }
        self.opened(now);
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
                self.link_failed(now, hop, lane, generation);
            }
            ToClient::Forward(forward) => self.forward(now, hop, forward, frame),
            ToClient::Ack { received, kv_len, stats } => {
                let view = &mut self.hops[usize::from(hop)];
                if kv_len > view.kv_len {
                    self.progress_at = now;
                }
                (view.received, view.kv_len, view.stats) = (received, kv_len, stats);
            }
            ToClient::Verdict { index, tokens, end } => {
                self.verdict(now, hop, index, tokens.into_vec(), end);
            }
            ToClient::Scored { position, rows } => {
                self.scored(now, hop, position, rows.into_vec());
            }
            ToClient::Failed(failure) => {
                let failure = Failure::HopFailed { hop: self.place(hop), failure };
                self.lose(now, hop, failure);
            }
            ToClient::Leaving => {
                self.hops[usize::from(hop)].leaving = true;
                if self.mending.is_none() {
                    self.seek_now();
                }
            }
            ToClient::Receipt(own) if !self.config.score => self.keep_receipt(hop, own),
            ToClient::Closed { .. } | ToClient::Receipt(_) => {
                self.violation(now, hop);
            }
        }
    }

    fn verdict(&mut self, now: Moment, hop: u8, index: u32, tokens: Vec<Token>, end: bool) {
        let until = u64::from(index) + tokens.len() as u64;
        let fits = index == self.handed && until <= u64::from(self.granted) && !tokens.is_empty();
        if !fits || hop != self.tail() || self.config.score {
            return self.violation(now, hop);
        }
        self.handed += tokens.len() as u32;
        (self.losses, self.progress_at) = (0, now);
        if self.state == State::Opening {
            // Word of the last lanes may be behind what came over them.
            self.state = State::Running;
            self.outputs.push_back(OriginOutput::Open);
        }
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
        if !fits || hop != self.tail() || !self.config.score {
            return self.violation(now, hop);
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
            let tail = self.tail();
            if self.hops[usize::from(tail)].is_here() {
                self.send(tail, ToHop::Grant { until }, None);
            }
        }
    }

    /// Whether the chain has credit left: without it, it stands still by right.
    const fn is_owed(&self) -> bool {
        self.config.score || self.handed < self.granted
    }

    fn keep_alive(&mut self, now: Moment) {
        for hop in self.ring.clone() {
            if self.hops[usize::from(hop)].is_here() {
                self.send(hop, ToHop::KeepAlive, None);
            }
        }
        self.told_at = now;
    }
}

//! Origin and hops in a ring, in virtual time: real machines, a fake executor, links with delay.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::control::{Forward, HopFailure, Score, ToClient, ToHop, Token, Violation};
use taimatsu_protocol::link::{Downstream, LinkAck};
use taimatsu_protocol::receipt::{
    self, BrokenReceipts, Claim, Expected, Flaw, NO_RECEIPT, Receipt,
};
use taimatsu_protocol::sealed::Mark;
use taimatsu_protocol::signed::{SignedBytes, Verified};
use taimatsu_protocol::{Digest, ModelId, Moment, Numerics, PeerId, SessionId, Span};
use taimatsu_session::policy::CREDIT;
use taimatsu_session::{
    End, Executed, Failure, Finish, Hop, HopConfig, HopInput, HopOutput, Job, JobInput, LaneEnd,
    LaneTerms, Lanes, Origin, OriginConfig, OriginInput, OriginOutput, ReceiptTerms, TailConfig,
    Want,
};

const HIDDEN: u32 = 1;

/// What the fake model says after these ids: any function will do, as long as it sees them all.
fn next_token(ids: &[u32]) -> u32 {
    ids.iter().fold(7, |hash: u32, id| hash.wrapping_mul(31).wrapping_add(*id)) % 1000 + 10
}

fn undisturbed(prompt: &[u32], tokens: usize, end: Option<u32>) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..tokens {
        ids.push(next_token(&ids));
        if ids.last() == end.as_ref() {
            break;
        }
    }
    ids.split_off(prompt.len())
}

enum Event {
    ToHop(u8, ToHop, Option<Bytes>),
    ToClient(u8, ToClient, Option<Bytes>),
    Accepted(u8),
    Step(u8, Mark, Downstream, Option<Bytes>),
    Ack(u8, LinkAck),
    LaneUp(u8, End, u32),
    LaneLost(u8, End, u32),
    Executed(u8, Job),
    Consumed(u32),
    Kill(u8),
    StreamLost(u8),
}

struct World {
    now: Moment,
    queue: BTreeMap<(Moment, u64), Event>,
    sequence: u64,
    rng: ChaCha20Rng,
    origin: Origin,
    hops: Vec<Hop>,
    /// What each hop has computed: the id at each position (the fake hidden state is the id).
    kv: Vec<Vec<u32>>,
    dead: BTreeSet<u8>,
    /// Silent, but its streams stay open.
    frozen: BTreeSet<u8>,
    /// Lanes that cannot be made straight.
    cut: BTreeSet<u8>,
    /// Lane frames on their way through the client.
    carried: BTreeMap<u64, Event>,
    tokens: Vec<u32>,
    scored: Vec<Score>,
    outcome: Option<Result<Finish, Failure>>,
    consume: bool,
    ended: BTreeSet<u8>,
    relayed: BTreeSet<u8>,
    /// Hops that hear of the answer's end later than the others.
    slow_close: BTreeSet<u8>,
    /// Which hop was told to relay which lane in which generation.
    told: BTreeSet<(u8, u8, u32)>,
    /// A hop whose receipt from this position on is a lie.
    lie: Option<(u8, u32)>,
    /// A hop that may lie in anything that it says.
    liar: Option<u8>,
    /// Milliseconds after which the client hears of a death; none: it never does.
    news: Option<u64>,
    /// Milliseconds after which a dead hop's next and previous neighbours notice.
    notice: [u64; 2],
}

impl World {
    fn new(
        seed: u64,
        hops: u8,
        prompt: &[u32],
        max_tokens: u32,
        end: Option<u32>,
        score: bool,
    ) -> Self {
        let now = Moment::default();
        let prompt_len = prompt.len() as u32;
        let config = OriginConfig { hops, prompt_len, max_tokens, score, patience: Duration::ZERO };
        let origin = Origin::new(now, config);
        let make = |hop: u8| {
            let tail = (hop + 1 == hops).then(|| match score {
                true => TailConfig::Score,
                false => TailConfig::Generate {
                    credit: config.first_credit(),
                    end_ids: end.into_iter().collect(),
                },
            });
            let prompt = if hop == 0 { prompt.to_vec() } else { Vec::new() };
            let positions = prompt_len + max_tokens;
            Hop::new(
                now,
                HopConfig {
                    hop,
                    hidden: HIDDEN,
                    prompt_len,
                    positions,
                    prompt,
                    answer: Vec::new(),
                    lanes: lanes(hop, hops),
                    tail,
                    receipts: (!score).then(|| terms(hop, hops)),
                },
            )
        };
        let mut world = Self {
            now,
            queue: BTreeMap::new(),
            sequence: 0,
            rng: ChaCha20Rng::seed_from_u64(seed),
            origin,
            hops: (0..hops).map(make).collect(),
            kv: vec![Vec::new(); usize::from(hops)],
            dead: BTreeSet::new(),
            frozen: BTreeSet::new(),
            cut: BTreeSet::new(),
            carried: BTreeMap::new(),
            tokens: Vec::new(),
            scored: Vec::new(),
            outcome: None,
            consume: true,
            ended: BTreeSet::new(),
            relayed: BTreeSet::new(),
            slow_close: BTreeSet::new(),
            told: BTreeSet::new(),
            lie: None,
            liar: None,
            news: Some(100),
            notice: [1, 1],
        };
        for hop in 0..hops {
            world.after(5, Event::Accepted(hop));
        }
        world
    }

    fn after(&mut self, milliseconds: u64, event: Event) {
        // Streams are ordered: an event never overtakes one that was sent before it.
        let at = self.now + Duration::from_millis(milliseconds);
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    fn run(&mut self, limit: Duration) {
        for hop in 0..self.hops.len() as u8 {
            self.drain_hop(hop);
        }
        self.drain_origin();
        while self.outcome.is_none() && self.now < Moment::default() + limit {
            let timer = self.next_timer();
            match self.queue.first_key_value().map(|(key, _)| *key) {
                Some(key) if timer.is_none_or(|timer| key.0 <= timer) => {
                    self.now = key.0;
                    let event = self.queue.remove(&key).unwrap();
                    self.deliver(event);
                }
                _ => match timer {
                    Some(timer) => {
                        self.now = self.now.max(timer);
                        self.fire();
                    }
                    None => break,
                },
            }
        }
    }

    fn next_timer(&self) -> Option<Moment> {
        let hops = self.hops.iter().enumerate();
        let awake = hops.filter(|(hop, _)| !self.is_out(*hop as u8));
        let hops = awake.filter_map(|(_, hop)| hop.poll_timeout()).min();
        hops.into_iter().chain(self.origin.poll_timeout()).min()
    }

    fn is_out(&self, hop: u8) -> bool {
        self.dead.contains(&hop) || self.frozen.contains(&hop)
    }

    fn fire(&mut self) {
        for hop in 0..self.hops.len() as u8 {
            if !self.is_out(hop) && self.hops[usize::from(hop)].poll_timeout() <= Some(self.now) {
                self.hops[usize::from(hop)].handle_timeout(self.now);
                self.drain_hop(hop);
            }
        }
        if self.origin.poll_timeout().is_some_and(|at| at <= self.now) {
            self.origin.handle_timeout(self.now);
            self.drain_origin();
        }
    }

    fn hop_input(&mut self, hop: u8, input: HopInput) {
        if !self.is_out(hop) {
            self.hops[usize::from(hop)].handle(self.now, input);
            self.drain_hop(hop);
        }
    }

    fn origin_input(&mut self, input: OriginInput) {
        self.origin.handle(self.now, input);
        self.drain_origin();
    }

    fn deliver(&mut self, event: Event) {
        match event {
            Event::Accepted(hop) if !self.is_out(hop) => {
                self.origin_input(OriginInput::Accepted { hop });
            }
            Event::Accepted(hop) => self.origin_input(OriginInput::Lost { hop }),
            Event::ToHop(hop, ToHop::Forward(_), Some(frame)) => {
                let ticket = u64::from_le_bytes(frame[..8].try_into().unwrap());
                let carried = self.carried.remove(&ticket).unwrap();
                let _ = hop;
                self.deliver(carried);
            }
            Event::ToHop(hop, message, _) => {
                if let ToHop::Relay { lane, generation } = message {
                    self.told.insert((hop, lane, generation));
                }
                self.hop_input(hop, HopInput::FromClient(message));
            }
            // A relayed hello comes through the client, behind the word that it will.
            Event::LaneUp(hop, End::In, generation)
                if generation > 1 && !self.told.contains(&(hop, self.lane_to(hop), generation)) =>
            {
                self.after(20, Event::LaneUp(hop, End::In, generation));
            }
            Event::ToClient(hop, message, frame) => {
                self.origin_input(OriginInput::FromHop { hop, message, frame });
            }
            Event::Step(hop, mark, message, tensor) => {
                self.hop_input(hop, HopInput::FromUpstream { mark, message, tensor });
            }
            Event::Ack(hop, ack) => self.hop_input(hop, HopInput::FromDownstream(ack)),
            Event::LaneUp(hop, end, generation) => {
                self.hop_input(hop, HopInput::LaneUp(end, generation));
            }
            Event::LaneLost(hop, end, generation) => {
                self.hop_input(hop, HopInput::LaneLost(end, generation));
            }
            Event::Executed(hop, job) => {
                let result = Ok(self.compute(hop, &job));
                self.hop_input(hop, HopInput::Executed { result, micros: 1000 });
            }
            Event::Consumed(total) => self.origin_input(OriginInput::Consumed(total)),
            Event::Kill(hop) => self.kill(hop),
            Event::StreamLost(hop) => self.origin_input(OriginInput::Lost { hop }),
        }
    }

    fn lane_to(&self, hop: u8) -> u8 {
        let hops = self.hops.len() as u8;
        (hop + hops - 1) % hops
    }

    fn kill(&mut self, hop: u8) {
        self.dead.insert(hop);
        let hops = self.hops.len() as u8;
        // Its neighbours are nearer than the client, and end of it before the client knows.
        if let Some(late) = self.news {
            self.after(late, Event::StreamLost(hop));
        }
        if hops > 1 {
            let [next, previous] = self.notice;
            self.after(next, Event::LaneLost((hop + 1) % hops, End::In, 1));
            self.after(previous, Event::LaneLost((hop + hops - 1) % hops, End::Out, 1));
        }
    }

    /// The fake model: hidden states are the ids themselves, and the tail folds them all.
    fn compute(&mut self, hop: u8, job: &Job) -> Executed {
        let ids = match &job.input {
            JobInput::Ids(ids) => ids.clone(),
            JobInput::Hidden(bytes) => {
                bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
            }
        };
        assert_eq!(ids.len() as u32, job.count);
        let kv = &mut self.kv[usize::from(hop)];
        assert!(kv.len() as u32 >= job.start, "a gap in the KV of hop {hop}");
        kv.truncate(job.start as usize);
        kv.extend_from_slice(&ids);
        match job.want {
            Want::Hidden => Executed::Hidden(
                ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>().into(),
            ),
            Want::Sample { .. } => Executed::Sampled(Token {
                id: next_token(kv),
                logprob: None,
                top: BoundedVec::new(),
            }),
            Want::Scores => {
                let ends = job.start as usize + 1..=kv.len();
                let row = |end: usize| Score {
                    next: None,
                    top: BoundedVec::truncated([(next_token(&kv[..end]), -1.0)]),
                };
                Executed::Scored(ends.map(row).collect())
            }
            Want::Nothing => Executed::Nothing,
        }
    }

    fn drain_hop(&mut self, hop: u8) {
        let hops = self.hops.len() as u8;
        let (next, previous) = ((hop + 1) % hops, (hop + hops - 1) % hops);
        while let Some(output) = self.next_output(hop) {
            let delay = 1 + u64::from(self.rng.next_u32() % 3);
            match output {
                HopOutput::Execute(job) => self.after(delay, Event::Executed(hop, job)),
                HopOutput::ToClient(message) => self.after(10, Event::ToClient(hop, message, None)),
                HopOutput::Down { mark, message, tensor } => {
                    self.lane(hop, hop, Event::Step(next, mark, message, tensor));
                }
                HopOutput::Up(ack) => self.lane(hop, previous, Event::Ack(previous, ack)),
                HopOutput::Dial { generation, relayed } => {
                    if relayed {
                        self.relayed.insert(hop);
                    }
                    if self.cut.contains(&hop) && !relayed {
                        self.after(20, Event::LaneLost(hop, End::Out, generation));
                    } else {
                        self.after(20, Event::LaneUp(hop, End::Out, generation));
                        self.after(20, Event::LaneUp(next, End::In, generation));
                    }
                }
                HopOutput::Expect { .. } | HopOutput::Neighbour { .. } => {}
                HopOutput::Sign(receipt) => {
                    let signed = self.sign(hop, *receipt);
                    self.hops[usize::from(hop)].handle(self.now, HopInput::Signed(signed));
                }
                HopOutput::End => {
                    assert!(self.ended.insert(hop), "a hop ends once");
                    // Its streams end with it, and neighbours are nearer than the client.
                    for generation in [1, 2] {
                        self.after(1, Event::LaneLost(next, End::In, generation));
                        self.after(1, Event::LaneLost(previous, End::Out, generation));
                    }
                }
            }
        }
    }

    fn next_output(&mut self, hop: u8) -> Option<HopOutput> {
        let output = self.hops[usize::from(hop)].poll_output()?;
        if self.liar != Some(hop) || !self.rng.next_u32().is_multiple_of(8) {
            return Some(output);
        }
        let odd = self.rng.next_u32();
        match output {
            HopOutput::Down { mark, message, tensor } => self.lie_downstream(mark, message, tensor),
            HopOutput::ToClient(ToClient::Receipt(signed)) => {
                Some(HopOutput::ToClient(ToClient::Receipt(self.forge(hop, &signed))))
            }
            HopOutput::ToClient(ToClient::Verdict { index, end, .. }) => {
                let token = Token { id: odd, logprob: None, top: BoundedVec::new() };
                let tokens = BoundedVec::truncated([token]);
                Some(HopOutput::ToClient(ToClient::Verdict { index, tokens, end }))
            }
            // What it signs to everybody; its chain of receipts goes on from there.
            HopOutput::Sign(receipt) => Some(HopOutput::Sign(Box::new(altered(*receipt, odd)))),
            HopOutput::Up(ack) if odd.is_multiple_of(2) => {
                Some(HopOutput::Up(LinkAck { until: ack.until + 64, ..ack }))
            }
            other => Some(other),
        }
    }

    /// Something else for the next hop.
    fn lie_downstream(
        &mut self,
        mark: Mark,
        message: Downstream,
        tensor: Option<Bytes>,
    ) -> Option<HopOutput> {
        let odd = self.rng.next_u32();
        let hop = self.liar.unwrap();
        let (mark, message, tensor) = match (message, tensor) {
            (Downstream::Step { count, committed_through }, Some(tensor)) => match odd % 5 {
                0 => {
                    let message = Downstream::Step { count, committed_through: 0 };
                    (mark, message, Some(tensor))
                }
                1 => {
                    let mut ids = tensor.to_vec();
                    ids[0] ^= 1;
                    (mark, Downstream::Step { count, committed_through }, Some(ids.into()))
                }
                2 => {
                    let back =
                        Mark { epoch: mark.epoch + 1, step: mark.step.saturating_sub(odd / 4 % 3) };
                    (back, Downstream::Step { count, committed_through: 0 }, Some(tensor))
                }
                3 => {
                    let more = [tensor.clone(), tensor].concat();
                    let message = Downstream::Step { count: count * 2, committed_through: 0 };
                    (mark, message, Some(more.into()))
                }
                _ => {
                    let message = Downstream::Step { count, committed_through: u32::MAX };
                    (mark, message, Some(tensor))
                }
            },
            (Downstream::Receipt(signed), None) => {
                (mark, Downstream::Receipt(self.forge(hop, &signed)), None)
            }
            (Downstream::Accepted { committed_through, .. }, None) => {
                let ids = BoundedVec::truncated([odd]);
                (mark, Downstream::Accepted { ids, committed_through }, None)
            }
            (message, tensor) => (mark, message, tensor),
        };
        Some(HopOutput::Down { mark, message, tensor })
    }

    /// Another receipt of the same host.
    fn forge(&mut self, hop: u8, signed: &SignedBytes) -> SignedBytes {
        let receipt = signed.clone().verify::<Receipt>().unwrap().record().clone();
        let receipt = altered(receipt, self.rng.next_u32());
        Verified::sign(receipt, &key(hop)).unwrap().wire().clone()
    }

    /// Signs as the hop's host does; or lies, where it is told to.
    fn sign(&self, hop: u8, mut receipt: Receipt) -> SignedBytes {
        if self.lie == Some((hop, receipt.from)) {
            receipt.output = NO_RECEIPT;
        }
        Verified::sign(receipt, &key(hop)).unwrap().wire().clone()
    }

    /// Whether the receipts of an answer that ended well hold together.
    fn check_receipts(&self, prompt: &[u32]) -> Result<(), BrokenReceipts> {
        let hops = self.hops.len() as u8;
        let expected = |hop| Expected { host: host(hop), span: span(hop, hops), replaced: false };
        let expected: Vec<Expected> = (0..hops).map(expected).collect();
        let claim = Claim {
            session: SESSION,
            model: ModelId::of(b"ring"),
            numerics: Numerics::Echo,
            hops: &expected,
            prompt,
            answer: &self.tokens,
            late: self.origin.late(),
        };
        receipt::check(&claim, &self.origin.receipts())
    }

    /// Over the lane, or through the client where it is relayed.
    fn lane(&mut self, from: u8, lane: u8, event: Event) {
        if self.relayed.contains(&lane) {
            self.sequence += 1;
            let ticket = self.sequence;
            self.carried.insert(ticket, event);
            let message = ToClient::Forward(Forward { lane, generation: 2 });
            let frame = Bytes::copy_from_slice(&ticket.to_le_bytes());
            self.after(10, Event::ToClient(from, message, Some(frame)));
        } else {
            self.after(5, event);
        }
    }

    fn drain_origin(&mut self) {
        while let Some(output) = self.origin.poll_output() {
            assert!(self.outcome.is_none(), "nothing follows the end");
            match output {
                OriginOutput::ToHop { hop, message, frame } => {
                    let late =
                        matches!(message, ToHop::Close { .. }) && self.slow_close.contains(&hop);
                    self.after(if late { 50 } else { 10 }, Event::ToHop(hop, message, frame));
                }
                OriginOutput::Open
                | OriginOutput::Knock(_)
                | OriginOutput::Drop { .. }
                | OriginOutput::Lost { .. }
                | OriginOutput::Relink { .. }
                | OriginOutput::Seek { .. } => {}
                OriginOutput::Token(token) => {
                    self.tokens.push(token.id);
                    if self.consume {
                        self.after(1, Event::Consumed(self.tokens.len() as u32));
                    }
                }
                OriginOutput::Scored(row) => self.scored.push(row),
                OriginOutput::Ended(outcome) => self.outcome = Some(outcome),
            }
        }
    }
}

/// The lanes of a hop of a ring that begins.
fn lanes(hop: u8, hops: u8) -> Option<Lanes> {
    let lane = |number| LaneTerms { number, generation: 1, fresh: true };
    (hops > 1).then(|| Lanes { inward: lane((hop + hops - 1) % hops), out: lane(hop) })
}

const SESSION: SessionId = SessionId::from_bytes([9; 16]);

fn key(hop: u8) -> SigningKey {
    SigningKey::from_bytes(&[hop + 1; 32])
}

fn host(hop: u8) -> PeerId {
    PeerId::from_public_key(key(hop).verifying_key().to_bytes())
}

fn span(hop: u8, hops: u8) -> Span {
    Span::new(hop.into()..u32::from(hop) + 1, hops.into()).unwrap()
}

fn terms(hop: u8, hops: u8) -> ReceiptTerms {
    ReceiptTerms {
        host: host(hop),
        session: SESSION,
        model: ModelId::of(b"ring"),
        span: span(hop, hops),
        numerics: Numerics::Echo,
        upstream: hop.checked_sub(1).map(host),
    }
}

fn altered(mut receipt: Receipt, how: u32) -> Receipt {
    let other = Digest::of(&how.to_le_bytes());
    match how % 6 {
        0 => receipt.input = other,
        1 => receipt.output = other,
        2 => receipt.upstream = Some(other),
        3 => receipt.upstream = None,
        4 => receipt.until -= 1,
        _ => receipt.previous = other,
    }
    receipt
}

fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|id| id * 7 % 101).collect()
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_ring_of_any_size_gives_the_undisturbed_answer() {
    for hops in 1..=5 {
        for length in [1, 63, 64, 65, 700, 1500] {
            let prompt = prompt(length);
            let mut world = World::new(1, hops, &prompt, 100, None, false);
            world.run(MINUTE * 10);
            assert_eq!(world.outcome, Some(Ok(Finish::Length)), "{hops} hops, {length} ids");
            assert_eq!(world.tokens, undisturbed(&prompt, 100, None));
            assert_eq!(world.origin.forwarded(), 0, "the client is never in the lap");
            assert_eq!(world.check_receipts(&prompt), Ok(()), "{hops} hops, {length} ids");
            assert_eq!(world.ended.len(), usize::from(hops), "every hop has freed its KV");
        }
    }
}

#[test]
fn a_receipt_that_is_not_what_was_sent_is_disputed_by_the_next_hop() {
    let prompt = prompt(70);
    for hop in [0, 1] {
        let mut world = World::new(1, 3, &prompt, 40, None, false);
        world.lie = Some((hop, 32));
        world.run(MINUTE);
        let failure = HopFailure::Disputed { lane: hop, from: 32 };
        assert_eq!(world.outcome, Some(Err(Failure::HopFailed { hop: hop + 1, failure })));
    }
    let mut world = World::new(1, 3, &prompt, 40, None, false);
    world.lie = Some((2, 64));
    world.run(MINUTE);
    assert_eq!(world.outcome, Some(Ok(Finish::Length)), "nobody stands behind the tail");
    let flaw = Flaw::Output { from: 64 };
    assert_eq!(world.check_receipts(&prompt), Err(BrokenReceipts { hop: 2, flaw }));
}

#[test]
fn the_receipts_of_a_cancelled_answer_hold_whenever_it_is_cancelled() {
    let mut ahead = 0;
    for (hops, length) in [(1, 5), (3, 40), (3, 150), (4, 31)] {
        for cancel in 20..900 {
            let prompt = prompt(length);
            let mut world = World::new(cancel, hops, &prompt, 60, None, false);
            world.run(Duration::from_millis(cancel));
            world.origin_input(OriginInput::Cancel);
            world.run(MINUTE);
            assert!(matches!(world.outcome, Some(Ok(_))), "{hops} hops, {cancel} ms");
            if world.origin.is_told_all() {
                assert_eq!(world.check_receipts(&prompt), Ok(()), "{hops} hops, {cancel} ms");
                ahead += usize::from(!world.origin.late().is_empty());
            }
        }
    }
    assert!(ahead > 100, "{ahead}");
}

#[test]
fn an_end_id_ends_the_answer() {
    let prompt = prompt(10);
    let all = undisturbed(&prompt, 50, None);
    let mut world = World::new(2, 3, &prompt, 50, Some(all[20]), false);
    world.run(MINUTE);
    assert_eq!(world.outcome, Some(Ok(Finish::End)));
    assert_eq!(world.tokens, undisturbed(&prompt, 50, Some(all[20])));
}

#[test]
fn nobody_computes_past_the_credit_of_a_caller_who_does_not_read() {
    let mut world = World::new(3, 3, &prompt(10), 500, None, false);
    world.consume = false;
    world.run(Duration::from_secs(20));
    assert_eq!(world.tokens.len(), CREDIT as usize);
    assert_eq!(
        world.kv[0].len(),
        10 + CREDIT as usize - 1,
        "the last granted token is not computed"
    );
    assert_eq!(world.outcome, None);
}

#[test]
fn a_scoring_session_reports_every_position_once() {
    let prompt = prompt(200);
    let mut world = World::new(4, 3, &prompt, 0, None, true);
    world.run(MINUTE);
    assert_eq!(world.outcome, Some(Ok(Finish::Length)));
    assert_eq!(world.scored.len(), 200);
    assert_eq!(world.scored[99].top[0].0, next_token(&prompt[..100]));
}

#[test]
fn a_hop_that_accepts_after_its_neighbour_has_given_up_on_it_is_told_to_relay() {
    for late in 0..3 {
        for lane in 0..3 {
            let prompt = prompt(70);
            let mut world = World::new(4, 3, &prompt, 20, None, false);
            world.queue.retain(|_, event| !matches!(event, Event::Accepted(hop) if *hop == late));
            world.after(500, Event::Accepted(late));
            world.cut.insert(lane);
            world.run(MINUTE);
            assert_eq!(world.outcome, Some(Ok(Finish::Length)), "hop {late} late, lane {lane} cut");
            assert_eq!(world.tokens, undisturbed(&prompt, 20, None));
        }
    }
}

#[test]
fn neighbours_that_cannot_dial_go_through_the_client() {
    for lane in 0..3 {
        let prompt = prompt(100);
        let mut world = World::new(5, 3, &prompt, 20, None, false);
        world.cut.insert(lane);
        world.run(MINUTE);
        assert_eq!(world.outcome, Some(Ok(Finish::Length)), "lane {lane}");
        assert_eq!(world.tokens, undisturbed(&prompt, 20, None));
        assert!(world.origin.forwarded() > 0 && world.origin.is_relayed(lane));
    }
}

#[test]
fn a_killed_hop_ends_the_answer_with_its_name() {
    for (hop, notice) in [0, 1, 2].into_iter().flat_map(|hop| NOTICES.map(|notice| (hop, notice))) {
        let mut world = World::new(6, 3, &prompt(100), 200, None, false);
        world.notice = notice;
        world.after(700, Event::Kill(hop));
        world.run(MINUTE);
        assert_eq!(world.outcome, Some(Err(Failure::HopLost { hop })));
        assert!(world.now < Moment::default() + Duration::from_secs(1));
    }
}

/// Complaints that come before the news, and some of them about hops that ended of complaints.
const NOTICES: [[u64; 2]; 3] = [[1, 1], [1, 30], [30, 1]];

#[test]
fn a_hop_of_whose_death_only_neighbours_hear_is_named_by_them() {
    for (hop, notice) in [0, 1, 2].into_iter().flat_map(|hop| NOTICES.map(|notice| (hop, notice))) {
        let mut world = World::new(6, 3, &prompt(100), 200, None, false);
        (world.notice, world.news) = (notice, None);
        world.after(700, Event::Kill(hop));
        world.run(MINUTE);
        assert_eq!(world.outcome, Some(Err(Failure::HopLost { hop })), "{notice:?}");
        assert!(world.now < Moment::default() + Duration::from_secs(3));
    }
}

#[test]
fn a_frozen_hop_is_noticed_within_five_seconds() {
    for hop in 0..3 {
        let mut world = World::new(7, 3, &prompt(100), 5000, None, false);
        world.run(Duration::from_secs(1));
        world.frozen.insert(hop);
        world.run(MINUTE);
        assert_eq!(world.outcome, Some(Err(Failure::HopLost { hop })));
        assert!(world.now < Moment::default() + Duration::from_secs(6));
    }
}

#[test]
fn a_silent_client_frees_every_hop() {
    let mut world = World::new(8, 3, &prompt(100), 5000, None, false);
    world.run(Duration::from_secs(1));
    for hop in 0..3 {
        let at = world.now + Duration::from_secs(11);
        world.hops[hop].handle_timeout(at);
        assert!(world.hops[hop].is_done());
    }
}

#[test]
fn a_canceled_answer_frees_every_hop() {
    let mut world = World::new(9, 3, &prompt(100), 5000, None, false);
    world.run(Duration::from_secs(1));
    world.origin_input(OriginInput::Cancel);
    world.run(MINUTE);
    assert_eq!(world.outcome, Some(Ok(Finish::Cancelled)));
    assert_eq!(world.ended.len(), 3);
}

#[test]
fn a_frame_out_of_order_or_over_credit_ends_the_session() {
    let config = |hop| HopConfig {
        hop,
        hidden: HIDDEN,
        prompt_len: 600,
        positions: 700,
        prompt: Vec::new(),
        answer: Vec::new(),
        lanes: lanes(hop, 3),
        tail: None,
        receipts: None,
    };
    let step = |start: u32, count: u32, size: usize| HopInput::FromUpstream {
        mark: Mark { epoch: 0, step: start },
        message: Downstream::Step { count, committed_through: 0 },
        tensor: Some(Bytes::from(vec![0; size])),
    };
    for wrong in [step(1, 1, 4), step(0, 2, 4), step(0, 0, 0), step(0, 513, 513 * 4)] {
        let mut hop = Hop::new(Moment::default(), config(1));
        hop.handle(Moment::default(), wrong);
        assert!(hop.is_done());
    }
    let mut hop = Hop::new(Moment::default(), config(1));
    hop.handle(Moment::default(), step(0, 512, 512 * 4));
    assert!(!hop.is_done());
    hop.handle(Moment::default(), step(512, 1, 4));
    assert!(hop.is_done(), "beyond the permission");
}

/// The second of three hops, linked, in its initial epoch.
fn middle() -> Hop {
    let mut hop = Hop::new(
        Moment::default(),
        HopConfig {
            hop: 1,
            hidden: HIDDEN,
            prompt_len: 4,
            positions: 64,
            prompt: Vec::new(),
            answer: Vec::new(),
            lanes: lanes(1, 3),
            tail: None,
            receipts: Some(terms(1, 3)),
        },
    );
    hop.handle(Moment::default(), HopInput::LaneUp(End::In, 1));
    hop.handle(Moment::default(), HopInput::LaneUp(End::Out, 1));
    hop
}

fn step(epoch: u32, start: u32, count: u32, committed_through: u32) -> HopInput {
    HopInput::FromUpstream {
        mark: Mark { epoch, step: start },
        message: Downstream::Step { count, committed_through },
        tensor: Some(Bytes::from(vec![0; count as usize * 4])),
    }
}

#[test]
fn a_receipt_goes_behind_what_it_is_about() {
    let mut leader = Hop::new(
        Moment::default(),
        HopConfig {
            hop: 0,
            hidden: HIDDEN,
            prompt_len: 700,
            positions: 800,
            prompt: prompt(700),
            answer: Vec::new(),
            lanes: lanes(0, 3),
            tail: None,
            receipts: Some(terms(0, 3)),
        },
    );
    let now = Moment::default();
    leader.handle(now, HopInput::LaneUp(End::In, 1));
    leader.handle(now, HopInput::LaneUp(End::Out, 1));
    let (mut sent, mut signed) = (0, 0);
    while let Some(output) = leader.poll_output() {
        match output {
            HopOutput::Execute(job) => {
                let tensor = Bytes::from(vec![0; job.count as usize * 4]);
                let result = Ok(Executed::Hidden(tensor));
                leader.handle(now, HopInput::Executed { result, micros: 1 });
            }
            HopOutput::Sign(receipt) => {
                let wire = Verified::sign(*receipt, &key(0)).unwrap().wire().clone();
                leader.handle(now, HopInput::Signed(wire));
            }
            HopOutput::Down { mark, message: Downstream::Step { count, .. }, .. } => {
                sent = mark.step + count;
            }
            HopOutput::Down { mark, message: Downstream::Receipt(_), .. } => {
                assert!(mark.step <= sent);
                signed = mark.step;
            }
            _ => {}
        }
    }
    assert_eq!((sent, signed), (512, 512), "the next hop permits no more");
}

#[test]
fn a_higher_epoch_rolls_a_hop_back() {
    let (mut hop, now) = (middle(), Moment::default());
    hop.handle(now, step(0, 0, 4, 4));
    hop.handle(now, step(0, 4, 2, 4));
    hop.handle(now, step(1, 4, 1, 4));
    hop.handle(now, step(0, 6, 1, 4));
    let mut jobs = Vec::new();
    let mut sent = Vec::new();
    loop {
        match hop.poll_output() {
            Some(HopOutput::Execute(job)) => {
                let tensor = Bytes::from(vec![0; job.count as usize * 4]);
                jobs.push((job.start, job.count));
                let result = Ok(Executed::Hidden(tensor));
                hop.handle(now, HopInput::Executed { result, micros: 1 });
            }
            Some(HopOutput::Down { mark, message: Downstream::Step { count, .. }, .. }) => {
                sent.push((mark.step, count));
            }
            Some(_) => {}
            None => break,
        }
    }
    assert!(!hop.is_done());
    assert_eq!(jobs, [(0, 4), (4, 1)], "what was queued of the old epoch is dropped");
    assert_eq!(sent, [(0, 4), (4, 1)], "and the next hop has no gap");
}

#[test]
fn what_is_final_or_half_a_step_is_not_rolled_back() {
    let refused = |committed: u32, to: u32| {
        let (mut hop, now) = (middle(), Moment::default());
        hop.handle(now, step(0, 0, 4, 0));
        hop.handle(now, step(0, 4, 2, committed));
        hop.handle(now, step(1, to, 1, 0));
        let mut said = std::iter::from_fn(|| hop.poll_output());
        said.any(|output| {
            let gap = ToClient::Failed(HopFailure::BadFrame(Violation::Gap));
            matches!(output, HopOutput::ToClient(message) if message == gap)
        })
    };
    for (committed, to, expected) in
        [(0, 4, false), (4, 4, false), (5, 4, true), (6, 6, false), (0, 3, true), (0, 5, true)]
    {
        assert_eq!(refused(committed, to), expected, "final to {committed}, back to {to}");
    }
}

#[test]
fn every_hop_says_what_it_cost_though_its_neighbours_leave_first() {
    let mut world = World::new(5, 3, &[3, 4, 5], 6, None, false);
    // The tail hears of the end last.
    world.slow_close.insert(2);
    world.run(MINUTE);
    assert_eq!(world.outcome, Some(Ok(Finish::Length)));
    for stats in world.origin.stats() {
        assert_eq!((stats.prefill_positions, stats.decode_steps), (3, 5), "{stats:?}");
    }
}

#[test]
fn a_failed_execution_names_its_reason() {
    let mut hop = Hop::new(
        Moment::default(),
        HopConfig {
            hop: 0,
            hidden: HIDDEN,
            prompt_len: 1,
            positions: 8,
            prompt: vec![1],
            answer: Vec::new(),
            lanes: None,
            tail: Some(TailConfig::Generate { credit: 4, end_ids: Vec::new() }),
            receipts: None,
        },
    );
    let failure = HopFailure::NonFinite { position: 0, block: 3 };
    let result = Err(failure.clone());
    hop.handle(Moment::default(), HopInput::Executed { result, micros: 1 });
    let told = std::iter::from_fn(|| hop.poll_output())
        .any(|output| matches!(output, HopOutput::ToClient(ToClient::Failed(f)) if f == failure));
    assert!(told && hop.is_done());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn whatever_one_hop_says_no_other_is_convicted(
        seed in any::<u64>(),
        hops in 1_u8..5,
        liar in 0_u8..5,
        length in 1_u32..200,
        tokens in 1_u32..100,
        cancel in proptest::option::of(10_u64..1500),
    ) {
        let liar = liar % hops;
        let prompt = prompt(length);
        let mut world = World::new(seed, hops, &prompt, tokens, None, false);
        world.liar = Some(liar);
        if let Some(cancel) = cancel {
            world.run(Duration::from_millis(cancel));
            world.origin_input(OriginInput::Cancel);
        }
        world.run(MINUTE * 2);
        let before = |hop: usize| (hop + usize::from(hops) - 1) % usize::from(hops);
        match &world.outcome {
            Some(Ok(_)) if world.origin.is_told_all() => match world.check_receipts(&prompt) {
                Err(BrokenReceipts { hop, flaw: Flaw::Disagree { .. } }) => {
                    prop_assert!([before(hop), hop].contains(&usize::from(liar)));
                }
                Err(broken) => prop_assert_eq!(broken.hop, usize::from(liar), "{}", broken),
                Ok(()) => {}
            },
            Some(Err(Failure::Violation { hop })) => prop_assert_eq!(*hop, liar),
            Some(Err(Failure::HopFailed { hop, failure: HopFailure::Disputed { .. } })) => {
                let two = [before(usize::from(*hop)), usize::from(*hop)];
                prop_assert!(two.contains(&usize::from(liar)));
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_disturbance_ends_in_the_right_prefix_or_the_whole(
        seed in any::<u64>(),
        hops in 1_u8..6,
        length in 1_u32..300,
        tokens in 1_u32..120,
        kill in proptest::option::of((0_u8..6, 1_u64..3000)),
        cut in proptest::option::of(0_u8..6),
    ) {
        let prompt = prompt(length);
        let mut world = World::new(seed, hops, &prompt, tokens, None, false);
        if let Some((hop, at)) = kill {
            world.after(at, Event::Kill(hop % hops));
        }
        if hops > 1 {
            world.cut.extend(cut.map(|lane| lane % hops));
        }
        world.run(MINUTE * 5);
        let right = undisturbed(&prompt, tokens as usize, None);
        prop_assert!(right.starts_with(&world.tokens));
        match world.outcome {
            Some(Ok(Finish::Length)) => prop_assert_eq!(world.tokens, right),
            Some(Err(Failure::HopLost { .. } | Failure::HopFailed { .. })) => {
                prop_assert!(kill.is_some());
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

#[test]
fn a_reader_who_pauses_for_minutes_gets_the_rest() {
    let prompt = prompt(10);
    let tokens = CREDIT + 36;
    let mut world = World::new(3, 3, &prompt, tokens, None, false);
    world.consume = false;
    world.run(MINUTE * 3);
    let ahead = (world.tokens.len(), &world.outcome);
    assert_eq!(ahead, (CREDIT as usize, &None), "nobody is stalled");
    world.consume = true;
    world.after(0, Event::Consumed(CREDIT));
    world.run(MINUTE * 4);
    assert_eq!(world.outcome, Some(Ok(Finish::Length)));
    assert_eq!(world.tokens, undisturbed(&prompt, tokens as usize, None));
}

/// A client of so many hops, of which these have accepted.
fn client(hops: u8, accepted: &[u8]) -> Origin {
    let patience = Duration::from_secs(60);
    let config = OriginConfig { hops, prompt_len: 4, max_tokens: 9, score: false, patience };
    let mut origin = Origin::new(Moment::default(), config);
    while origin.poll_output().is_some() {}
    for hop in accepted {
        origin.handle(Moment::default(), OriginInput::Accepted { hop: *hop });
    }
    origin
}

fn hears(origin: &mut Origin, millis: u64, hop: u8, message: ToClient) -> Vec<OriginOutput> {
    let now = Moment::default() + Duration::from_millis(millis);
    origin.handle(now, OriginInput::FromHop { hop, message, frame: None });
    std::iter::from_fn(|| origin.poll_output()).collect()
}

/// A client whose session is open.
fn open(hops: u8) -> Origin {
    let all: Vec<u8> = (0..hops).collect();
    let mut origin = client(hops, &all);
    for lane in 0..hops {
        for hop in [lane, (lane + 1) % hops] {
            hears(&mut origin, 1, hop, ToClient::Linked { lane, generation: 1 });
        }
    }
    origin
}

fn outputs(origin: &mut Origin) -> Vec<OriginOutput> {
    std::iter::from_fn(|| origin.poll_output()).collect()
}

fn at(millis: u64) -> Moment {
    Moment::from_micros(millis * 1_000)
}

#[test]
fn a_lost_place_is_sought_taken_and_its_neighbours_are_told() {
    let mut origin = open(3);
    origin.handle(at(10), OriginInput::Lost { hop: 1 });
    let told = outputs(&mut origin);
    let lost = |o: &OriginOutput| {
        matches!(o, OriginOutput::Lost { failure: Failure::HopLost { hop: 1 }, .. })
    };
    assert!(told.iter().any(lost), "{told:?}");
    assert!(told.iter().any(|o| matches!(o, OriginOutput::Drop { hop: 1 })));
    assert!(
        matches!(told.last(), Some(OriginOutput::Seek { seek: 1, places }) if *places == (1..2))
    );
    // Two take its place.
    origin.handle(at(20), OriginInput::Found { seek: 1, hops: 2 });
    assert_eq!(origin.ring(), [0, 3, 4, 2]);
    let told = outputs(&mut origin);
    let lane = |lane, other, generation, fresh| LaneEnd { lane, other, generation, fresh };
    let knocks: Vec<_> = told
        .iter()
        .filter_map(|output| match output {
            OriginOutput::Knock(new) => Some((new.hop, new.place, new.inward?, new.out?)),
            _ => None,
        })
        .collect();
    let to = [lane(0, 3, 2, true), lane(3, 4, 3, true), lane(4, 2, 4, false)];
    let from = |end: LaneEnd, other| LaneEnd { other, ..end };
    assert_eq!(knocks, [(3, 1, from(to[0], 0), to[1]), (4, 2, from(to[1], 3), to[2])]);
    let relinks: Vec<_> = told
        .iter()
        .filter_map(|output| match output {
            OriginOutput::Relink { hop, lane } => Some((*hop, *lane)),
            _ => None,
        })
        .collect();
    assert_eq!(relinks, [(0, to[0]), (2, from(to[2], 4))]);
    // It goes on as soon as all stands; an older plan is not heard of.
    origin.handle(at(25), OriginInput::Found { seek: 1, hops: 1 });
    for hop in [3, 4] {
        origin.handle(at(30), OriginInput::Accepted { hop });
    }
    for (lane, generation, ends) in [(0, 2, [0, 3]), (3, 3, [3, 4]), (4, 4, [4, 2])] {
        assert!(!outputs(&mut origin).iter().any(|o| matches!(o, OriginOutput::Open)));
        for hop in ends {
            origin.handle(
                at(40),
                OriginInput::FromHop {
                    hop,
                    message: ToClient::Linked { lane, generation },
                    frame: None,
                },
            );
        }
    }
    assert!(outputs(&mut origin).iter().any(|o| matches!(o, OriginOutput::Open)));
}

#[test]
fn without_anybody_an_answer_waits_as_long_as_it_may_and_ends_with_its_loss() {
    let mut origin = open(3);
    origin.handle(at(10), OriginInput::Lost { hop: 2 });
    let (mut asked, mut outcome) = (0, None);
    let mut now = at(10);
    while outcome.is_none() {
        for output in outputs(&mut origin) {
            match output {
                OriginOutput::Seek { seek, .. } => {
                    asked += 1;
                    origin.handle(now, OriginInput::Nobody { seek });
                }
                OriginOutput::Ended(ended) => outcome = Some(ended),
                _ => {}
            }
        }
        for hop in 0..2 {
            let ack = ToClient::Ack { received: 4, kv_len: 4, stats: Default::default() };
            origin.handle(now, OriginInput::FromHop { hop, message: ack, frame: None });
        }
        if let Some(timeout) = origin.poll_timeout() {
            now = timeout;
            origin.handle_timeout(now);
        }
    }
    assert_eq!(outcome, Some(Err(Failure::HopLost { hop: 2 })));
    assert_eq!(now, at(60_010));
    assert!((25..40).contains(&asked), "{asked}");
}

#[test]
fn a_lane_that_carries_nothing_is_made_anew() {
    let mut origin = open(2);
    let ack = |kv_len, received| ToClient::Ack { received, kv_len, stats: Default::default() };
    hears(&mut origin, 100, 0, ack(4, 4));
    hears(&mut origin, 200, 1, ack(0, 0));
    let renewed = |outputs: &[OriginOutput]| {
        outputs.iter().any(|o| matches!(o, OriginOutput::Relink { lane, .. } if lane.lane == 0))
    };
    let mut now = at(200);
    while now < at(5_100) {
        now = origin.poll_timeout().unwrap();
        origin.handle_timeout(now);
        let told = outputs(&mut origin);
        assert_eq!(renewed(&told), now >= at(5_100), "{told:?}");
        for hop in [0, 1] {
            let said = if hop == 0 { ack(4, 4) } else { ack(0, 0) };
            origin.handle(now, OriginInput::FromHop { hop, message: said, frame: None });
        }
    }
}

#[test]
fn whoever_runs_out_of_kv_is_replaced_and_what_nobody_can_compute_ends_the_answer() {
    let failed = |failure| {
        let mut origin = open(3);
        hears(&mut origin, 10, 1, ToClient::Failed(failure))
    };
    assert!(
        matches!(failed(HopFailure::NoKv).last(), Some(OriginOutput::Seek { places, .. }) if *places == (1..2))
    );
    // Who sent it, or who got it: nobody knows.
    let disputed = failed(HopFailure::Disputed { lane: 0, from: 32 });
    assert!(
        matches!(disputed.last(), Some(OriginOutput::Seek { places, .. }) if *places == (0..2))
    );
    let unknown = failed(HopFailure::UnknownToken { id: 3 });
    assert!(matches!(unknown.last(), Some(OriginOutput::Ended(Err(_)))));
}

#[test]
fn a_loss_after_a_token_is_mended_though_not_all_lanes_were_reported() {
    let mut origin = client(3, &[0, 1, 2]);
    let token = Token { id: 7, logprob: None, top: BoundedVec::new() };
    let tokens = BoundedVec::truncated([token]);
    hears(&mut origin, 10, 2, ToClient::Verdict { index: 0, tokens, end: false });
    origin.handle(at(20), OriginInput::Lost { hop: 1 });
    assert!(matches!(outputs(&mut origin).last(), Some(OriginOutput::Seek { .. })));
    // Before the first token nothing is lost.
    let mut origin = client(3, &[0, 1, 2]);
    origin.handle(at(20), OriginInput::Lost { hop: 1 });
    let expected = Failure::HopLost { hop: 1 };
    let ended = outputs(&mut origin).pop();
    assert!(matches!(ended, Some(OriginOutput::Ended(Err(failure))) if failure == expected));
}

#[test]
fn a_host_that_leaves_serves_until_somebody_takes_its_place() {
    let mut origin = open(2);
    let told = hears(&mut origin, 10, 1, ToClient::Leaving);
    assert!(matches!(told[..], [OriginOutput::Seek { seek: 1, .. }]), "{told:?}");
    origin.handle(at(20), OriginInput::Nobody { seek: 1 });
    let token = Token { id: 7, logprob: None, top: BoundedVec::new() };
    let tokens = BoundedVec::truncated([token]);
    let told = hears(&mut origin, 30, 1, ToClient::Verdict { index: 0, tokens, end: false });
    assert!(matches!(told[..], [OriginOutput::Token(_)]), "{told:?}");
    origin.handle_timeout(at(270));
    assert!(matches!(outputs(&mut origin)[..], [OriginOutput::Seek { seek: 2, .. }]));
    origin.handle(at(280), OriginInput::Found { seek: 2, hops: 1 });
    assert_eq!(origin.ring(), [0, 2]);
}

#[test]
fn a_lane_whose_ends_are_both_there_is_made_anew() {
    let mut origin = open(2);
    for hop in [0, 1] {
        let failed = ToClient::LinkFailed { lane: 0, generation: 1 };
        assert!(hears(&mut origin, 10 + u64::from(hop), hop, failed).is_empty());
    }
    assert_eq!(origin.poll_timeout(), Some(at(510)));
    origin.handle_timeout(at(510));
    let told = outputs(&mut origin);
    let lane = |other| LaneEnd { lane: 0, other, generation: 2, fresh: false };
    let [OriginOutput::Relink { hop: 1, lane: a }, OriginOutput::Relink { hop: 0, lane: b }] =
        told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!((a, b), (lane(0), lane(1)));
}

#[test]
fn a_lane_is_relayed_once_both_ends_can_be_told() {
    let mut origin = client(2, &[0]);
    let failed = ToClient::LinkFailed { lane: 0, generation: 1 };
    assert!(hears(&mut origin, 10, 0, failed).is_empty(), "hop 1 could not hear it");
    origin.handle(Moment::default(), OriginInput::Accepted { hop: 1 });
    let told: Vec<_> = std::iter::from_fn(|| origin.poll_output())
        .map(|output| match output {
            OriginOutput::ToHop { hop, message: ToHop::Relay { lane, generation }, .. } => {
                (hop, lane, generation)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(1, 0, 2), (0, 0, 2)]);
}

//! Each rule of the judgement, and random sequences of inputs.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use taimatsu_peer::policy::{
    ANNOUNCE_EVERY, ANNOUNCEMENT_LIFE, ASK_PATIENCE, LOAD_COALESCE, LOOKUP_FRESH, LOOKUP_LOST,
    MAX_HOSTED, MAX_REPLAY, MAX_WAITING, RETRY_MS,
};
use taimatsu_peer::routing::{Part, PlanError, Wish};
use taimatsu_peer::session::Failure;
use taimatsu_peer::{
    AnswerEnd, AnswerReport, Ask, Config, Hosting, Ignored, Input, Load, Observed, OpeningSummary,
    Output, Peer, Privacy, RouteError,
};
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::control::{HopFailure, HopStats};
use taimatsu_protocol::opening::{Prekey, Refusal};
use taimatsu_protocol::receipt::{BrokenReceipts, Flaw};
use taimatsu_protocol::signed::Verified;
use taimatsu_protocol::{
    Announcement, ModelId, Moment, Numerics, PeerId, SessionId, Span, SwarmId, UnixSeconds,
};

const WALL: UnixSeconds = UnixSeconds(1_000_000);
const BLOCKS: u32 = 30;
const ME: u8 = 1;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn peer_id(seed: u8) -> PeerId {
    PeerId::from_public_key(key(seed).verifying_key().to_bytes())
}

fn model(number: u8) -> ModelId {
    ModelId::of(&[number])
}

fn span(text: &str) -> Span {
    Span::parse_inclusive(text, BLOCKS).unwrap()
}

fn prekey(id: u8) -> Prekey {
    Prekey { id: [id; 8], public: [id; 32], not_after: WALL.plus(3_600) }
}

fn announcement(host: u8, of: &str) -> Announcement {
    Announcement {
        host: peer_id(host),
        swarm: SwarmId::public(),
        model: model(0),
        blocks: BLOCKS,
        span: span(of),
        prekey: prekey(host),
        numerics: Numerics::Echo,
        decode_micros: 1_000,
        prefill_rate: 100,
        free_positions: 4_096,
        sessions: 0,
        leaving: false,
        rtts: BoundedVec::new(),
        sequence: 1,
        expires: WALL.plus(300),
    }
}

fn announced(host: u8, said: Announcement) -> Input {
    Input::Announced(Box::new(Verified::sign(said, &key(host)).unwrap()))
}

fn hosting(of: &str) -> Hosting {
    Hosting {
        model: model(0),
        blocks: BLOCKS,
        span: span(of),
        numerics: Numerics::Echo,
        context: 1_024,
        free_positions: 2_048,
    }
}

fn ask(id: u64) -> Input {
    Input::Ask(Ask {
        id,
        model: model(0),
        blocks: BLOCKS,
        wish: Wish::Any,
        positions: 256,
        privacy: Privacy::Anyone,
    })
}

fn opening(session: u8) -> OpeningSummary {
    OpeningSummary {
        id: 9,
        session: SessionId::from_bytes([session; 16]),
        hop: 0,
        model: model(0),
        span: span("0-9"),
        numerics: Numerics::Echo,
        positions: 100,
        prompt_len: 10,
        accepted_until: WALL.plus(600),
    }
}

/// A peer with its clocks.
struct Bench {
    peer: Peer,
    now: Moment,
    wall: UnixSeconds,
}

impl Bench {
    fn new() -> Self {
        let config = Config {
            me: peer_id(ME),
            swarm: SwarmId::public(),
            sequence: 5_000,
            max_sessions: 2,
            seed: 3,
        };
        Self { peer: Peer::new(config), now: Moment::default(), wall: WALL }
    }

    /// Hosts 0-9, has announced it, and nothing is left to say.
    fn hosting() -> Self {
        let mut bench = Self::new();
        bench.put(Input::Prekey(prekey(1)));
        bench.put(Input::Hosting(hosting("0-9")));
        bench
    }

    fn put(&mut self, input: Input) -> Vec<Output> {
        self.peer.handle(self.now, self.wall, input);
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.peer.poll_output()).collect()
    }

    /// Lets time pass; the outputs of each timeout on the way.
    fn pass(&mut self, duration: Duration) -> Vec<(Duration, Output)> {
        let (start, end) = (self.now, self.now + duration);
        let mut all = Vec::new();
        while let Some(at) = self.peer.poll_timeout().filter(|at| *at <= end) {
            assert!(at > self.now, "a timeout that does not move on");
            self.turn_to(at);
            self.peer.handle_timeout(self.now, self.wall);
            let outputs = self.outputs();
            all.extend(outputs.into_iter().map(|output| (at.since(start), output)));
        }
        self.turn_to(end);
        all
    }

    fn turn_to(&mut self, at: Moment) {
        self.now = at;
        self.wall = WALL.plus(at.since(Moment::default()).as_secs());
    }

    fn open(&mut self, opening: OpeningSummary) -> Result<Span, Refusal> {
        let mut outputs = self.put(Input::Opening(opening));
        outputs.retain(|output| !matches!(output, Output::Announce(_)));
        match <[Output; 1]>::try_from(outputs).unwrap() {
            [Output::Admit { id: 9, within }] => Ok(within),
            [Output::Refuse { id: 9, refusal }] => Err(refusal),
            other => panic!("{other:?}"),
        }
    }
}

fn said(outputs: &[Output]) -> Vec<&Announcement> {
    let announcements = outputs.iter().filter_map(|output| match output {
        Output::Announce(said) => Some(&**said),
        _ => None,
    });
    announcements.collect()
}

fn sign_own(announcement: &Announcement) -> Input {
    Input::Signed(Box::new(Verified::sign(announcement.clone(), &key(ME)).unwrap()))
}

/// The wall clock is an hour slow, or a day fast, of a sudden: what this node says is still dated by
/// it and newer than before, and others are believed as soon as they are in time again.
#[test]
fn a_wall_clock_that_jumps_costs_no_more_than_one_announcement() {
    for wall in [UnixSeconds(WALL.0 - 3_600), WALL.plus(86_400)] {
        let mut bench = Bench::new();
        bench.put(Input::Prekey(prekey(1)));
        let before = bench.put(Input::Hosting(hosting("0-9")));
        let before = said(&before)[0].clone();
        bench.put(sign_own(&before));
        bench.put(announced(2, announcement(2, "10-29")));
        bench.wall = wall;
        let mut after = None;
        let end = bench.now + ANNOUNCE_EVERY * 2;
        while let Some(at) = bench.peer.poll_timeout().filter(|at| *at <= end) {
            assert!(at > bench.now, "a timeout that does not move on");
            bench.now = at;
            bench.peer.handle_timeout(at, wall);
            after = said(&bench.outputs()).last().map(|said| (*said).clone()).or(after);
        }
        let after = after.expect("it announces again");
        assert!(after.sequence > before.sequence);
        assert_eq!(after.expires, wall.plus(ANNOUNCEMENT_LIFE));
        let ignored = bench.peer.ignored();
        let renewed =
            Announcement { sequence: 2, expires: wall.plus(300), ..announcement(2, "10-29") };
        bench.put(announced(2, renewed));
        assert_eq!(bench.peer.ignored(), ignored, "a host that is in time is believed");
    }
}

#[test]
fn announcements_that_are_not_for_us_are_counted_and_ignored() {
    let mut bench = Bench::new();
    let good = announcement(2, "0-9");
    bench.put(announced(2, good.clone()));
    bench.put(announced(2, good.clone()));
    bench.put(announced(2, Announcement { swarm: SwarmId::named("other"), ..good.clone() }));
    bench.put(announced(2, Announcement { expires: WALL, ..good.clone() }));
    bench.put(announced(2, Announcement { blocks: 5, ..good }));
    bench.put(announced(ME, announcement(ME, "0-9")));
    let expected =
        Ignored { other_swarm: 1, not_in_force: 1, own: 1, malformed: 1, stale: 1, full: 0 };
    assert_eq!((bench.peer.ignored(), bench.peer.table().len()), (expected, 1));
}

#[test]
fn a_hosted_span_is_announced_at_once_and_again() {
    let mut bench = Bench::new();
    assert_eq!(bench.put(Input::Hosting(hosting("0-9"))), vec![]);
    assert_eq!(bench.peer.poll_timeout(), None);
    bench.put(Input::Rtt { peer: peer_id(5), micros: 700 });
    let first = bench.put(Input::Prekey(prekey(1)));
    let first = said(&first)[0];
    assert_eq!((first.host, first.span, first.sequence), (peer_id(ME), span("0-9"), 5_000));
    assert_eq!(first.expires, WALL.plus(ANNOUNCEMENT_LIFE));
    assert_eq!((first.free_positions, first.sessions), (2_048, 0));
    assert_eq!(first.rtts[..], [(peer_id(5), 700)]);
    let later = bench.pass(ANNOUNCE_EVERY * 2);
    let sequences: Vec<_> = later
        .iter()
        .map(|(at, output)| (*at, said(std::slice::from_ref(output))[0].sequence))
        .collect();
    assert_eq!(sequences, vec![(ANNOUNCE_EVERY, 5_001), (ANNOUNCE_EVERY * 2, 5_002)]);
}

#[test]
fn changed_terms_are_said_at_once_and_changed_load_after_a_while() {
    let mut bench = Bench::hosting();
    assert_eq!(said(&bench.put(Input::Prekey(prekey(7))))[0].prekey, prekey(7));
    let load = Load {
        model: model(0),
        span: span("0-9"),
        free_positions: 1_000,
        decode_micros: 77,
        prefill_rate: 88,
    };
    assert_eq!(bench.put(Input::Load(load)), vec![]);
    let later = bench.pass(LOAD_COALESCE);
    assert_eq!(later.len(), 1);
    let (at, output) = &later[0];
    let new = said(std::slice::from_ref(output))[0];
    assert_eq!(*at, LOAD_COALESCE);
    assert_eq!((new.free_positions, new.decode_micros, new.prefill_rate), (1_000, 77, 88));
    assert_eq!(bench.put(Input::Load(load)), vec![]);
    assert_eq!(bench.pass(LOAD_COALESCE), vec![]);
}

#[test]
fn who_stops_hosting_says_that_it_leaves() {
    let mut bench = Bench::hosting();
    let outputs = bench.put(Input::Unhosting { model: model(0), span: span("0-9") });
    assert_eq!((said(&outputs)[0].leaving, said(&outputs)[0].sequence), (true, 5_001));
    assert_eq!(bench.peer.poll_timeout(), None);
    assert_eq!(bench.open(opening(1)), Err(Refusal::UnknownModel));
}

#[test]
fn who_drains_says_so_once_and_serves_nobody_new() {
    let mut bench = Bench::hosting();
    bench.open(opening(1)).unwrap();
    let outputs = bench.put(Input::Drain);
    assert!(said(&outputs)[0].leaving);
    assert_eq!(bench.put(Input::Drain), vec![]);
    assert_eq!(bench.open(opening(2)), Err(Refusal::Draining));
    assert_eq!(bench.put(Input::Hosting(hosting("10-19"))), vec![]);
    assert_eq!(bench.pass(ANNOUNCE_EVERY * 3), vec![]);
    assert!(bench.peer.is_draining() && bench.peer.sessions() == 1);
}

#[test]
fn what_we_announced_answers_queries_until_it_expires() {
    let mut bench = Bench::new();
    bench.put(Input::Prekey(prekey(1)));
    let first = bench.put(Input::Hosting(hosting("0-9")));
    let first = said(&first)[0].clone();
    bench.put(announced(2, announcement(2, "10-19")));
    assert_eq!(bench.peer.answer(None, bench.wall).len(), 1);
    bench.put(sign_own(&Announcement { sequence: 1, ..first.clone() }));
    assert_eq!(bench.peer.ignored().stale, 1);
    bench.put(sign_own(&first));
    assert_eq!(bench.peer.own_announcements(bench.wall).count(), 1);
    let answer = bench.peer.answer(Some(model(0)), bench.wall);
    let own = answer[0].clone().verify::<Announcement>().unwrap();
    assert_eq!((answer.len(), own.record()), (2, &first));
    assert!(bench.peer.answer(Some(model(1)), bench.wall).is_empty());
    assert_eq!(bench.peer.own_announcements(first.expires).count(), 0);
}

#[test]
fn an_ask_with_a_way_is_routed_at_once_and_refreshed_now_and_then() {
    let mut bench = Bench::new();
    bench.put(announced(2, announcement(2, "0-29")));
    let lookup = Output::Lookup { model: model(0) };
    let first = bench.put(ask(1));
    assert!(matches!(&first[0], Output::Routed { id: 1, chain } if chain.hops().len() == 1));
    assert_eq!((first.len(), &first[1]), (2, &lookup));
    assert_eq!(bench.put(ask(2)).len(), 1, "a lookup is under way");
    bench.put(Input::LookupDone { model: model(0) });
    assert_eq!(bench.put(ask(3)).len(), 1, "what was found is fresh");
    bench.pass(LOOKUP_FRESH);
    assert_eq!(bench.put(ask(4))[1], lookup);
    bench.pass(LOOKUP_LOST);
    assert_eq!(bench.put(ask(5))[1], lookup);
}

#[test]
fn an_ask_without_a_way_waits_for_one_lookup() {
    let mut bench = Bench::new();
    assert_eq!(bench.put(ask(1)), vec![Output::Lookup { model: model(0) }]);
    assert_eq!(bench.put(ask(2)), vec![]);
    bench.put(announced(2, announcement(2, "0-9")));
    bench.put(announced(3, announcement(3, "10-29")));
    assert_eq!(bench.put(Input::LookupDone { model: model(1) }), vec![]);
    let answers = bench.put(Input::LookupDone { model: model(0) });
    assert!(matches!(&answers[..], [Output::Routed { id: 1, .. }, Output::Routed { id: 2, .. }]));
    assert_eq!((bench.peer.waiting_asks(), bench.peer.poll_timeout()), (0, None));
}

#[test]
fn an_ask_waits_no_longer_than_its_patience() {
    let mut bench = Bench::new();
    bench.put(ask(1));
    let error = RouteError::Plan(PlanError::Uncovered { missing: vec![[0, 29]] });
    let expected = vec![(ASK_PATIENCE, Output::Unroutable { id: 1, error })];
    assert_eq!(bench.pass(ASK_PATIENCE * 3), expected);
    assert_eq!(bench.put(Input::LookupDone { model: model(0) }), vec![]);
}

#[test]
fn too_many_waiting_asks_are_answered_busy() {
    let mut bench = Bench::new();
    for id in 0..MAX_WAITING as u64 {
        bench.put(ask(id));
    }
    let busy = Output::Unroutable { id: 999, error: RouteError::Busy };
    assert_eq!(bench.put(ask(999)), vec![busy]);
    assert_eq!(bench.put(Input::LookupDone { model: model(0) }).len(), MAX_WAITING);
}

#[test]
fn a_host_that_failed_is_passed_over() {
    let mut bench = Bench::new();
    let fast = Announcement { decode_micros: 10, ..announcement(2, "0-29") };
    let slow = Announcement { decode_micros: 900_000, ..announcement(3, "0-29") };
    bench.put(announced(2, fast));
    bench.put(announced(3, slow));
    let leader = |outputs: &[Output]| match &outputs[0] {
        Output::Routed { chain, .. } => chain.hops()[0].peer,
        other => panic!("{other:?}"),
    };
    assert_eq!(leader(&bench.put(ask(1))), peer_id(2));
    bench.put(Input::HostFailed { host: peer_id(2) });
    assert_eq!(leader(&bench.put(ask(2))), peer_id(3));
    bench.pass(Duration::from_secs(31));
    assert_eq!(leader(&bench.put(ask(3))), peer_id(2));
}

#[test]
fn a_host_that_failed_is_taken_again_only_when_others_were_looked_for() {
    let mut bench = Bench::new();
    bench.put(announced(2, announcement(2, "0-29")));
    assert_eq!(bench.put(ask(1)).len(), 2, "a way, and a lookup");
    bench.put(Input::HostFailed { host: peer_id(2) });
    assert_eq!(bench.put(ask(2)), vec![]);
    bench.put(announced(3, announcement(3, "0-29")));
    let found = bench.put(Input::LookupDone { model: model(0) });
    assert!(matches!(&found[..], [Output::Routed { id: 2, chain }]
        if chain.hops()[0].peer == peer_id(3)));
    bench.put(Input::HostFailed { host: peer_id(3) });
    assert!(matches!(bench.put(ask(3))[..], [Output::Routed { id: 3, .. }]));
}

/// Others for these blocks, without these hosts.
fn mend(id: u64, blocks: std::ops::Range<u32>, without: &[u8]) -> Input {
    let Input::Ask(ask) = ask(id) else { unreachable!() };
    let without = without.iter().map(|host| peer_id(*host)).collect();
    Input::Mend { ask, part: Box::new(Part { blocks, without, numerics: Numerics::Echo }) }
}

#[test]
fn a_part_is_taken_by_whoever_has_it_or_more_and_is_not_excluded() {
    let mut bench = Bench::new();
    for (host, span) in [(2, "0-9"), (3, "10-19"), (4, "20-29"), (5, "10-14"), (6, "15-29")] {
        bench.put(announced(host, announcement(host, span)));
    }
    let taken = |outputs: &[Output]| -> Vec<(PeerId, [u32; 2])> {
        let hops = outputs.iter().find_map(|output| match output {
            Output::Mended { hops, .. } => Some(hops),
            _ => None,
        });
        hops.unwrap().iter().map(|hop| (hop.peer, hop.span.inclusive())).collect()
    };
    let one = bench.put(mend(1, 10..20, &[2, 4]));
    assert_eq!(taken(&one), [(peer_id(3), [10, 19])]);
    let two = bench.put(mend(2, 10..20, &[2, 3, 4]));
    assert_eq!(taken(&two), [(peer_id(5), [10, 14]), (peer_id(6), [15, 19])]);
    // Nobody: the swarm is asked once more before that is said.
    bench.put(mend(3, 10..20, &[3, 5]));
    let found = bench.put(Input::LookupDone { model: model(0) });
    assert!(found.iter().any(|output| matches!(
        output,
        Output::Unroutable { id: 3, error: RouteError::Plan(PlanError::Uncovered { missing }) }
            if missing[..] == [[10, 14]]
    )));
}

#[test]
fn a_host_that_was_seen_to_be_slow_is_not_believed() {
    let mut bench = Bench::new();
    bench.put(announced(2, Announcement { decode_micros: 1, ..announcement(2, "0-29") }));
    bench.put(announced(3, Announcement { decode_micros: 50_000, ..announcement(3, "0-29") }));
    let Output::Routed { chain, .. } = bench.put(ask(1)).remove(0) else { panic!("a way") };
    assert_eq!(chain.hops()[0].peer, peer_id(2));
    let stats = HopStats { decode_steps: 10, decode_micros: 10, ..HopStats::default() };
    let lap = Some(Duration::from_millis(400));
    let seen = Observed::of(model(0), chain.hops(), [stats], lap).unwrap();
    bench.put(Input::Observed(Box::new(seen)));
    let Output::Routed { chain, .. } = bench.put(ask(2)).remove(0) else { panic!("a way") };
    assert_eq!(chain.hops()[0].peer, peer_id(3));
    assert_eq!(Observed::of(model(0), chain.hops(), [HopStats::default()], lap), None);
}

#[test]
fn an_opening_is_checked_against_what_is_hosted() {
    let mut bench = Bench::hosting();
    let good = opening(1);
    let refused = |bench: &mut Bench, opening| bench.open(opening).unwrap_err();
    let other = OpeningSummary { model: model(1), ..good };
    assert_eq!(refused(&mut bench, other), Refusal::UnknownModel);
    let wide = OpeningSummary { span: span("0-10"), ..good };
    assert_eq!(refused(&mut bench, wide), Refusal::WrongSpan(span("0-9")));
    let candle = OpeningSummary { numerics: Numerics::K1, ..good };
    assert_eq!(refused(&mut bench, candle), Refusal::Numerics(Numerics::Echo));
    let long = OpeningSummary { positions: 1_025, ..good };
    assert_eq!(refused(&mut bench, long), Refusal::TooLong { limit: 1_024 });
    let senseless = OpeningSummary { prompt_len: 101, ..good };
    assert_eq!(refused(&mut bench, senseless), Refusal::Unreadable);
    let late = OpeningSummary { accepted_until: WALL, ..good };
    assert_eq!(refused(&mut bench, late), Refusal::Unreadable);
    assert_eq!((bench.peer.sessions(), bench.peer.remembered_sessions()), (0, 0));
    let part = OpeningSummary { span: span("5-9"), ..good };
    assert_eq!(bench.open(part), Ok(span("0-9")));
}

#[test]
fn a_session_is_served_once() {
    let mut bench = Bench::hosting();
    let first = opening(1);
    bench.open(first).unwrap();
    assert_eq!(bench.open(first), Err(Refusal::Replayed));
    bench.put(Input::SessionEnded { session: first.session });
    assert_eq!((bench.peer.sessions(), bench.open(first)), (0, Err(Refusal::Replayed)));
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.open(first), Err(Refusal::Unreadable), "its prekey is gone");
}

#[test]
fn sessions_and_kv_are_bounded_and_given_back() {
    let mut bench = Bench::hosting();
    bench.open(OpeningSummary { positions: 1_024, ..opening(1) }).unwrap();
    bench.put(Input::Load(Load {
        model: model(0),
        span: span("0-9"),
        free_positions: 1_000,
        decode_micros: 0,
        prefill_rate: 0,
    }));
    let large = OpeningSummary { positions: 1_001, ..opening(2) };
    assert_eq!(bench.open(large), Err(Refusal::NoKv { free: 1_000 }));
    bench.open(opening(3)).unwrap();
    assert_eq!(bench.open(opening(4)), Err(Refusal::Busy { retry_ms: RETRY_MS }));
    bench.put(Input::SessionEnded { session: opening(1).session });
    let rest = OpeningSummary { positions: 1_024, ..opening(5) };
    bench.open(rest).unwrap();
    bench.put(Input::SessionEnded { session: opening(3).session });
    let more = OpeningSummary { positions: 1_001, ..opening(6) };
    assert_eq!(bench.open(more), Err(Refusal::NoKv { free: 1_000 }));
}

#[test]
fn a_full_replay_table_refuses_until_prekeys_expire() {
    let mut bench = Bench::hosting();
    let numbered = |number: u32| {
        let mut session = [0; 16];
        session[..4].copy_from_slice(&number.to_le_bytes());
        OpeningSummary { session: SessionId::from_bytes(session), ..opening(0) }
    };
    for number in 0..MAX_REPLAY as u32 {
        let opening = numbered(number);
        bench.peer.handle(bench.now, bench.wall, Input::Opening(opening));
        let session = opening.session;
        bench.peer.handle(bench.now, bench.wall, Input::SessionEnded { session });
        assert_eq!(bench.outputs(), vec![Output::Admit { id: 9, within: span("0-9") }]);
    }
    let next = numbered(MAX_REPLAY as u32);
    assert_eq!(bench.open(next), Err(Refusal::Busy { retry_ms: RETRY_MS }));
    assert_eq!(bench.open(numbered(0)), Err(Refusal::Replayed));
    bench.pass(Duration::from_secs(600));
    let later = OpeningSummary { accepted_until: WALL.plus(1_200), ..next };
    assert_eq!(bench.open(later), Ok(span("0-9")));
    assert_eq!(bench.peer.remembered_sessions(), 1);
}

#[test]
fn hosted_spans_are_bounded_and_well_formed() {
    let mut bench = Bench::hosting();
    for first in 0..MAX_HOSTED as u32 {
        let span = Span::new(first..first + 1, BLOCKS).unwrap();
        bench.put(Input::Hosting(Hosting { span, ..hosting("0-9") }));
    }
    assert_eq!((bench.peer.hosting().count(), bench.peer.ignored().full), (MAX_HOSTED, 1));
    bench.put(Input::Hosting(Hosting { blocks: 5, ..hosting("0-9") }));
    assert_eq!(bench.peer.ignored().malformed, 1);
}

#[derive(Debug, Clone)]
enum Step {
    Put(Box<Input>),
    Pass(u64),
}

fn any_span() -> impl Strategy<Value = Span> {
    prop_oneof![Just("0-9"), Just("10-19"), Just("20-29"), Just("0-29"), Just("5-19")]
        .prop_map(span)
}

fn any_model() -> impl Strategy<Value = ModelId> {
    (0_u8..2).prop_map(model)
}

fn any_announcement() -> impl Strategy<Value = Input> {
    (1_u8..5, any_model(), any_span(), 0_u32..600, 0_u64..8, 0_u64..3_000).prop_map(
        |(host, model, span, free_positions, sequence, life)| {
            let expires = WALL.plus(life);
            let base = announcement(host, "0-9");
            announced(host, Announcement { model, span, free_positions, sequence, expires, ..base })
        },
    )
}

fn any_opening() -> impl Strategy<Value = Input> {
    (0_u8..12, any_model(), any_span(), 0_u32..1_200, 0_u64..2_000).prop_map(
        |(session, model, span, positions, until)| {
            let accepted_until = WALL.plus(until);
            let base = opening(session);
            Input::Opening(OpeningSummary { model, span, positions, accepted_until, ..base })
        },
    )
}

fn any_input() -> impl Strategy<Value = Input> {
    let wish = prop_oneof![Just(Wish::Any), Just(Wish::Whole), Just(Wish::Chain)];
    let load = (any_model(), any_span(), any::<u32>(), any::<u32>()).prop_map(
        |(model, span, free_positions, decode_micros)| {
            Input::Load(Load { model, span, free_positions, decode_micros, prefill_rate: 1 })
        },
    );
    let hosts = (any_model(), any_span(), 0_u32..3_000).prop_map(|(model, span, free)| {
        Input::Hosting(Hosting { model, span, free_positions: free, ..hosting("0-9") })
    });
    prop_oneof![
        6 => any_announcement(),
        2 => hosts,
        1 => (any_model(), any_span()).prop_map(|(model, span)| Input::Unhosting { model, span }),
        2 => load,
        1 => (0_u8..6, any::<u32>())
            .prop_map(|(peer, micros)| Input::Rtt { peer: peer_id(peer), micros }),
        1 => any::<u8>().prop_map(|id| Input::Prekey(prekey(id))),
        6 => (any_model(), 0_u32..40, wish, any::<u32>()).prop_map(
            |(model, blocks, wish, positions)| {
                Input::Ask(Ask { id: 0, model, blocks, wish, positions, privacy: Privacy::Anyone })
            }
        ),
        1 => (0_u8..6).prop_map(|host| Input::HostFailed { host: peer_id(host) }),
        2 => any_answer(),
        1 => prop::collection::btree_set((0_u8..6).prop_map(peer_id), 0..3).prop_map(Input::Trust),
        3 => any_model().prop_map(|model| Input::LookupDone { model }),
        5 => any_opening(),
        3 => (0_u8..12).prop_map(|session| {
            Input::SessionEnded { session: SessionId::from_bytes([session; 16]) }
        }),
        1 => Just(Input::Drain),
    ]
}

/// Of hosts and hops that need not be there.
fn any_answer() -> impl Strategy<Value = Input> {
    let hop = 0_u8..4;
    let end = prop_oneof![
        Just(AnswerEnd::Well { receipts: Some(Ok(())) }),
        (0_usize..4, any::<bool>()).prop_map(|(hop, apart)| {
            let flaw = if apart { Flaw::Disagree { from: 0 } } else { Flaw::Output { from: 0 } };
            AnswerEnd::Well { receipts: Some(Err(BrokenReceipts { hop, flaw })) }
        }),
        hop.clone().prop_map(|hop| AnswerEnd::Failed(Failure::Violation { hop })),
        (hop, 0_u8..4).prop_map(|(hop, lane)| {
            let failure = HopFailure::Disputed { lane, from: 0 };
            AnswerEnd::Failed(Failure::HopFailed { hop, failure })
        }),
    ];
    (prop::collection::vec(0_u8..6, 0..4), end).prop_map(|(hosts, end)| answered(&hosts, end))
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any_input().prop_map(|input| Step::Put(Box::new(input))),
        1 => (0_u64..200_000).prop_map(Step::Pass),
    ]
}

fn answered(hosts: &[u8], end: AnswerEnd) -> Input {
    let hosts = hosts.iter().map(|host| peer_id(*host)).collect();
    Input::Answered(AnswerReport { model: model(0), hosts, end })
}

#[test]
fn an_answer_leaves_its_mark_and_a_restart_keeps_it() {
    let mut bench = Bench::new();
    let well = AnswerEnd::Well { receipts: Some(Ok(())) };
    let kept = bench.put(answered(&[2, 3], well));
    assert_eq!(kept.len(), 4, "each in time, each receipted");
    let failure = Failure::HopLost { hop: 1 };
    let mut kept: BTreeMap<PeerId, Output> = BTreeMap::new();
    for output in bench.put(answered(&[2, 3], AnswerEnd::Failed(failure))) {
        let Output::Remember { peer, .. } = &output else { panic!("{output:?}") };
        kept.insert(*peer, output);
    }
    assert_eq!(kept.keys().collect::<Vec<_>>(), [&peer_id(3)], "whoever was lost");
    let before = bench.peer.reputation().standing(&peer_id(3), &model(0)).cloned();
    let mut restarted = Bench::new();
    for output in kept.into_values() {
        let Output::Remember { peer, model, standing } = output else { unreachable!() };
        restarted.put(Input::Remembered { peer, model, standing });
    }
    let after = restarted.peer.reputation().standing(&peer_id(3), &model(0)).cloned();
    assert_eq!((before.is_some(), after), (true, before));
}

#[test]
fn broken_receipts_are_their_hops_and_send_work_elsewhere() {
    let mut bench = Bench::new();
    for host in [2, 3] {
        bench.put(announced(host, announcement(host, "0-29")));
    }
    let flaw = Flaw::Output { from: 0 };
    let receipts = Some(Err(BrokenReceipts { hop: 0, flaw }));
    bench.put(answered(&[2], AnswerEnd::Well { receipts }));
    for id in 0..20 {
        let outputs = bench.put(ask(id));
        let routed = outputs.iter().find_map(|output| match output {
            Output::Routed { chain, .. } => Some(chain.hops()[0].peer),
            _ => None,
        });
        assert_eq!(routed, Some(peer_id(3)));
    }
}

#[test]
fn who_says_different_things_is_not_convicted_and_kept_apart() {
    // Before the leader stands the tail.
    for (hop, apart) in [(1, [2, 3]), (0, [2, 3])] {
        let mut bench = Bench::new();
        for (host, of) in [(2, "0-9"), (3, "10-29"), (4, "10-29")] {
            let said = announcement(host, of);
            // The nearest by far, were it not for the quarrel.
            let decode_micros = if host == 4 { 50_000 } else { 1_000 };
            bench.put(announced(host, Announcement { decode_micros, ..said }));
        }
        let routed = |bench: &mut Bench, id| {
            let outputs = bench.put(ask(id));
            let chain = outputs.iter().find_map(|output| match output {
                Output::Routed { chain, .. } => Some(chain.clone()),
                _ => None,
            });
            chain.unwrap().hops()[1].peer
        };
        assert_eq!(routed(&mut bench, 1), peer_id(3));
        let receipts = Some(Err(BrokenReceipts { hop, flaw: Flaw::Disagree { from: 32 } }));
        for output in bench.put(answered(&apart, AnswerEnd::Well { receipts })) {
            let Output::Remember { standing, .. } = output else { panic!("{output:?}") };
            assert!(!standing.has_fault(WALL));
        }
        assert_eq!(routed(&mut bench, 2), peer_id(4));
    }
}

#[test]
fn a_private_ask_goes_to_named_hosts_alone() {
    let mut bench = Bench::new();
    for host in [2, 3] {
        bench.put(announced(host, announcement(host, "0-29")));
    }
    let private = |id| {
        let Input::Ask(ask) = ask(id) else { unreachable!() };
        Input::Ask(Ask { privacy: Privacy::Trusted, ..ask })
    };
    bench.put(private(1));
    let answer = bench.put(Input::LookupDone { model: model(0) });
    let missing = vec![[0, 29]];
    let error = RouteError::Plan(PlanError::Uncovered { missing });
    assert_eq!(answer, [Output::Unroutable { id: 1, error }]);
    bench.put(Input::Trust([peer_id(3)].into()));
    for id in 2..20 {
        let outputs = bench.put(private(id));
        assert!(outputs.iter().any(|output| matches!(
            output,
            Output::Routed { chain, .. } if chain.hops()[0].peer == peer_id(3)
        )));
    }
}

/// What random inputs must never break.
#[derive(Default)]
struct Ledger {
    asked: BTreeMap<u64, u32>,
    opened: BTreeMap<u64, u32>,
    admitted: usize,
    hosted: BTreeSet<(ModelId, [u32; 2])>,
    last_sequence: Option<u64>,
}

impl Ledger {
    fn note(&mut self, output: &Output) {
        match output {
            Output::Routed { id, .. }
            | Output::Mended { id, .. }
            | Output::Unroutable { id, .. } => {
                *self.asked.get_mut(id).expect("an answer to nothing") += 1;
            }
            Output::Admit { id, .. } | Output::Refuse { id, .. } => {
                self.admitted += usize::from(matches!(output, Output::Admit { .. }));
                *self.opened.get_mut(id).expect("a verdict on nothing") += 1;
            }
            Output::Announce(said) => {
                assert!(self.last_sequence < Some(said.sequence));
                self.last_sequence = Some(said.sequence);
                assert!(Verified::sign((**said).clone(), &key(ME)).is_ok());
            }
            Output::Lookup { .. } | Output::Remember { .. } | Output::Forget { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_each_ask_and_opening_is_answered_once(
        steps in prop::collection::vec(any_step(), 0..120),
    ) {
        let mut bench = Bench::new();
        let mut ledger = Ledger::default();
        for (number, step) in steps.into_iter().enumerate() {
            let id = number as u64;
            match step {
                Step::Pass(millis) => {
                    for (_, output) in bench.pass(Duration::from_millis(millis)) {
                        ledger.note(&output);
                    }
                }
                Step::Put(mut input) => {
                    match &mut *input {
                        Input::Ask(ask) => {
                            ask.id = id;
                            ledger.asked.insert(id, 0);
                        }
                        Input::Opening(opening) => {
                            opening.id = id;
                            ledger.opened.insert(id, 0);
                        }
                        Input::Hosting(Hosting { model, span, .. }) => {
                            ledger.hosted.insert((*model, span.inclusive()));
                        }
                        Input::Unhosting { model, span } => {
                            ledger.hosted.remove(&(*model, span.inclusive()));
                        }
                        _ => {}
                    }
                    let opens = matches!(*input, Input::Opening(_));
                    for output in bench.put(*input) {
                        ledger.note(&output);
                    }
                    prop_assert!(!opens || ledger.opened[&id] == 1);
                }
            }
            prop_assert!(bench.peer.sessions() <= 2);
            let unanswered = ledger.asked.values().filter(|answers| **answers == 0).count();
            prop_assert_eq!(bench.peer.waiting_asks(), unanswered);
            prop_assert_eq!(bench.peer.hosting().count(), ledger.hosted.len());
            prop_assert!(bench.peer.remembered_sessions() <= ledger.admitted);
        }
        for (_, output) in bench.pass(ASK_PATIENCE) {
            ledger.note(&output);
        }
        prop_assert!(ledger.asked.values().all(|answers| *answers == 1), "{:?}", ledger.asked);
        prop_assert!(ledger.opened.values().all(|verdicts| *verdicts == 1));
    }
}

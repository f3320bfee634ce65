//! Plans over small tables, against brute force and one by one.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::opening::Prekey;
use taimatsu_protocol::signed::Verified;
use taimatsu_protocol::{
    Announcement, ModelId, Moment, Numerics, PeerId, Span, SwarmId, UnixSeconds,
};
use taimatsu_routing::{
    Chain, HostTable, Inserted, Outlook, PlanError, Request, Wish, plan, policy,
};

const WALL: UnixSeconds = UnixSeconds(1_000_000);

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn peer(seed: u8) -> PeerId {
    PeerId::from_public_key(key(seed).verifying_key().to_bytes())
}

fn model() -> ModelId {
    ModelId::of(b"a model")
}

fn announcement(host: u8, span: Span, blocks: u32) -> Announcement {
    Announcement {
        host: peer(host),
        swarm: SwarmId::public(),
        model: model(),
        blocks,
        span,
        prekey: Prekey { id: [host; 8], public: [host; 32], not_after: WALL.plus(3_600) },
        numerics: Numerics::Echo,
        decode_micros: 1_000 * span.blocks().len() as u32,
        prefill_rate: 100,
        free_positions: 4_096,
        sessions: 0,
        leaving: false,
        rtts: BoundedVec::new(),
        sequence: 1,
        expires: WALL.plus(300),
    }
}

fn sign(announcement: Announcement, host: u8) -> Verified<Announcement> {
    Verified::sign(announcement, &key(host)).unwrap()
}

fn table_with(hosts: &[(u8, &str)], change: impl Fn(u8, &mut Announcement)) -> HostTable {
    let mut table = HostTable::new();
    for (host, span) in hosts {
        let mut said = announcement(*host, Span::parse_inclusive(span, 30).unwrap(), 30);
        change(*host, &mut said);
        assert_eq!(table.insert(sign(said, *host), WALL), Inserted::New);
    }
    table
}

fn table(hosts: &[(u8, &str)]) -> HostTable {
    table_with(hosts, |_, _| {})
}

fn request(wish: Wish) -> Request {
    Request { model: model(), blocks: 30, wish, positions: 256, me: peer(200), seed: 7 }
}

fn route(table: &HostTable, wish: Wish) -> Result<Vec<PeerId>, PlanError> {
    plan(table, &request(wish), &Outlook::default(), Moment::default()).map(|chain| peers(&chain))
}

fn peers(chain: &Chain) -> Vec<PeerId> {
    chain.hops().iter().map(|hop| hop.peer).collect()
}

#[test]
fn the_fewest_hops_win_unless_they_are_too_slow() {
    let hosts = [(1, "0-29"), (2, "0-14"), (3, "15-29")];
    assert_eq!(route(&table(&hosts), Wish::Any), Ok(vec![peer(1)]));
    let slow = |micros| {
        table_with(&hosts, move |host, said| {
            if host == 1 {
                said.decode_micros = micros;
            }
        })
    };
    // Two hops: 2 * (75 ms + 15 ms) = 180 ms, so one may take 225 ms, 75 of them on the way.
    assert_eq!(route(&slow(149_000), Wish::Any), Ok(vec![peer(1)]));
    assert_eq!(route(&slow(151_000), Wish::Any), Ok(vec![peer(2), peer(3)]));
}

#[test]
fn a_wish_is_kept() {
    let both = table(&[(1, "0-29"), (2, "0-14"), (3, "15-29")]);
    assert_eq!(route(&both, Wish::Whole), Ok(vec![peer(1)]));
    assert_eq!(route(&both, Wish::Chain), Ok(vec![peer(2), peer(3)]));
    assert_eq!(route(&table(&[(1, "0-29")]), Wish::Chain), Err(PlanError::NoSuchRoute));
    let parts = table(&[(2, "0-14"), (3, "15-29")]);
    assert_eq!(route(&parts, Wish::Whole), Err(PlanError::NoSuchRoute));
}

#[test]
fn what_is_missing_is_named() {
    let uncovered = |missing| Err(PlanError::Uncovered { missing });
    assert_eq!(route(&HostTable::new(), Wish::Any), uncovered(vec![[0, 29]]));
    let gaps = table(&[(1, "3-5"), (2, "4-9"), (3, "20-28")]);
    assert_eq!(route(&gaps, Wish::Any), uncovered(vec![[0, 2], [10, 19], [29, 29]]));
    let now = Moment::default();
    assert_eq!(gaps.coverage(model(), 30, now), vec![[0, 2], [10, 19], [29, 29]]);
    let mut gaps = gaps;
    gaps.suspend(peer(3), Moment::from_micros(1));
    assert_eq!(gaps.coverage(model(), 30, now), vec![[0, 2], [10, 29]]);
    assert_eq!(gaps.coverage(model(), 30, Moment::from_micros(1))[1], [10, 19]);
    let text = route(&gaps, Wish::Any).unwrap_err().to_string();
    assert!(text.starts_with("no host for blocks 0-2, 10-19, 29-29"), "{text}");
}

#[test]
fn neither_the_asker_nor_another_models_size_is_a_host() {
    let own = table(&[(200, "0-29")]);
    assert_eq!(route(&own, Wish::Any), Err(PlanError::Uncovered { missing: vec![[0, 29]] }));
    let mut liar = HostTable::new();
    let said = announcement(1, Span::whole(31).unwrap(), 31);
    assert_eq!(liar.insert(sign(said, 1), WALL), Inserted::New);
    assert_eq!(route(&liar, Wish::Any), Err(PlanError::Uncovered { missing: vec![[0, 29]] }));
}

#[test]
fn arithmetics_are_not_mixed() {
    let mixed = table_with(&[(1, "0-14"), (2, "15-29")], |host, said| {
        if host == 2 {
            said.numerics = Numerics::K1;
        }
    });
    assert_eq!(route(&mixed, Wish::Any), Err(PlanError::NoSuchRoute));
}

#[test]
fn a_host_is_never_in_a_chain_twice() {
    let alone = table(&[(1, "0-9"), (2, "10-19"), (1, "20-29")]);
    assert_eq!(route(&alone, Wish::Any), Err(PlanError::NoSuchRoute));
    // Host 1 is the faster one at both ends, and still has to leave one of them to another.
    let with_help = [(1, "0-9"), (2, "10-19"), (1, "20-29"), (3, "0-9"), (4, "20-29")];
    let fast = table_with(&with_help, |host, said| {
        said.decode_micros = if host == 1 { 10 } else { 10_000 };
    });
    let distinct: BTreeSet<_> = route(&fast, Wish::Any).unwrap().into_iter().collect();
    assert_eq!(distinct.len(), 3);
    assert!(distinct.contains(&peer(1)));
}

#[test]
fn a_host_that_leaves_is_none() {
    let table = table_with(&[(1, "0-29"), (2, "0-14")], |host, said| said.leaving = host == 1);
    let missing = vec![[15, 29]];
    assert_eq!(route(&table, Wish::Any), Err(PlanError::Uncovered { missing: missing.clone() }));
    assert_eq!(table.coverage(model(), 30, Moment::default()), missing);
}

#[test]
fn a_host_that_has_answered_or_begun_anew_is_passed_over_no_more() {
    let mut table = table(&[(1, "0-29")]);
    let until = Moment::from_micros(9);
    let is_suspended = |table: &HostTable| table.is_suspended(&peer(1), Moment::default());
    table.suspend(peer(1), until);
    table.unsuspend(&peer(1));
    assert!(!is_suspended(&table));
    table.suspend(peer(1), until);
    let said = announcement(1, Span::parse_inclusive("0-29", 30).unwrap(), 30);
    let same = Announcement { sequence: 2, ..said.clone() };
    assert_eq!(table.insert(sign(same, 1), WALL), Inserted::Newer);
    assert!(is_suspended(&table), "it is the one that failed");
    let prekey = Prekey { id: [9; 8], ..said.prekey };
    let anew = Announcement { sequence: 3, prekey, ..said };
    assert_eq!(table.insert(sign(anew, 1), WALL), Inserted::Newer);
    assert!(!is_suspended(&table));
}

#[test]
fn a_suspended_host_is_the_last_resort() {
    let mut table = table_with(&[(1, "0-29"), (2, "0-29")], |host, said| {
        said.decode_micros = if host == 1 { 100 } else { 900_000 };
    });
    assert_eq!(route(&table, Wish::Any), Ok(vec![peer(1)]));
    let until = Moment::default() + policy::SUSPENSION;
    table.suspend(peer(1), until);
    assert_eq!(route(&table, Wish::Any), Ok(vec![peer(2)]));
    table.suspend(peer(2), until);
    assert_eq!(route(&table, Wish::Any), Ok(vec![peer(1)]));
    table.suspend(peer(2), until + Duration::from_secs(9));
    let later = until + Duration::from_secs(1);
    table.expire(later, WALL);
    assert!(!table.is_suspended(&peer(1), later) && table.is_suspended(&peer(2), later));
}

#[test]
fn spans_are_used_as_announced_and_entered_midway_only_where_they_must() {
    let exact = table(&[(1, "0-14"), (2, "10-29"), (3, "15-29")]);
    assert_eq!(route(&exact, Wish::Any), Ok(vec![peer(1), peer(3)]));
    let overlapping = table(&[(1, "0-14"), (2, "10-29")]);
    let chain =
        plan(&overlapping, &request(Wish::Any), &Outlook::default(), Moment::default()).unwrap();
    assert_eq!(chain.hops()[1].span, Span::parse_inclusive("15-29", 30).unwrap());
}

#[test]
fn full_hosts_are_left_out_and_short_ones_are_dear() {
    let free = |first: u32, second: u32| {
        table_with(&[(1, "0-29"), (2, "0-29")], move |host, said| {
            (said.free_positions, said.decode_micros) =
                if host == 1 { (first, 100) } else { (second, 900_000) };
        })
    };
    assert_eq!(route(&free(300, 300), Wish::Any), Ok(vec![peer(1)]));
    assert_eq!(route(&free(200, 300), Wish::Any), Ok(vec![peer(2)]));
    assert_eq!(route(&free(200, 0), Wish::Any), Ok(vec![peer(1)]));
    assert_eq!(route(&free(0, 0), Wish::Any), Err(PlanError::NoCapacity));
}

#[test]
fn queues_and_distance_count() {
    let queued = table_with(&[(1, "0-29"), (2, "0-29")], |host, said| {
        said.sessions = if host == 1 { 3 } else { 2 };
    });
    assert_eq!(route(&queued, Wish::Any), Ok(vec![peer(2)]));
    for near in [1, 2] {
        let mut measured = table(&[(1, "0-29"), (2, "0-29")]);
        measured.measured(peer(near), 900);
        assert_eq!(route(&measured, Wish::Any), Ok(vec![peer(near)]));
        let neighbours = table_with(&[(9, "0-14"), (1, "15-29"), (2, "15-29")], |host, said| {
            if host == 9 {
                said.rtts = BoundedVec::truncated([(peer(near), 2_000)]);
            }
        });
        assert_eq!(route(&neighbours, Wish::Any), Ok(vec![peer(9), peer(near)]));
    }
}

#[test]
fn equal_hosts_are_spread_over_askers() {
    let equal = table(&[(1, "0-14"), (2, "0-14"), (3, "15-29"), (4, "15-29")]);
    let chosen: BTreeSet<_> = (0..64)
        .map(|seed| {
            plan(
                &equal,
                &Request { seed, ..request(Wish::Any) },
                &Outlook::default(),
                Moment::default(),
            )
        })
        .map(|chain| peers(&chain.unwrap()))
        .collect();
    assert_eq!(chosen.len(), 4);
}

#[test]
fn higher_sequences_win_and_expired_ones_go() {
    let mut table = table(&[(1, "0-29")]);
    let said = announcement(1, Span::whole(30).unwrap(), 30);
    assert_eq!(table.insert(sign(said.clone(), 1), WALL), Inserted::Stale);
    let newer = Announcement { sequence: 2, free_positions: 9, ..said.clone() };
    assert_eq!(table.insert(sign(newer.clone(), 1), WALL), Inserted::Newer);
    assert_eq!(table.hosts(model()).next(), Some(&newer));
    assert_eq!(table.insert(sign(said.clone(), 1), WALL), Inserted::Stale);
    let too_long = Announcement { sequence: 3, expires: WALL.plus(721), ..said.clone() };
    assert_eq!(table.insert(sign(too_long, 1), WALL), Inserted::NotInForce);
    let odd = Announcement { sequence: 3, blocks: 40, ..said.clone() };
    assert_eq!(table.insert(sign(odd, 1), WALL), Inserted::Malformed);
    let (span, blocks) = (Span::whole(4_097).unwrap(), 4_097);
    let huge = Announcement { sequence: 3, span, blocks, ..said };
    assert_eq!(table.insert(sign(huge, 1), WALL), Inserted::Malformed);
    table.expire(Moment::default(), WALL.plus(299));
    assert_eq!((table.len(), table.all(None).len()), (1, 1));
    table.expire(Moment::default(), WALL.plus(300));
    assert!(table.is_empty() && table.models().next().is_none());
}

#[test]
fn a_full_table_drops_what_expires_first() {
    let mut table = HostTable::new();
    let said = |index: u32, life: u64| {
        let span = Span::new(index..index + 1, 1_000).unwrap();
        let said = announcement(1, span, 1_000);
        sign(Announcement { expires: WALL.plus(life), ..said }, 1)
    };
    for index in 0..policy::MAX_PER_HOST as u32 {
        assert_eq!(table.insert(said(index, 100 + u64::from(index)), WALL), Inserted::New);
    }
    assert_eq!(table.insert(said(500, 90), WALL), Inserted::Full);
    assert_eq!(table.insert(said(501, 200), WALL), Inserted::New);
    assert_eq!(table.len(), policy::MAX_PER_HOST);
    assert!(table.hosts(model()).all(|held| held.span.blocks().start != 0));
}

#[test]
fn a_table_of_many_hosts_is_bounded_and_still_searched() {
    let mut table = HostTable::new();
    let bounds = [0_u32, 10, 20, 30];
    for host in 0..(policy::MAX_PER_MODEL + 60) {
        let mut seed = [9_u8; 32];
        seed[..8].copy_from_slice(&(host as u64).to_le_bytes());
        let key = SigningKey::from_bytes(&seed);
        let part = host % 3;
        let said = Announcement {
            host: PeerId::from_public_key(key.verifying_key().to_bytes()),
            expires: WALL.plus(100 + host as u64 / 3),
            ..announcement(1, Span::new(bounds[part]..bounds[part + 1], 30).unwrap(), 30)
        };
        table.insert(Verified::sign(said, &key).unwrap(), WALL);
    }
    assert_eq!(table.len(), policy::MAX_PER_MODEL);
    assert_eq!(table.all(Some(model())).len(), policy::MAX_ANSWERED);
    assert_eq!(route(&table, Wish::Any).unwrap().len(), 3);
}

#[test]
fn suspensions_and_distances_are_bounded() {
    let mut table = HostTable::new();
    let numbered = |number: u32| {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        PeerId::from_public_key(bytes)
    };
    let last = policy::MAX_REMEMBERED as u32;
    for number in 0..=last {
        table.suspend(numbered(number), Moment::from_micros(u64::from(number) + 1));
        table.measured(numbered(number), number);
    }
    assert!(!table.is_suspended(&numbered(0), Moment::default()));
    assert!(table.is_suspended(&numbered(1), Moment::default()));
    let nearest = table.nearest();
    assert_eq!(nearest.len(), policy::MAX_REMEMBERED);
    assert!(nearest[0] == (numbered(0), 0) && nearest.iter().all(|(_, rtt)| *rtt < last));
}

#[derive(Debug, Clone)]
struct Small {
    host: u8,
    first: u32,
    end: u32,
    numerics: Numerics,
    free: u32,
    micros: u32,
}

const SMALL: u32 = 5;

fn small_host() -> impl Strategy<Value = Small> {
    let span = (0..SMALL).prop_flat_map(|first| (Just(first), first + 1..=SMALL));
    let numerics = prop_oneof![4 => Just(Numerics::Echo), 1 => Just(Numerics::K1)];
    let free = prop_oneof![1 => Just(0_u32), 2 => Just(100), 4 => Just(4_096)];
    (1_u8..6, span, numerics, free, 0_u32..400_000).prop_map(
        |(host, (first, end), numerics, free, micros)| Small {
            host,
            first,
            end,
            numerics,
            free,
            micros,
        },
    )
}

/// Whether some hosts, each once, lead from `from` to the end as wished.
fn feasible(hosts: &[Small], from: u32, used: &mut Vec<u8>, wish: Wish, room: bool) -> bool {
    if from == SMALL {
        return match wish {
            Wish::Any => true,
            Wish::Whole => used.len() == 1,
            Wish::Chain => used.len() >= 2,
        };
    }
    for host in hosts {
        let fits = host.first <= from && from < host.end && !used.contains(&host.host);
        if !fits || (room && host.free == 0) {
            continue;
        }
        used.push(host.host);
        let works = feasible(hosts, host.end, used, wish, room);
        used.pop();
        if works {
            return true;
        }
    }
    false
}

fn feasible_in_some_arithmetic(hosts: &[Small], wish: Wish, room: bool) -> bool {
    [Numerics::Echo, Numerics::K1].into_iter().any(|numerics| {
        let alike = hosts.iter().filter(|host| host.numerics == numerics);
        let alike: Vec<_> = alike.cloned().collect();
        feasible(&alike, 0, &mut Vec::new(), wish, room)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn plans_are_exact_and_agree_with_brute_force(
        hosts in prop::collection::vec(small_host(), 0..9),
        suspended in prop::collection::vec(1_u8..6, 0..3),
        wish in prop_oneof![Just(Wish::Any), Just(Wish::Whole), Just(Wish::Chain)],
        seed in any::<u64>(),
    ) {
        let mut table = HostTable::new();
        let mut held: Vec<Small> = Vec::new();
        for small in hosts {
            let span = Span::new(small.first..small.end, SMALL).unwrap();
            let said = Announcement {
                numerics: small.numerics,
                free_positions: small.free,
                decode_micros: small.micros,
                ..announcement(small.host, span, SMALL)
            };
            if table.insert(sign(said, small.host), WALL) == Inserted::New {
                held.push(small);
            }
        }
        for host in suspended {
            table.suspend(peer(host), Moment::from_micros(1));
        }
        let request = Request { blocks: SMALL, seed, ..request(wish) };
        let planned = plan(&table, &request, &Outlook::default(), Moment::default());
        prop_assert_eq!(&planned, &plan(&table, &request, &Outlook::default(), Moment::default()));
        let covered = |block: u32| held.iter().any(|h| h.first <= block && block < h.end);
        match planned {
            Ok(chain) => {
                let hops = chain.hops().to_vec();
                prop_assert!(Chain::new(SMALL, chain.numerics(), hops.clone()).is_ok());
                prop_assert!(wish != Wish::Whole || hops.len() == 1);
                prop_assert!(wish != Wish::Chain || hops.len() >= 2);
                for hop in hops {
                    let blocks = hop.span.blocks();
                    prop_assert!(held.iter().any(|h| peer(h.host) == hop.peer
                        && h.numerics == chain.numerics()
                        && h.free > 0
                        && h.first <= blocks.start
                        && h.end == blocks.end));
                }
            }
            Err(PlanError::Uncovered { missing }) => {
                for block in 0..SMALL {
                    let named = missing.iter().any(|[a, b]| (*a..=*b).contains(&block));
                    prop_assert_eq!(named, !covered(block));
                }
                prop_assert!(!missing.is_empty());
            }
            Err(PlanError::NoCapacity) => {
                prop_assert!(!feasible_in_some_arithmetic(&held, wish, true));
                prop_assert!(feasible_in_some_arithmetic(&held, wish, false));
            }
            Err(PlanError::NoSuchRoute) => {
                prop_assert!((0..SMALL).all(covered));
                prop_assert!(!feasible_in_some_arithmetic(&held, wish, false));
            }
        }
    }
}

#[test]
fn poor_odds_and_distrust_lead_to_others() {
    let two = table(&[(1, "0-29"), (2, "0-29")]);
    let chosen = |outlook: &Outlook| {
        let chosen = (0..50).map(|seed| {
            let request = Request { seed, ..request(Wish::Any) };
            plan(&two, &request, outlook, Moment::default()).unwrap().hops()[0].peer
        });
        chosen.collect::<BTreeSet<_>>()
    };
    assert_eq!(chosen(&Outlook::default()).len(), 2);
    let mut poor = Outlook::default();
    poor.expect(peer(1), 500);
    assert_eq!(chosen(&poor), BTreeSet::from([peer(2)]));
    let mut distrusted = Outlook::default();
    distrusted.distrust(peer(2));
    assert_eq!(chosen(&distrusted), BTreeSet::from([peer(1)]));
    let alone = table(&[(2, "0-29")]);
    assert!(plan(&alone, &request(Wish::Any), &distrusted, Moment::default()).is_ok());
}

#[test]
fn who_disagreed_is_not_put_together_again() {
    let mut spread = table(&[(1, "0-14"), (2, "15-29"), (3, "15-29")]);
    let now = Moment::default();
    spread.keep_apart(peer(2), peer(1), Moment::from_micros(10));
    for seed in 0..50 {
        let request = Request { seed, ..request(Wish::Any) };
        let chain = plan(&spread, &request, &Outlook::default(), now).unwrap();
        assert_eq!(chain.hops()[1].peer, peer(3));
    }
    let both = |seed| {
        let request = Request { seed, ..request(Wish::Any) };
        plan(&spread, &request, &Outlook::default(), Moment::from_micros(10)).unwrap().hops()[1]
            .peer
    };
    assert_eq!((0..50).map(both).collect::<BTreeSet<_>>().len(), 2);
}

#[test]
fn who_may_not_see_a_request_is_no_host() {
    let mixed = table(&[(1, "0-29"), (2, "0-14"), (3, "15-29")]);
    let mut only = Outlook::default();
    only.restrict(BTreeSet::from([peer(2), peer(3)]));
    for seed in 0..20 {
        let request = Request { seed, ..request(Wish::Any) };
        let chain = plan(&mixed, &request, &only, Moment::default()).unwrap();
        assert_eq!(peers(&chain), [peer(2), peer(3)]);
    }
    only.restrict(BTreeSet::from([peer(2)]));
    let missing = vec![[15, 29]];
    let planned = plan(&mixed, &request(Wish::Any), &only, Moment::default());
    assert_eq!(planned, Err(PlanError::Uncovered { missing }));
}

//! Ten thousand sessions come and go, are rolled back, forked and cancelled, in batches of any company:
//! each is as if alone, and nothing of them stays.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/chains.rs"]
mod support;

use std::collections::BTreeMap;

use support::{Chain, Model};
use taimatsu_executor::{ExecutorError, Input, KvId, LayerExecutor, Output, Want, Work};

const SESSIONS: usize = 10_000;

/// Positions of KV for all.
const ROOM: u32 = 240;

/// The longest session.
const LONGEST: u64 = 90;

/// Numbers without pattern (Knuth's MMIX).
struct Luck(u64);

impl Luck {
    fn below(&mut self, most: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// A session, and what it will compute.
struct Session {
    ids: Vec<u32>,
    /// Where a step ends that goes through the blocks one by one.
    begun: Option<usize>,
    /// Logits of its last position, where they were asked for.
    last: Option<(usize, Vec<u32>)>,
}

#[test]
fn ten_thousand_sessions_leave_nothing() {
    let model = Model::tiny("llama-2blk.f16.gguf");
    let Chain { mut hops } = model.chain(&[], 2, ROOM);
    let (mut executor, first) = hops.remove(0);
    executor.close(first);
    let mut alone = model.chain(&[], 1, 128);
    let (span, mut luck) = (executor.span(), Luck(5));
    let mut live: BTreeMap<KvId, Session> = BTreeMap::new();
    let (mut opened, mut forked, mut refused, mut compared) = (0, 0, 0, 0);
    let mut closed: Vec<KvId> = Vec::new();
    while opened < SESSIONS || !live.is_empty() {
        if opened < SESSIONS && luck.below(2) == 0 {
            let length = 1 + luck.below(LONGEST);
            match executor.open(length as u32, span) {
                Ok(kv) => {
                    let ids = (0..length).map(|_| luck.below(500) as u32).collect();
                    live.insert(kv, Session { ids, begun: None, last: None });
                    opened += 1;
                }
                Err(ExecutorError::NoKv { free, .. }) => {
                    assert!(u64::from(free) < length);
                    refused += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
        let mut ended = Vec::new();
        let mut works = Vec::new();
        let mut forks = Vec::new();
        for (kv, session) in &mut live {
            let done = executor.kv_len(*kv).unwrap() as usize;
            match luck.below(12) {
                0 => ended.push(*kv),
                1 => {
                    executor.truncate(*kv, luck.below(done as u64 + 1) as u32).unwrap();
                    session.begun = None;
                }
                2 => forks.push((*kv, luck.below(done as u64 + 1) as usize)),
                _ if session.begun.is_some() => {}
                3..=4 => {}
                _ if done == session.ids.len() => ended.push(*kv),
                _ => {
                    let count = 1 + luck.below((session.ids.len() - done).min(9) as u64) as usize;
                    works.push((*kv, done, count));
                }
            }
        }
        let work = |(kv, done, count): &(KvId, usize, usize)| Work {
            kv: *kv,
            start: *done as u32,
            input: Input::Tokens(&live[kv].ids[*done..done + count]),
            want: Want::LastLogits,
        };
        let (slow, works): (Vec<_>, Vec<_>) = works.into_iter().partition(|_| luck.below(4) == 0);
        let batch: Vec<Work<'_>> = works.iter().map(work).collect();
        let mut answers: Vec<_> = works
            .iter()
            .map(|(kv, done, count)| (*kv, done + count))
            .zip(executor.step(&batch))
            .collect();
        slow.iter().for_each(|slow| executor.begin(&work(slow)).unwrap());
        for (kv, done, count) in slow {
            live.get_mut(&kv).unwrap().begun = Some(done + count);
        }
        for (kv, session) in &mut live {
            let Some(end) = session.begun else { continue };
            if let Some(answer) = executor.proceed(*kv) {
                session.begun = None;
                answers.push(((*kv, end), answer));
            }
        }
        for ((kv, end), answer) in answers {
            let Ok(Output::Logits(logits)) = answer else { panic!("logits") };
            let bits = logits.into_iter().map(f32::to_bits).collect();
            live.get_mut(&kv).unwrap().last = Some((end, bits));
        }
        for (kv, len) in forks {
            let ids: Vec<u32> = live[&kv].ids[..len].to_vec();
            let more = 1 + luck.below(LONGEST.saturating_sub(len as u64).max(1));
            let positions = len as u32 + more as u32;
            if opened < SESSIONS
                && (len as u64) < LONGEST
                && let Ok(fork) = executor.fork(kv, len as u32, positions)
            {
                let ids =
                    ids.into_iter().chain((0..more).map(|_| luck.below(500) as u32)).collect();
                live.insert(fork, Session { ids, begun: None, last: None });
                opened += 1;
                forked += 1;
            }
        }
        for kv in ended {
            let session = live.remove(&kv).unwrap();
            executor.close(kv);
            closed.push(kv);
            if let Some((at, bits)) = session.last.filter(|_| closed.len().is_multiple_of(20)) {
                let expected = alone.bits(&session.ids[..at], 512, Want::LastLogits);
                assert!(bits == expected, "session {}", kv.0);
                compared += 1;
            }
        }
    }
    assert_eq!(executor.free_positions(), ROOM);
    assert!(closed.iter().all(|kv| executor.kv_len(*kv).is_none()));
    assert!(refused > 100 && compared > 300, "{refused} refused, {compared} compared");
    assert!(forked > 300, "{forked} forked");
}

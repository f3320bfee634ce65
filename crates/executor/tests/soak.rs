//! Ten thousand sessions come and go, are rolled back, forked and cancelled, in batches of any company:
//! each is as if alone, and nothing of them stays.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/chains.rs"]
mod support;

use std::collections::BTreeMap;

use support::{Chain, Model};
use taimatsu_executor::{
    CpuExecutor, ExecutorError, Input, KvId, LayerExecutor, Output, Want, Work,
};

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

/// Sessions that are open, and what became of the others.
struct Crowd {
    executor: CpuExecutor,
    luck: Luck,
    live: BTreeMap<KvId, Session>,
    opened: usize,
    forked: usize,
    refused: usize,
}

/// A step of a session: how many positions behind which.
type Step = (KvId, usize, usize);

impl Crowd {
    fn ids(&mut self, count: u64) -> Vec<u32> {
        (0..count).map(|_| self.luck.below(500) as u32).collect()
    }

    fn open(&mut self) {
        let length = 1 + self.luck.below(LONGEST);
        match self.executor.open(length as u32, self.executor.span()) {
            Ok(kv) => {
                let ids = self.ids(length);
                self.live.insert(kv, Session { ids, begun: None, last: None });
                self.opened += 1;
            }
            Err(ExecutorError::NoKv { free, .. }) => {
                assert!(u64::from(free) < length);
                self.refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// A session goes on as another from a position of its own, where there is room.
    fn fork(&mut self, kv: KvId, len: usize) {
        let more = 1 + self.luck.below(LONGEST.saturating_sub(len as u64).max(1));
        let positions = len as u32 + more as u32;
        let fits = self.opened < SESSIONS && (len as u64) < LONGEST;
        if fits && let Ok(fork) = self.executor.fork(kv, len as u32, positions) {
            let mut ids = self.live[&kv].ids[..len].to_vec();
            ids.extend(self.ids(more));
            self.live.insert(fork, Session { ids, begun: None, last: None });
            self.opened += 1;
            self.forked += 1;
        }
    }

    /// What happens to each: it ends, is rolled back, forks, rests, or takes a step.
    fn moves(&mut self) -> (Vec<KvId>, Vec<(KvId, usize)>, Vec<Step>) {
        let (mut ended, mut forks, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        for (kv, session) in &mut self.live {
            let done = self.executor.kv_len(*kv).unwrap() as usize;
            match self.luck.below(12) {
                0 => ended.push(*kv),
                1 => {
                    let len = self.luck.below(done as u64 + 1) as u32;
                    self.executor.truncate(*kv, len).unwrap();
                    if session.begun.take().is_some() {
                        let given_up = Some(Err(ExecutorError::NotBegun(kv.0)));
                        assert_eq!(self.executor.proceed(*kv), given_up);
                    }
                }
                2 => forks.push((*kv, self.luck.below(done as u64 + 1) as usize)),
                3..=4 => {}
                _ if session.begun.is_some() => {}
                _ if done == session.ids.len() => ended.push(*kv),
                _ => {
                    let most = (session.ids.len() - done).min(9) as u64;
                    steps.push((*kv, done, 1 + self.luck.below(most) as usize));
                }
            }
        }
        (ended, forks, steps)
    }

    /// Takes the steps, some at once and some block by block, and those that were begun further.
    fn advance(&mut self, steps: Vec<Step>) {
        let live = &self.live;
        let work = |(kv, done, count): &Step| Work {
            kv: *kv,
            start: *done as u32,
            input: Input::Tokens(&live[kv].ids[*done..done + count]),
            want: Want::LastLogits,
        };
        let (slow, at_once): (Vec<_>, Vec<_>) =
            steps.into_iter().partition(|_| self.luck.below(4) == 0);
        let batch: Vec<Work<'_>> = at_once.iter().map(work).collect();
        let outputs = self.executor.step(&batch);
        let mut answers: Vec<(KvId, usize, _)> = at_once
            .into_iter()
            .zip(outputs)
            .map(|((kv, done, count), output)| (kv, done + count, output))
            .collect();
        slow.iter().for_each(|slow| self.executor.begin(&work(slow)).unwrap());
        for (kv, done, count) in slow {
            self.live.get_mut(&kv).unwrap().begun = Some(done + count);
        }
        for (kv, session) in &mut self.live {
            if let Some(end) = session.begun
                && let Some(output) = self.executor.proceed(*kv)
            {
                session.begun = None;
                answers.push((*kv, end, output));
            }
        }
        for (kv, end, output) in answers {
            let Ok(Output::Logits(logits)) = output else { panic!("logits") };
            let bits = logits.into_iter().map(f32::to_bits).collect();
            self.live.get_mut(&kv).unwrap().last = Some((end, bits));
        }
    }
}

#[test]
fn ten_thousand_sessions_leave_nothing() {
    let model = Model::tiny("llama-2blk.f16.gguf");
    let Chain { mut hops } = model.chain(&[], 2, ROOM);
    let (mut executor, first) = hops.remove(0);
    executor.close(first);
    let mut alone = model.chain(&[], 1, 128);
    let (live, luck) = (BTreeMap::new(), Luck(5));
    let mut crowd = Crowd { executor, luck, live, opened: 0, forked: 0, refused: 0 };
    let mut compared = 0;
    let mut closed: Vec<KvId> = Vec::new();
    while crowd.opened < SESSIONS || !crowd.live.is_empty() {
        if crowd.opened < SESSIONS && crowd.luck.below(2) == 0 {
            crowd.open();
        }
        let (ended, forks, steps) = crowd.moves();
        crowd.advance(steps);
        forks.into_iter().for_each(|(kv, len)| crowd.fork(kv, len));
        for kv in ended {
            let session = crowd.live.remove(&kv).unwrap();
            crowd.executor.close(kv);
            closed.push(kv);
            if let Some((at, bits)) = session.last.filter(|_| closed.len().is_multiple_of(20)) {
                let expected = alone.bits(&session.ids[..at], 512, Want::LastLogits);
                assert!(bits == expected, "session {}", kv.0);
                compared += 1;
            }
        }
    }
    let Crowd { executor, forked, refused, .. } = crowd;
    assert_eq!(executor.free_positions(), ROOM);
    assert!(closed.iter().all(|kv| executor.kv_len(*kv).is_none()));
    assert!(refused > 100 && compared > 300, "{refused} refused, {compared} compared");
    assert!(forked > 300, "{forked} forked");
}

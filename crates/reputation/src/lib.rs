//! What a node has seen of its peers becomes two scores per peer and model.
//!
//! *Available*: was its part there in time. *Correct*: did it keep the protocol, are its receipts
//! whole. They are kept apart, each as a Beta distribution that forgets. Only this node's own
//! evidence counts here; nothing that others say does, and no audit is made yet.
//!
//! Routing gets one number per host from it, its [`odds`](Reputation::odds): a draw from what is
//! known of its availability, so that newcomers are tried sometimes, and less where faults were
//! seen. Time is an argument, the generator too; equal calls give equal scores.
//!
//! ```
//! use taimatsu_protocol::{ModelId, PeerId, UnixSeconds};
//! use taimatsu_reputation::{Evidence, Fault, Reputation};
//!
//! let mut reputation = Reputation::new();
//! let (peer, model) = (PeerId::from_public_key([1; 32]), ModelId::of(b"m"));
//! let now = UnixSeconds(1_000);
//! reputation.add(now, peer, model, Evidence::InTime);
//! assert!(!reputation.is_distrusted(now, &peer, &model));
//! reputation.add(now, peer, model, Evidence::Fault(Fault::Receipts));
//! assert!(reputation.is_distrusted(now, &peer, &model));
//! ```

mod beta;
pub mod policy;
mod standing;

use std::collections::{BTreeMap, VecDeque};

use rand_core::Rng;
use taimatsu_protocol::{ModelId, PeerId, UnixSeconds};

pub use beta::Beta;
pub use standing::{Evidence, Fault, Miss, Reason, Standing};

use policy::{DISTRUST, MOST_STANDINGS, NEWCOMER, SHARED_MISS, TOGETHER};

/// Everybody's standing with this node.
#[derive(Debug, Clone, Default)]
pub struct Reputation {
    standings: BTreeMap<(PeerId, ModelId), Standing>,
    /// Who missed when, of late.
    misses: VecDeque<(UnixSeconds, PeerId)>,
}

impl Reputation {
    /// A node that has seen nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what an earlier run remembered; who is forgotten for it.
    pub fn restore(
        &mut self,
        peer: PeerId,
        model: ModelId,
        standing: Standing,
    ) -> Option<(PeerId, ModelId)> {
        let gone = self.make_room(standing.updated(), (peer, model));
        self.standings.insert((peer, model), standing);
        gone
    }

    /// Takes evidence in; what to remember of the peer now, and who is forgotten for it.
    pub fn add(
        &mut self,
        now: UnixSeconds,
        peer: PeerId,
        model: ModelId,
        evidence: Evidence,
    ) -> (&Standing, Option<(PeerId, ModelId)>) {
        let worth = match evidence {
            Evidence::Missed(_) => self.worth_of_miss(now, peer),
            _ => 1.0,
        };
        let gone = self.make_room(now, (peer, model));
        let standing = self.standings.entry((peer, model)).or_insert_with(|| Standing::new(now));
        standing.add(now, evidence, worth);
        (standing, gone)
    }

    /// The odds, in permille, that a host will be there for its part: a draw for its availability,
    /// times what is expected of its correctness (a newcomer counts as correct).
    pub fn odds(
        &self,
        now: UnixSeconds,
        peer: &PeerId,
        model: &ModelId,
        rng: &mut impl Rng,
    ) -> u16 {
        let (correct, available) = self.scores(now, peer, model);
        let honest = (2.0 * correct.expected()).min(1.0);
        (available.sample(NEWCOMER, rng) * honest * 1000.0).clamp(1.0, 1000.0) as u16
    }

    /// Whether it should be used only where there is nobody else.
    #[must_use]
    pub fn is_distrusted(&self, now: UnixSeconds, peer: &PeerId, model: &ModelId) -> bool {
        self.scores(now, peer, model).0.expected() < DISTRUST
    }

    /// One peer's standing with one model.
    #[must_use]
    pub fn standing(&self, peer: &PeerId, model: &ModelId) -> Option<&Standing> {
        self.standings.get(&(*peer, *model))
    }

    /// Everybody's, in the order of peers and models.
    pub fn all(&self) -> impl Iterator<Item = (&PeerId, &ModelId, &Standing)> {
        self.standings.iter().map(|((peer, model), standing)| (peer, model, standing))
    }

    fn scores(&self, now: UnixSeconds, peer: &PeerId, model: &ModelId) -> (Beta, Beta) {
        let known = self.standings.get(&(*peer, *model));
        known.map_or_else(|| Standing::new(now).at(now), |standing| standing.at(now))
    }

    fn worth_of_miss(&mut self, now: UnixSeconds, peer: PeerId) -> f64 {
        let (many, within) = TOGETHER;
        self.misses.retain(|(at, who)| now.0.abs_diff(at.0) <= within.as_secs() && *who != peer);
        self.misses.push_back((now, peer));
        while self.misses.len() > MOST_STANDINGS {
            self.misses.pop_front();
        }
        if self.misses.len() >= many { SHARED_MISS } else { 1.0 }
    }

    /// Forgets somebody, if `newcomer` is one and there is no place left.
    fn make_room(
        &mut self,
        now: UnixSeconds,
        newcomer: (PeerId, ModelId),
    ) -> Option<(PeerId, ModelId)> {
        if self.standings.len() < MOST_STANDINGS || self.standings.contains_key(&newcomer) {
            return None;
        }
        let age = |(key, standing): (&(PeerId, ModelId), &Standing)| {
            (standing.has_fault(now), standing.updated(), *key)
        };
        let (_, _, gone) = self.standings.iter().map(age).min()?;
        self.standings.remove(&gone);
        Some(gone)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_000_000);

    fn peer(seed: u32) -> PeerId {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&seed.to_be_bytes());
        PeerId::from_public_key(key)
    }

    fn model() -> ModelId {
        ModelId::of(b"m")
    }

    fn mean_odds(reputation: &Reputation, now: UnixSeconds, of: u32) -> f64 {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let draws =
            (0..2_000).map(|_| f64::from(reputation.odds(now, &peer(of), &model(), &mut rng)));
        draws.sum::<f64>() / 2_000.0
    }

    #[test]
    fn absence_lowers_availability_alone_and_is_forgotten_within_days() {
        let mut reputation = Reputation::new();
        for _ in 0..10 {
            reputation.add(NOW, peer(1), model(), Evidence::Missed(Miss::Lost));
        }
        let (correct, available) = reputation.standing(&peer(1), &model()).unwrap().at(NOW);
        assert_eq!(correct.bad(), 0.0);
        assert!(available.expected() < 0.1);
        let newcomer = mean_odds(&reputation, NOW, 2);
        assert!((880.0..920.0).contains(&newcomer), "{newcomer}");
        assert!(mean_odds(&reputation, NOW, 1) < 500.0);
        assert!(mean_odds(&reputation, NOW.plus(3 * 86_400), 1) > 880.0);
    }

    #[test]
    fn a_clock_that_jumps_forgets_nothing_and_excuses_nobody() {
        let (mut reputation, ahead) = (Reputation::new(), NOW.plus(86_400));
        for _ in 0..10 {
            reputation.add(ahead, peer(1), model(), Evidence::Missed(Miss::Lost));
        }
        let at = |reputation: &Reputation, now| {
            reputation.standing(&peer(1), &model()).unwrap().at(now).1.bad()
        };
        let bad = at(&reputation, ahead);
        for back in [3_600, 86_400, ahead.0] {
            assert_eq!(at(&reputation, UnixSeconds(ahead.0 - back)), bad);
        }
        assert!(at(&reputation, ahead.plus(86_400)) < bad / 8.0);
        // Three failed a day ahead; who fails now does not fail together with them.
        reputation.add(ahead, peer(2), model(), Evidence::Missed(Miss::Lost));
        reputation.add(ahead, peer(3), model(), Evidence::Missed(Miss::Lost));
        reputation.add(NOW, peer(4), model(), Evidence::Missed(Miss::Lost));
        let alone = reputation.standing(&peer(4), &model()).unwrap().at(NOW).1.bad();
        assert_eq!(alone, 1.0);
    }

    #[test]
    fn a_fault_is_distrusted_whatever_the_record() {
        let mut reputation = Reputation::new();
        for _ in 0..1_000 {
            reputation.add(NOW, peer(1), model(), Evidence::Receipted);
        }
        assert!(!reputation.is_distrusted(NOW, &peer(1), &model()));
        let faults = (1..20).find(|_| {
            reputation.add(NOW, peer(1), model(), Evidence::Fault(Fault::Protocol));
            reputation.is_distrusted(NOW, &peer(1), &model())
        });
        assert!(faults <= Some(9), "unaudited work buys few lies: {faults:?}");
        assert!(mean_odds(&reputation, NOW, 1) < mean_odds(&reputation, NOW, 2));
    }

    #[test]
    fn who_fails_together_with_many_is_blamed_less() {
        let mut reputation = Reputation::new();
        for of in 1..=4 {
            reputation.add(NOW, peer(of), model(), Evidence::Missed(Miss::Opening));
        }
        let bad = |of| reputation.standing(&peer(of), &model()).unwrap().at(NOW).1.bad();
        assert_eq!((bad(1), bad(2), bad(3), bad(4)), (1.0, 1.0, SHARED_MISS, SHARED_MISS));
    }

    #[test]
    fn a_restart_changes_nothing() {
        let mut reputation = Reputation::new();
        for step in 0..50 {
            let evidence = match step % 4 {
                0 => Evidence::Missed(Miss::Lost),
                1 => Evidence::Receipted,
                2 => Evidence::Fault(Fault::Receipts),
                _ => Evidence::InTime,
            };
            reputation.add(NOW.plus(step * 700), peer(1), model(), evidence);
        }
        let mut restarted = Reputation::new();
        for (peer, model, standing) in reputation.all() {
            let bytes = taimatsu_protocol::codec::encode(standing);
            let read = taimatsu_protocol::codec::decode(&bytes, 4096).unwrap();
            restarted.restore(*peer, *model, read);
        }
        assert!(restarted.all().eq(reputation.all()));
    }

    #[test]
    fn room_is_made_but_faults_are_kept() {
        let mut reputation = Reputation::new();
        reputation.add(NOW, peer(0), model(), Evidence::Fault(Fault::Protocol));
        for of in 1..=MOST_STANDINGS as u32 {
            reputation.add(NOW.plus(1), peer(of), model(), Evidence::InTime);
        }
        assert_eq!(reputation.all().count(), MOST_STANDINGS);
        assert!(reputation.standing(&peer(0), &model()).is_some());
        assert!(reputation.standing(&peer(1), &model()).is_none());
    }

    /// As many as there may be, heard of one after the other, every third with a fault.
    fn full() -> Reputation {
        let mut reputation = Reputation::new();
        for of in 0..MOST_STANDINGS as u32 {
            let evidence = match of % 3 {
                0 => Evidence::Fault(Fault::Protocol),
                _ => Evidence::InTime,
            };
            let (_, gone) = reputation.add(NOW.plus(of.into()), peer(of), model(), evidence);
            assert_eq!(gone, None);
        }
        reputation
    }

    #[test]
    fn a_fault_that_counts_no_more_keeps_no_place() {
        let mut reputation = full();
        let later = NOW.plus(300 * 86_400);
        let (_, gone) = reputation.add(later, peer(u32::MAX), model(), Evidence::InTime);
        assert_eq!(gone, Some((peer(0), model())));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whoever_was_heard_of_is_there_and_the_bound_holds(
            steps in proptest::collection::vec((0_u32..9_000, 0_u64..2_000_000, 0..5_u8), 1..40),
        ) {
            let mut reputation = full();
            let mut known: BTreeSet<_> = reputation.all().map(|(peer, ..)| *peer).collect();
            for (of, at, what) in steps {
                // The clock jumps as it likes.
                let (of, at) = (peer(of), UnixSeconds(at));
                let evidence = match what {
                    0 => Evidence::Missed(Miss::Lost),
                    1 => Evidence::Receipted,
                    2 => Evidence::Fault(Fault::Receipts),
                    _ => Evidence::InTime,
                };
                let gone = match what {
                    4 => reputation.restore(of, model(), Standing::new(at)),
                    _ => reputation.add(at, of, model(), evidence).1,
                };
                prop_assert_eq!(gone.is_some(), known.insert(of));
                known.retain(|peer| gone != Some((*peer, model())));
                prop_assert!(reputation.standing(&of, &model()).is_some());
                prop_assert_eq!(reputation.all().count(), MOST_STANDINGS);
                prop_assert!(reputation.all().all(|(peer, ..)| known.contains(peer)));
            }
        }
    }

    #[test]
    fn reasons_are_gathered_and_bounded() {
        let mut reputation = Reputation::new();
        for _ in 0..100 {
            reputation.add(NOW, peer(1), model(), Evidence::InTime);
        }
        for _ in 0..50 {
            reputation.add(NOW, peer(1), model(), Evidence::Receipted);
            reputation.add(NOW, peer(1), model(), Evidence::Missed(Miss::Lost));
        }
        let standing = reputation.standing(&peer(1), &model()).unwrap();
        assert_eq!(standing.reasons().count(), policy::MOST_REASONS);
        assert!(standing.reasons().all(|reason| reason.times == 1));
    }
}

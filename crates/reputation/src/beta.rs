//! A Beta distribution that forgets: what is known of a yes-or-no question from counted evidence
//! (Jøsang and Ismail, "The Beta Reputation System", 2002).

use std::time::Duration;

use rand_core::Rng;
use serde::{Deserialize, Serialize};
use taimatsu_protocol::UnixSeconds;

use crate::policy::MOST_EVIDENCE;

/// Evidence for and against, beyond the one of each that everybody begins with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Beta {
    good: f64,
    bad: f64,
    /// When the counts were right.
    at: UnixSeconds,
}

/// How fast each side is forgotten.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HalfLives {
    pub(crate) good: Duration,
    pub(crate) bad: Duration,
}

impl Beta {
    pub(crate) const fn new(at: UnixSeconds) -> Self {
        Self { good: 0.0, bad: 0.0, at }
    }

    /// The same a while later. A clock that went backwards forgets nothing.
    pub(crate) fn decayed(self, now: UnixSeconds, lives: HalfLives) -> Self {
        let passed = now.0.saturating_sub(self.at.0) as f64;
        let left = |count: f64, life: Duration| count * libm::exp2(-passed / life.as_secs_f64());
        let at = UnixSeconds(self.at.0.max(now.0));
        Self { good: left(self.good, lives.good), bad: left(self.bad, lives.bad), at }
    }

    pub(crate) fn add_good(&mut self, worth: f64) {
        self.good += worth;
        self.cap();
    }

    pub(crate) fn add_bad(&mut self, worth: f64) {
        self.bad += worth;
        self.cap();
    }

    /// Evidence for, decayed.
    #[must_use]
    pub const fn good(&self) -> f64 {
        self.good
    }

    /// Evidence against, decayed.
    #[must_use]
    pub const fn bad(&self) -> f64 {
        self.bad
    }

    /// The expected value.
    #[must_use]
    pub fn expected(&self) -> f64 {
        (self.good + 1.0) / (self.good + self.bad + 2.0)
    }

    /// A draw from the distribution (Thompson sampling: who is little known is tried sometimes),
    /// with this much evidence for to begin with, at least 1.
    pub fn sample(&self, prior: f64, rng: &mut impl Rng) -> f64 {
        let (a, b) = (gamma(self.good + prior, rng), gamma(self.bad + 1.0, rng));
        a / (a + b)
    }

    fn cap(&mut self) {
        let all = self.good + self.bad;
        if all > MOST_EVIDENCE {
            let scale = MOST_EVIDENCE / all;
            (self.good, self.bad) = (self.good * scale, self.bad * scale);
        }
    }
}

/// A draw from Gamma(shape, 1) for shape ≥ 1 (Marsaglia and Tsang, "A Simple Method for Generating
/// Gamma Variables", 2000).
fn gamma(shape: f64, rng: &mut impl Rng) -> f64 {
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / libm::sqrt(9.0 * d);
    loop {
        let x = normal(rng);
        let v = 1.0 + c * x;
        if v <= 0.0 {
            continue;
        }
        let v = v * v * v;
        if libm::log(uniform(rng)) < 0.5 * x * x + d - d * v + d * libm::log(v) {
            return d * v;
        }
    }
}

/// A draw from the standard normal distribution (Box and Muller, 1958).
fn normal(rng: &mut impl Rng) -> f64 {
    let radius = libm::sqrt(-2.0 * libm::log(uniform(rng)));
    radius * libm::cos(std::f64::consts::TAU * uniform(rng))
}

/// A draw from (0, 1].
fn uniform(rng: &mut impl Rng) -> f64 {
    ((rng.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    fn beta(good: f64, bad: f64) -> Beta {
        Beta { good, bad, at: UnixSeconds(0) }
    }

    #[test]
    fn draws_have_the_distributions_mean_and_spread() {
        for (good, bad) in [(0.0, 0.0), (9.0, 1.0), (1.0, 30.0), (200.0, 200.0)] {
            let beta = beta(good, bad);
            let mut rng = ChaCha20Rng::seed_from_u64(1);
            let draws: Vec<f64> = (0..20_000).map(|_| beta.sample(1.0, &mut rng)).collect();
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let spread = draws.iter().map(|draw| (draw - mean) * (draw - mean)).sum::<f64>();
            let (a, b) = (good + 1.0, bad + 1.0);
            let variance = a * b / ((a + b) * (a + b) * (a + b + 1.0));
            assert!((mean - beta.expected()).abs() < 0.01, "{good} {bad}: {mean}");
            let ratio = spread / draws.len() as f64 / variance;
            assert!((0.9..1.1).contains(&ratio), "{good} {bad}: {ratio}");
        }
    }

    #[test]
    fn evidence_halves_and_never_exceeds_its_bound() {
        let hour = Duration::from_secs(3_600);
        let lives = HalfLives { good: hour, bad: hour * 2 };
        let later = beta(8.0, 8.0).decayed(UnixSeconds(7_200), lives);
        assert_eq!((later.good(), later.bad()), (2.0, 4.0));
        assert_eq!(later.decayed(UnixSeconds(0), lives), later);
        let mut full = beta(0.0, 0.0);
        for _ in 0..10_000 {
            full.add_good(1.0);
        }
        full.add_bad(1.0);
        assert!(full.good() + full.bad() <= MOST_EVIDENCE);
        assert!(full.bad() > 0.9);
    }
}

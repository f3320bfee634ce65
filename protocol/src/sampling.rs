//! How the tail chooses a token: parameters only; the arithmetic is the executor's.

use serde::{Deserialize, Serialize};

/// Sampling parameters. Penalties and filters run in the order of the fields, all of the penalties
/// before greedy choice too (docs/protocol.md 3.6); a value that does nothing turns its filter off.
/// `temperature` below [`GREEDY_BELOW`] is greedy: the highest logit, ties to the lowest id.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides a positive logit, multiplies a negative one, of every token in the prompt or the
    /// answer so far (CTRL, arXiv 1909.05858); 1 is off. In (0, 10].
    pub repeat_penalty: f32,
    /// Subtracted from a token's logit once for every time that it stands in the answer so far; 0
    /// is off. In [-2, 2]. The prompt does not count, here and in the next.
    pub frequency_penalty: f32,
    /// Subtracted from the logit of every token that stands in the answer so far; 0 is off. In
    /// [-2, 2].
    pub presence_penalty: f32,
    /// Divides the logits; 0 is greedy. In [0, 100].
    pub temperature: f32,
    /// Keep the k best; 0 is off.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches this; 1 is off. In (0, 1].
    pub top_p: f32,
    /// Drop what is below this share of the best probability; 0 is off. In [0, 1].
    pub min_p: f32,
    /// Key of the random words: ChaCha20(seed, position, choice).
    pub seed: u64,
    /// Tells several answers to one question with one seed apart.
    pub choice: u32,
}

/// Divided by less than this, logits leave what 32 bits hold; and luck has no say long before.
pub const GREEDY_BELOW: f32 = 1e-6;

impl Sampling {
    /// The highest logit, always.
    #[must_use]
    pub const fn greedy() -> Self {
        Self {
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            choice: 0,
        }
    }

    /// The first parameter that is out of its range (or not a number), if any: its name, and what
    /// it must be.
    #[must_use]
    pub fn out_of_range(&self) -> Option<(&'static str, &'static str)> {
        let repeat = self.repeat_penalty > 0.0 && self.repeat_penalty <= 10.0;
        let penalty = |value| (-2.0..=2.0).contains(&value);
        let checks = [
            ("repeat_penalty", "above 0, and at most 10", repeat),
            ("frequency_penalty", "-2 to 2", penalty(self.frequency_penalty)),
            ("presence_penalty", "-2 to 2", penalty(self.presence_penalty)),
            ("temperature", "0 (greedy) to 100", (0.0..=100.0).contains(&self.temperature)),
            ("top_p", "above 0, and at most 1", self.top_p > 0.0 && self.top_p <= 1.0),
            ("min_p", "0 to 1", (0.0..=1.0).contains(&self.min_p)),
        ];
        checks.into_iter().find(|(.., fine)| !fine).map(|(name, range, _)| (name, range))
    }
}

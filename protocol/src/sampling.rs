//! How the tail chooses a token: parameters only; the arithmetic is the executor's.

use serde::{Deserialize, Serialize};

/// Sampling parameters. Filters run in the order of the fields; a value that does nothing turns
/// its filter off. `temperature` 0 is greedy: the highest logit, ties to the lowest id.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides a positive logit, multiplies a negative one, of every token in the prompt or the
    /// answer so far (CTRL, arXiv 1909.05858); 1 is off. In (0, 10].
    pub repeat_penalty: f32,
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
}

impl Sampling {
    /// The highest logit, always.
    #[must_use]
    pub const fn greedy() -> Self {
        Self { repeat_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }

    /// The name of the first parameter that is out of its range (or not a number), if any.
    #[must_use]
    pub fn out_of_range(&self) -> Option<&'static str> {
        let checks = [
            ("repeat_penalty", self.repeat_penalty > 0.0 && self.repeat_penalty <= 10.0),
            ("temperature", (0.0..=100.0).contains(&self.temperature)),
            ("top_p", self.top_p > 0.0 && self.top_p <= 1.0),
            ("min_p", (0.0..=1.0).contains(&self.min_p)),
        ];
        checks.iter().find(|(_, fine)| !fine).map(|(name, _)| *name)
    }
}

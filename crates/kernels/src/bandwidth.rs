//! How fast threads read from memory: the bound of decode.

use std::time::Instant;

use crate::pool::Pool;

/// Larger than caches are.
const BYTES: usize = 256 << 20;

/// What a task reads.
const PART: usize = 1 << 20;

impl Pool {
    /// Bytes a second that the pool's threads read together: the best of some passes.
    #[must_use]
    pub fn bandwidth(&self) -> f64 {
        let words = vec![1_u64; BYTES / size_of::<u64>()];
        let parts: Vec<&[u64]> = words.chunks(PART / size_of::<u64>()).collect();
        let pass = || {
            let began = Instant::now();
            self.each(parts.len(), &|task| {
                let sum = parts[task].iter().fold(0, |sum: u64, word| sum.wrapping_add(*word));
                std::hint::black_box(sum);
            });
            BYTES as f64 / began.elapsed().as_secs_f64()
        };
        (0..4).map(|_| pass()).fold(0.0, f64::max)
    }
}

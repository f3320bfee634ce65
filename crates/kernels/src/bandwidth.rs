//! How fast threads read from memory: the bound of decode.

use std::time::Instant;

use crate::pool::Pool;
use crate::simd::{Kernel, LANES, Level, Simd, fetch_ahead};

/// Larger than caches are.
const BYTES: usize = 256 << 20;

/// What a task reads.
const PART: usize = 1 << 20;

impl Pool {
    /// Bytes a second that the pool's threads read together, as the layers do: the best of some
    /// passes.
    #[must_use]
    pub fn bandwidth(&self, level: Level) -> f64 {
        let bytes = vec![1_u8; BYTES];
        let parts: Vec<&[u8]> = bytes.chunks(PART).collect();
        let pass = || {
            let began = Instant::now();
            self.each(parts.len(), &|task| {
                std::hint::black_box(level.run(Read(parts[task])));
            });
            BYTES as f64 / began.elapsed().as_secs_f64()
        };
        (0..6).map(|_| pass()).fold(0.0, f64::max)
    }
}

struct Read<'a>(&'a [u8]);

impl Kernel for Read<'_> {
    type Output = [i32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let mut sum = s.splat_i(0);
        for line in self.0.as_chunks::<64>().0 {
            fetch_ahead(line);
            sum = s.dot_bytes(sum, s.bytes(line), 1);
        }
        let mut lanes = [0; LANES];
        s.store_i(sum, &mut lanes);
        lanes
    }
}

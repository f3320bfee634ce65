//! What goes into a linear layer: activations as whole numbers of eight bits, block by block.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::columns::Parts;
use crate::kind::{Family, Kind};
use crate::pool::Pool;
use crate::simd::{Kernel, LANES, Level, Simd};

/// Magnitudes from here on are refused, so that nothing downstream becomes infinite by surprise.
pub(crate) const TOO_LARGE: i32 = bits_of_power(100);

/// A block whose largest magnitude is below this is zero.
const TOO_SMALL: i32 = bits_of_power(-100);

const fn bits_of_power(exponent: i32) -> i32 {
    (127 + exponent) << 23
}

/// Activations of several positions in the form that a family of weights takes.
#[derive(Debug, Default)]
pub struct Inputs {
    pub(crate) positions: usize,
    pub(crate) width: usize,
    /// Four whole numbers each, as bytes.
    pub(crate) words: Vec<i32>,
    /// Per position and block.
    pub(crate) scales: Vec<f32>,
    /// Per position and 32 or 16 numbers: their sum.
    pub(crate) sums: Vec<i32>,
    /// Per position and block of 32: scale times sum.
    pub(crate) weighted: Vec<f32>,
    /// Per position and 64 numbers of a block of 256: the sums of both halves, 16 bits each.
    pub(crate) pairs: Vec<i32>,
    /// As they are, for weights that are numbers as they are.
    pub(crate) plain: Vec<f32>,
}

/// What form of [`Inputs`] a kind of weights takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// Blocks of 32.
    Blocks32,
    /// Blocks of 256.
    Blocks256,
    /// As they are.
    Plain,
}

impl Kind {
    /// What its inputs must be.
    #[must_use]
    pub const fn form(self) -> Form {
        match self.family() {
            Family::Plain => Form::Plain,
            Family::Narrow { .. } => Form::Blocks32,
            Family::Super { .. } => Form::Blocks256,
        }
    }
}

/// A value that is not a number, or too large, in what should be computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value of row {row} is not finite, or beyond 2^100")]
pub struct NonFinite {
    /// Which row: 0 is the first.
    pub row: usize,
}

impl Inputs {
    /// Takes `positions x width` values, as a kind of weights wants them.
    ///
    /// # Errors
    /// The first row with a value that is not finite, or beyond 2^100.
    pub fn fill(
        &mut self,
        pool: &Pool,
        level: Level,
        form: Form,
        width: usize,
        values: &[f32],
    ) -> Result<(), NonFinite> {
        (self.positions, self.width) = (values.len() / width, width);
        if form == Form::Plain {
            self.plain.clear();
            self.plain.extend_from_slice(values);
            return check(level, width, values);
        }
        let (block, sub) = if form == Form::Blocks32 { (32, 32) } else { (256, 16) };
        let pairs = if block == 256 { 4 } else { 0 };
        let blocks = values.len() / block;
        self.words.resize(values.len() / 4, 0);
        self.scales.resize(blocks, 0.0);
        self.sums.resize(values.len() / sub, 0);
        self.weighted.resize(if block == 32 { blocks } else { 0 }, 0.0);
        self.pairs.resize(blocks * pairs, 0);
        let each = SHARE.div_ceil(block);
        let words = Parts::new(&mut self.words, each * block / 4);
        let scales = Parts::new(&mut self.scales, each);
        let sums = Parts::new(&mut self.sums, each * block / sub);
        let weighted = Parts::new(&mut self.weighted, each);
        let pairs = Parts::new(&mut self.pairs, each * pairs);
        let refused = AtomicUsize::new(usize::MAX);
        pool.each(blocks.div_ceil(each), &|task| {
            let from = task * each * block;
            let values = &values[from..(from + each * block).min(values.len())];
            // SAFETY: every task takes the part of its own number, once.
            let own = unsafe {
                let (words, scales) = (words.take(task), scales.take(task));
                let (sums, pairs) = (sums.take(task), pairs.take(task));
                let weighted = weighted.take(task);
                Quantise { block, sub, values, words, scales, sums, weighted, pairs }
            };
            let done = level.run(own);
            if let Err(index) = done {
                refused.fetch_min((from + index * block) / width, Ordering::Relaxed);
            }
        });
        match refused.into_inner() {
            usize::MAX => Ok(()),
            row => Err(NonFinite { row }),
        }
    }
}

/// Values that are quantised as one task.
const SHARE: usize = 16_384;

struct Check<'a> {
    width: usize,
    values: &'a [f32],
}

impl Kernel for Check<'_> {
    type Output = Result<(), NonFinite>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        for (row, values) in self.values.chunks_exact(self.width).enumerate() {
            if largest(s, values) >= TOO_LARGE {
                return Err(NonFinite { row });
            }
        }
        Ok(())
    }
}

/// Whether all rows of `width` are finite and below 2^100.
///
/// # Errors
/// The first row that is not.
pub fn check(level: Level, width: usize, values: &[f32]) -> Result<(), NonFinite> {
    level.run(Check { width, values })
}

/// The bits of the largest magnitude.
#[inline(always)]
fn largest<S: Simd>(s: S, values: &[f32]) -> i32 {
    let (whole, rest) = values.as_chunks::<LANES>();
    let mut most = s.splat_i(0);
    for chunk in whole {
        most = s.max_i(most, s.magnitude(s.load(chunk)));
    }
    let mut lanes = [0; LANES];
    s.store_i(most, &mut lanes);
    let rest = rest.iter().map(|value| (value.to_bits() & 0x7fff_ffff).cast_signed());
    lanes.into_iter().chain(rest).fold(0, Ord::max)
}

struct Quantise<'a> {
    block: usize,
    sub: usize,
    values: &'a [f32],
    words: &'a mut [i32],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
    weighted: &'a mut [f32],
    pairs: &'a mut [i32],
}

impl Kernel for Quantise<'_> {
    /// The first block that is refused.
    type Output = Result<(), usize>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let words = self.words.chunks_exact_mut(self.block / 4);
        let sums = self.sums.chunks_exact_mut(self.block / self.sub);
        let blocks = self.values.chunks_exact(self.block).zip(words).zip(sums).zip(self.scales);
        for (index, (((values, words), sums), scale)) in blocks.enumerate() {
            let most = largest(s, values);
            if most >= TOO_LARGE {
                return Err(index);
            }
            let largest = f32::from_bits(most.cast_unsigned());
            let (inverse, step) =
                if most < TOO_SMALL { (0.0, 0.0) } else { (127.0 / largest, largest / 127.0) };
            *scale = step;
            let inverse = s.splat(inverse);
            let chunks = values.as_chunks::<LANES>().0.iter().zip(words.as_chunks_mut::<4>().0);
            let mut total = s.splat_i(0);
            for (chunk, (values, words)) in chunks.enumerate() {
                let whole = s.to_i(s.mul(s.load(values), inverse));
                s.store_bytes(whole, words);
                total = s.add_i(total, whole);
                if (chunk + 1) % (self.sub / LANES) == 0 {
                    let mut lanes = [0; LANES];
                    s.store_i(total, &mut lanes);
                    sums[chunk / (self.sub / LANES)] = lanes.iter().sum();
                    total = s.splat_i(0);
                }
            }
            if let [sum] = sums {
                self.weighted[index] = step * *sum as f32;
            }
            if self.block == 256 {
                for (pair, four) in
                    self.pairs[4 * index..][..4].iter_mut().zip(sums.as_chunks::<4>().0)
                {
                    let (first, second) = (four[0] + four[1], four[2] + four[3]);
                    *pair = first & 0xffff | second << 16;
                }
            }
        }
        Ok(())
    }
}

//! Linear layers: packed weights times activations, one output row per lane.
//!
//! Per output the order is fixed: block after block, within a block an exact integer, then
//! `acc = fma(d_w * d_a, dot, acc)` and, where the kind has minima,
//! `acc = fma(m_w, d_a * sum, acc)`. Neither company nor threads nor vector width is in it.

mod plain;

use std::ops::Range;

use plain::Plain;

use crate::columns::Columns;
use crate::inputs::Inputs;
use crate::kind::{Kind, TABLE};
use crate::packed::Packed;
use crate::simd::{Kernel, LANES, Level, Simd, fetch_ahead, steps};

/// Computes some groups of sixteen outputs for all positions.
pub(crate) fn linear(
    level: Level,
    weights: &Packed<'_>,
    inputs: &Inputs,
    groups: Range<usize>,
    out: &Columns<'_>,
) {
    debug_assert_eq!(weights.width, inputs.width);
    level.run(Linear { weights, inputs, groups, out });
}

struct Linear<'a> {
    weights: &'a Packed<'a>,
    inputs: &'a Inputs,
    groups: Range<usize>,
    out: &'a Columns<'a>,
}

impl Kernel for Linear<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.weights.kind {
            Kind::F32 => self.each(s, Plain::<4>),
            Kind::F16 => self.each(s, Plain::<2>),
            Kind::Bf16 => self.each(s, Plain::<0>),
            Kind::Q4_0 => self.each(s, Narrow::<4, 8, false>),
            Kind::Iq4Nl => self.each(s, Narrow::<4, 128, false>),
            Kind::Q4_1 => self.each(s, Narrow::<4, 0, true>),
            Kind::Q5_0 => self.each(s, Narrow::<5, 16, false>),
            Kind::Q5_1 => self.each(s, Narrow::<5, 0, true>),
            Kind::Q8_0 => self.each(s, Narrow::<8, 128, false>),
            Kind::Q2K => self.each(s, Super::<4, 16, 0, true>),
            Kind::Q3K => self.each(s, Super::<4, 16, 4, false>),
            Kind::Q4K => self.each(s, Super::<4, 32, 0, true>),
            Kind::Q5K => self.each(s, Super::<5, 32, 0, true>),
            Kind::Q6K => self.each(s, Super::<6, 16, 32, false>),
        }
    }
}

impl Linear<'_> {
    /// Group by group, and tiles of positions that share the unpacking of a group.
    #[inline(always)]
    fn each<S: Simd, T: Tile>(&self, s: S, tile: T) {
        let positions = self.inputs.positions;
        for group in self.groups.clone() {
            let mut first = 0;
            while first + 8 <= positions {
                first = self.tile::<S, T, 8>(s, tile, group, first);
            }
            if first + 4 <= positions {
                first = self.tile::<S, T, 4>(s, tile, group, first);
            }
            if first + 2 <= positions {
                first = self.tile::<S, T, 2>(s, tile, group, first);
            }
            if first < positions {
                self.tile::<S, T, 1>(s, tile, group, first);
            }
        }
    }

    /// Computes `P` positions from `first` on; gives the position after them.
    #[inline(always)]
    fn tile<S: Simd, T: Tile, const P: usize>(
        &self,
        s: S,
        tile: T,
        group: usize,
        first: usize,
    ) -> usize {
        let sums = tile.sums::<S, P>(s, self.weights, self.inputs, group, first);
        let column = group * LANES;
        let count = LANES.min(self.weights.rows - column);
        for (index, sums) in sums.iter().enumerate() {
            if count == LANES {
                self.out.write(first + index, column, sums);
            } else {
                self.out.write(first + index, column, &sums[..count]);
            }
        }
        first + P
    }
}

/// One group of rows against `P` positions.
trait Tile: Copy {
    fn sums<S: Simd, const P: usize>(
        self,
        s: S,
        weights: &Packed<'_>,
        inputs: &Inputs,
        group: usize,
        first: usize,
    ) -> [[f32; LANES]; P];
}

#[inline(always)]
fn stored<S: Simd, const P: usize>(s: S, sums: [S::F; P]) -> [[f32; LANES]; P] {
    let mut rows = [[0.0; LANES]; P];
    for p in 0..P {
        s.store(sums[p], &mut rows[p]);
    }
    rows
}

/// An element that is known to be there: a check for each would cost more than the products do.
#[inline(always)]
fn known<T>(values: &[T], at: usize) -> &T {
    debug_assert!(at < values.len());
    // SAFETY: tiles assert, before their loops, that the inputs hold every block of every position.
    unsafe { values.get_unchecked(at) }
}

#[inline(always)]
fn part<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..at + N].first_chunk().expect("a slice of that length")
}

#[inline(always)]
fn halves<S: Simd>(s: S, bytes: &[u8], at: usize) -> S::F {
    let bytes = part::<32>(bytes, at).as_chunks::<2>().0;
    let mut words = [0; LANES];
    for (word, bytes) in words.iter_mut().zip(bytes) {
        *word = u16::from_le_bytes(*bytes);
    }
    s.halves(&words)
}

/// Whole-number products of steps `from..to` of 32 weights, added to `sums`: four weights a step.
#[inline(always)]
fn dots<S: Simd, const P: usize, const BITS: u32>(
    s: S,
    numbers: &[u8],
    words: [&[i32; 8]; P],
    (from, to): (usize, usize),
    sums: &mut [S::I; P],
) {
    if BITS == 8 {
        for step in from..to {
            let weights = s.bytes(part(numbers, 64 * step));
            for p in 0..P {
                sums[p] = s.dot_bytes(sums[p], weights, words[p][step]);
            }
        }
        return;
    }
    let mut open = [s.none(); P];
    for chunk in from / 2..to / 2 {
        let nibbles = s.bytes(part(numbers, 64 * chunk));
        let halves = [s.low(nibbles), s.high(nibbles)];
        for half in 0..2 {
            let (step, mut weights) = (2 * chunk + half, halves[half]);
            if BITS == 5 {
                let high = s.bytes(part(numbers, 256));
                weights = s.or(weights, s.fifth(high, step as u32));
            }
            if BITS == 6 {
                let high = s.bytes(part(numbers, 256 + 64 * (step / 4)));
                weights = s.or(weights, s.sixth(high, step as u32 % 4));
            }
            for p in 0..P {
                open[p] = s.dot(open[p], weights, words[p][step]);
            }
            if (step + 1 - from).is_multiple_of(steps(BITS)) || step + 1 == to {
                for p in 0..P {
                    sums[p] = s.add_i(sums[p], s.whole(open[p]));
                    open[p] = s.none();
                }
            }
        }
    }
}

/// The same of nibbles that stand for entries of [`TABLE`].
#[inline(always)]
fn dots_by_table<S: Simd, const P: usize>(
    s: S,
    numbers: &[u8],
    words: [&[i32; 8]; P],
    sums: &mut [S::I; P],
) {
    for chunk in 0..4 {
        let nibbles = s.bytes(part(numbers, 64 * chunk));
        let halves = [s.low(nibbles), s.high(nibbles)];
        for half in 0..2 {
            let weights = s.look_up(halves[half], &TABLE);
            for p in 0..P {
                sums[p] = s.dot_bytes(sums[p], weights, words[p][2 * chunk + half]);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Narrow<const BITS: u32, const OFFSET: i32, const MINIMUM: bool>;

impl<const BITS: u32, const OFFSET: i32, const MINIMUM: bool> Tile
    for Narrow<BITS, OFFSET, MINIMUM>
{
    #[inline(always)]
    fn sums<S: Simd, const P: usize>(
        self,
        s: S,
        weights: &Packed<'_>,
        inputs: &Inputs,
        group: usize,
        first: usize,
    ) -> [[f32; LANES]; P] {
        let size = 32 * (1 + MINIMUM as usize) + 64 * BITS as usize;
        let blocks = weights.width / 32;
        let words = inputs.words.as_chunks::<8>().0;
        let end = (first + P) * blocks;
        assert!(end <= words.len() && end <= inputs.scales.len() && end <= inputs.sums.len());
        assert!(end <= inputs.weighted.len() && weights.group(group).len() == blocks * size);
        let mut acc = [s.splat(0.0); P];
        for (index, block) in weights.group(group).chunks_exact(size).enumerate() {
            let at: [usize; P] = std::array::from_fn(|p| (first + p) * blocks + index);
            if first == 0 {
                fetch_ahead(block);
            }
            let d = halves(s, block, 0);
            let mut sums = [s.splat_i(0); P];
            if OFFSET != 0 {
                for p in 0..P {
                    let sum = s.splat_i(*known(&inputs.sums, at[p]));
                    sums[p] = s.mul_i(sum, s.splat_i(-OFFSET));
                }
            }
            let numbers = &block[32 * (1 + MINIMUM as usize)..];
            let words = at.map(|at| known(words, at));
            if BITS == 4 && OFFSET == 128 {
                dots_by_table::<S, P>(s, numbers, words, &mut sums);
            } else {
                dots::<S, P, BITS>(s, numbers, words, (0, 8), &mut sums);
            }
            for p in 0..P {
                let scale = s.mul(d, s.splat(*known(&inputs.scales, at[p])));
                acc[p] = s.fma(scale, s.to_f(sums[p]), acc[p]);
            }
            if MINIMUM {
                let m = halves(s, block, 32);
                for p in 0..P {
                    acc[p] = s.fma(m, s.splat(*known(&inputs.weighted, at[p])), acc[p]);
                }
            }
        }
        stored(s, acc)
    }
}

#[derive(Clone, Copy)]
struct Super<const BITS: u32, const SUB: usize, const OFFSET: i32, const MINIMUM: bool>;

impl<const BITS: u32, const SUB: usize, const OFFSET: i32, const MINIMUM: bool> Tile
    for Super<BITS, SUB, OFFSET, MINIMUM>
{
    #[inline(always)]
    fn sums<S: Simd, const P: usize>(
        self,
        s: S,
        weights: &Packed<'_>,
        inputs: &Inputs,
        group: usize,
        first: usize,
    ) -> [[f32; LANES]; P] {
        let kinds = 1 + MINIMUM as usize;
        let scales_at = 32 * kinds;
        let minima_at = scales_at + 256 / SUB * LANES;
        let numbers_at = scales_at + kinds * (256 / SUB * LANES);
        let blocks = weights.width / 256;
        let size = numbers_at + LANES * 32 * BITS as usize;
        let end = (first + P) * blocks;
        assert!(end <= inputs.scales.len() && 64 * end <= inputs.words.len());
        assert!(16 * end <= inputs.sums.len() && 4 * end <= inputs.pairs.len());
        assert!(weights.group(group).len() == blocks * size);
        let mut acc = [s.splat(0.0); P];
        for (index, block) in weights.group(group).chunks_exact(size).enumerate() {
            let at: [usize; P] = std::array::from_fn(|p| (first + p) * blocks + index);
            if first == 0 {
                fetch_ahead(block);
            }
            let scales = &block[scales_at..minima_at];
            let total = Self::dotted(s, scales, &block[numbers_at..], inputs, at);
            let d = halves(s, block, 0);
            for p in 0..P {
                let scale = s.mul(d, s.splat(*known(&inputs.scales, at[p])));
                acc[p] = s.fma(scale, s.to_f(total[p]), acc[p]);
            }
            if MINIMUM {
                let minima = Self::minima(s, &block[minima_at..numbers_at], inputs, at);
                let dmin = halves(s, block, 32);
                for p in 0..P {
                    let scale = s.mul(dmin, s.splat(-*known(&inputs.scales, at[p])));
                    acc[p] = s.fma(scale, s.to_f(minima[p]), acc[p]);
                }
            }
        }
        stored(s, acc)
    }
}

impl<const BITS: u32, const SUB: usize, const OFFSET: i32, const MINIMUM: bool>
    Super<BITS, SUB, OFFSET, MINIMUM>
{
    /// Per position, the sum over sub-blocks of small scale times dot product.
    #[inline(always)]
    fn dotted<S: Simd, const P: usize>(
        s: S,
        scales: &[u8],
        numbers: &[u8],
        inputs: &Inputs,
        at: [usize; P],
    ) -> [S::I; P] {
        let words = inputs.words.as_chunks::<8>().0;
        let part_size = LANES * 4 * BITS as usize;
        let mut total = [s.splat_i(0); P];
        for part in 0..8 {
            let numbers = &numbers[part * part_size..][..part_size];
            let words = at.map(|at| known(words, 8 * at + part));
            for half in 0..32 / SUB {
                let number = part * (32 / SUB) + half;
                let mut sums = [s.splat_i(0); P];
                if OFFSET != 0 {
                    for p in 0..P {
                        let sum = s.splat_i(*known(&inputs.sums, 16 * at[p] + number));
                        sums[p] = s.mul_i(sum, s.splat_i(-OFFSET));
                    }
                }
                let steps = (half * SUB / 4, (half + 1) * SUB / 4);
                dots::<S, P, BITS>(s, numbers, words, steps, &mut sums);
                let scale = self::part::<LANES>(scales, LANES * number);
                let scale = if OFFSET == 0 {
                    s.unsigned(scale)
                } else {
                    s.signed(&scale.map(u8::cast_signed))
                };
                for p in 0..P {
                    total[p] = s.add_i(total[p], s.mul_i(sums[p], scale));
                }
            }
        }
        total
    }

    /// Per position, the sum over sub-blocks of small minimum times sum of inputs.
    #[inline(always)]
    fn minima<S: Simd, const P: usize>(
        s: S,
        minima: &[u8],
        inputs: &Inputs,
        at: [usize; P],
    ) -> [S::I; P] {
        let mut total = [s.splat_i(0); P];
        if SUB == 32 {
            for (pair, weights) in minima.as_chunks::<32>().0.iter().enumerate() {
                let weights = s.pairs(weights);
                for p in 0..P {
                    total[p] =
                        s.dot_pairs(total[p], weights, *known(&inputs.pairs, 4 * at[p] + pair));
                }
            }
            return total;
        }
        for (index, weights) in minima.as_chunks::<LANES>().0.iter().enumerate() {
            let weights = s.unsigned(weights);
            for p in 0..P {
                let sum = s.splat_i(*known(&inputs.sums, 16 * at[p] + index));
                total[p] = s.add_i(total[p], s.mul_i(weights, sum));
            }
        }
        total
    }
}

//! What happens to each position alone: norms, gates, rotation, sums.

use crate::math::{Lanes, exp, tree, zip};
use crate::simd::{Kernel, LANES, Level, Simd};

/// Every row of `values` over its root mean square, times `weights`.
///
/// Squares are added in sixteen lanes, element `i` to lane `i % 16`, by fused multiply-adds, and
/// the lanes in a tree; then `x * (1 / sqrt(sum / n + epsilon)) * w`, each product rounded.
pub fn rms_norm(level: Level, values: &mut [f32], weights: &[f32], epsilon: f32) {
    level.run(RmsNorm { values, weights, epsilon });
}

struct RmsNorm<'a> {
    values: &'a mut [f32],
    weights: &'a [f32],
    epsilon: f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.weights.len();
        for row in self.values.chunks_exact_mut(width) {
            let (whole, rest) = row.as_chunks::<LANES>();
            let mut sums = s.splat(0.0);
            for chunk in whole {
                let chunk = s.load(chunk);
                sums = s.fma(chunk, chunk, sums);
            }
            let mut lanes = [0.0; LANES];
            s.store(sums, &mut lanes);
            for (lane, value) in lanes.iter_mut().zip(rest) {
                *lane = value.mul_add(*value, *lane);
            }
            let scale = 1.0 / (tree(lanes) / width as f32 + self.epsilon).sqrt();
            zip(s, row, self.weights, Scaled(scale));
        }
    }
}

#[derive(Clone, Copy)]
struct Scaled(f32);

impl Lanes for Scaled {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::F, w: S::F) -> S::F {
        s.mul(s.mul(x, s.splat(self.0)), w)
    }
}

/// How a feed-forward part lets its inner values through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `g / (1 + exp(-g)) * u`.
    Silu,
    /// The same with `1.5957691 * g * (1 + 0.044715 * g^2)` in the exponential: GELU by tanh.
    Gelu,
}

/// sqrt(8 / pi), and that times 0.044715.
const GELU: [f32; 2] = [1.595_769_2, 0.071_354_81];

/// Replaces `gates` by what they let through of `up`.
pub fn gate(level: Level, gate: Gate, gates: &mut [f32], up: &[f32]) {
    level.run(Gated { gate, gates, up });
}

struct Gated<'a> {
    gate: Gate,
    gates: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.gate {
            Gate::Silu => zip(s, self.gates, self.up, Silu),
            Gate::Gelu => zip(s, self.gates, self.up, Gelu),
        }
    }
}

#[derive(Clone, Copy)]
struct Silu;

impl Lanes for Silu {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, g: S::F, u: S::F) -> S::F {
        open(s, g, g, u)
    }
}

#[derive(Clone, Copy)]
struct Gelu;

impl Lanes for Gelu {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, g: S::F, u: S::F) -> S::F {
        let cubic = s.fma(s.mul(g, g), s.splat(GELU[1]), s.splat(GELU[0]));
        open(s, g, s.mul(g, cubic), u)
    }
}

/// `g / (1 + exp(-inner)) * u`.
#[inline(always)]
fn open<S: Simd>(s: S, g: S::F, inner: S::F, u: S::F) -> S::F {
    let shut = s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), inner)));
    s.mul(s.div(g, shut), u)
}

/// `values += more`.
pub fn add(level: Level, values: &mut [f32], more: &[f32]) {
    level.run(Add { values, more });
}

struct Add<'a> {
    values: &'a mut [f32],
    more: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        zip(s, self.values, self.more, Sum);
    }
}

#[derive(Clone, Copy)]
struct Sum;

impl Lanes for Sum {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F {
        s.add(a, b)
    }
}

/// `values *= by`.
pub fn scale(level: Level, values: &mut [f32], by: f32) {
    level.run(Scale { values, by });
}

struct Scale<'a> {
    values: &'a mut [f32],
    by: f32,
}

impl Kernel for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.values.iter_mut().for_each(|value| *value *= self.by);
    }
}

/// Which values of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Neighbours: 0 and 1, 2 and 3.
    Neighbours,
    /// Those half of the rotated part apart.
    Halves,
}

/// Cosines and sines for one position: half as many as values of a head are rotated.
///
/// In f64 by the software library `libm`, which is the same everywhere, and rounded once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Turn {
    /// Of each pair's angle.
    pub cos: Vec<f32>,
    /// Of each pair's angle.
    pub sin: Vec<f32>,
}

impl Turn {
    /// At a position, for the frequencies of [`frequencies`].
    #[must_use]
    pub fn at(position: u32, frequencies: &[f64]) -> Self {
        let angles = || frequencies.iter().map(|frequency| f64::from(position) * frequency);
        Self {
            cos: angles().map(|angle| libm::cos(angle) as f32).collect(),
            sin: angles().map(|angle| libm::sin(angle) as f32).collect(),
        }
    }
}

/// Radians a position for each pair of `rotated` values: `base^(-2 i / rotated) / stretch`, in f64.
#[must_use]
pub fn frequencies(rotated: usize, base: f64, stretch: f64) -> Vec<f64> {
    let of = |pair: usize| libm::pow(base, -2.0 * pair as f64 / rotated as f64) / stretch;
    (0..rotated / 2).map(of).collect()
}

/// Turns the leading values of every head of one position's `heads`, each `head` long:
/// `a' = fma(a, cos, -(b * sin))`, `b' = fma(a, sin, b * cos)`.
pub fn rotate(level: Level, pairs: Pairs, turn: &Turn, head: usize, heads: &mut [f32]) {
    level.run(Rotate { pairs, turn, head, heads });
}

struct Rotate<'a> {
    pairs: Pairs,
    turn: &'a Turn,
    head: usize,
    heads: &'a mut [f32],
}

#[inline(always)]
fn turned(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a.mul_add(cos, -(b * sin)), a.mul_add(sin, b * cos))
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let half = self.turn.cos.len();
        for head in self.heads.chunks_exact_mut(self.head) {
            let turns = self.turn.cos.iter().zip(&self.turn.sin);
            match self.pairs {
                Pairs::Neighbours => {
                    for (pair, (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                        (pair[0], pair[1]) = turned(pair[0], pair[1], *cos, *sin);
                    }
                }
                Pairs::Halves => {
                    let (first, second) = head.split_at_mut(half);
                    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                        (*a, *b) = turned(*a, *b, *cos, *sin);
                    }
                }
            }
        }
    }
}

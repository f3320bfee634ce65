//! Functions of sixteen lanes, by polynomials of K1's own; and sums in a fixed tree.

use crate::simd::{LANES, Simd};

/// Below this, `exp` is as there.
const LEAST: f32 = -87.0;

/// Above this, `exp` is as there.
const MOST: f32 = 88.0;

const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// ln 2 in two parts, the first with eleven bits to spare: its product with an exponent is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// 1/7!, 1/6!, ... 1/1!, 1: the series of the exponential.
const SERIES: [f32; 8] =
    [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// The exponential of finite numbers, held to what f32 holds without subnormals.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let x = s.min(s.max(x, s.splat(LEAST)), s.splat(MOST));
    let n = s.nearest(s.mul(x, s.splat(LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let mut sum = s.splat(SERIES[0]);
    for term in &SERIES[1..] {
        sum = s.fma(sum, r, s.splat(*term));
    }
    s.mul(sum, s.pow2(n))
}

/// Lanes added in a fixed tree: 8 apart, then 4, 2 and 1.
#[inline(always)]
pub(crate) fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut apart = LANES / 2;
    while apart > 0 {
        for lane in 0..apart {
            lanes[lane] += lanes[lane + apart];
        }
        apart /= 2;
    }
    lanes[0]
}

/// What [`zip`] does to sixteen lanes. A type, not a closure: a closure is compiled without the
/// vector instructions of the kernel that calls it.
pub(crate) trait Lanes: Copy {
    fn of<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F;
}

/// Replaces `a` by what comes of both, sixteen values at a time; the last in company of zeros.
#[inline(always)]
pub(crate) fn zip<S: Simd>(s: S, a: &mut [f32], b: &[f32], lanes: impl Lanes) {
    let (whole, rest) = a.as_chunks_mut::<LANES>();
    let (with, with_rest) = b.as_chunks::<LANES>();
    for (a, b) in whole.iter_mut().zip(with) {
        s.store(lanes.of(s, s.load(a), s.load(b)), a);
    }
    if !rest.is_empty() {
        let (mut left, mut right) = ([0.0; LANES], [0.0; LANES]);
        left[..rest.len()].copy_from_slice(rest);
        right[..rest.len()].copy_from_slice(&with_rest[..rest.len()]);
        s.store(lanes.of(s, s.load(&left), s.load(&right)), &mut left);
        rest.copy_from_slice(&left[..rest.len()]);
    }
}

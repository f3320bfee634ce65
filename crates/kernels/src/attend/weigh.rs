//! The second half of attention: values by their shares.

use std::ops::Range;

use super::Scores;
use super::page::Page;
use crate::simd::{LANES, Simd};

/// Adds visible values to the sums of `Q` queries that see the same keys: shrunk, and then value
/// by value.
#[inline(always)]
pub(super) fn weigh<S: Simd, P: Page, const Q: usize>(
    s: S,
    visible: Range<usize>,
    shares: &[Scores; Q],
    page: P,
    shrinks: &[f32; Q],
    sums: &mut [[f32; LANES]],
) {
    let wide = sums.len() / Q;
    let mut chunk = 0;
    while chunk < wide {
        if chunk + 2 <= wide {
            columns::<S, P, Q, 2>(s, visible.clone(), shares, page, shrinks, (chunk, sums));
            chunk += 2;
        } else {
            columns::<S, P, Q, 1>(s, visible.clone(), shares, page, shrinks, (chunk, sums));
            chunk += 1;
        }
    }
}

/// The same for `C` chunks of dimensions.
#[inline(always)]
fn columns<S: Simd, P: Page, const Q: usize, const C: usize>(
    s: S,
    visible: Range<usize>,
    shares: &[Scores; Q],
    page: P,
    shrinks: &[f32; Q],
    (chunk, sums): (usize, &mut [[f32; LANES]]),
) {
    let wide = sums.len() / Q;
    let mut open = [[s.splat(0.0); C]; Q];
    for q in 0..Q {
        for c in 0..C {
            let sum = s.load(&sums[q * wide + chunk + c]);
            open[q][c] = s.mul(sum, s.splat(shrinks[q]));
        }
    }
    for key in visible {
        let mut values = [s.splat(0.0); C];
        for c in 0..C {
            values[c] = page.value(s, key, chunk + c);
        }
        for q in 0..Q {
            let share = s.splat(shares[q].as_flattened()[key]);
            for c in 0..C {
                open[q][c] = s.fma(share, values[c], open[q][c]);
            }
        }
    }
    for q in 0..Q {
        for c in 0..C {
            s.store(open[q][c], &mut sums[q * wide + chunk + c]);
        }
    }
}

//! Sums of products in one fixed order: sixteen lanes, then a fixed tree.
//!
//! Rust never reorders or fuses f32 operations by itself, so the same source gives the same bits
//! at every vector width; the compiler is only free to choose how many lanes go at once.

/// Element `i` of a sum goes to lane `i % LANES`.
const LANES: usize = 16;

/// Runs `work` compiled for the widest vectors of this machine.
#[inline(always)]
pub(super) fn widest<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// The inner product of two vectors of one length.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += a * b;
    }
    tree(lanes)
}

/// Four inner products with one right side: the bits of four [`dot`]s, for fewer loads.
#[inline(always)]
pub(super) fn dot4(rows: [&[f32]; 4], b: &[f32]) -> [f32; 4] {
    let mut lanes = [[0.0; LANES]; 4];
    let [(r0, t0), (r1, t1), (r2, t2), (r3, t3)] = rows.map(|row| row.as_chunks::<LANES>());
    let (b, b_rest) = b.as_chunks::<LANES>();
    for ((((r0, r1), r2), r3), b) in r0.iter().zip(r1).zip(r2).zip(r3).zip(b) {
        for lane in 0..LANES {
            lanes[0][lane] += r0[lane] * b[lane];
            lanes[1][lane] += r1[lane] * b[lane];
            lanes[2][lane] += r2[lane] * b[lane];
            lanes[3][lane] += r3[lane] * b[lane];
        }
    }
    for (lanes, rest) in lanes.iter_mut().zip([t0, t1, t2, t3]) {
        for (lane, (a, b)) in lanes.iter_mut().zip(rest.iter().zip(b_rest)) {
            *lane += a * b;
        }
    }
    lanes.map(tree)
}

/// `sums[i] += factor * values[i]`.
#[inline(always)]
pub(super) fn add_scaled(sums: &mut [f32], factor: f32, values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

/// IEEE half to single precision, exactly; written so that a loop over it vectorises.
#[inline(always)]
pub(super) fn half_to_single(half: u16) -> f32 {
    // Exponent of one above the smallest normal half: adding it to a subnormal's bits and
    // taking it away again as a number normalises.
    const SUBNORMAL: u32 = 113 << 23;
    let bits = u32::from(half);
    let magnitude = (bits & 0x7fff) << 13;
    let normal = magnitude + (112 << 23);
    let small = (f32::from_bits(magnitude + SUBNORMAL) - f32::from_bits(SUBNORMAL)).to_bits();
    let wild = magnitude | 0x7f80_0000;
    let exponent = bits & 0x7c00;
    let value = if exponent == 0 {
        small
    } else if exponent == 0x7c00 {
        wild
    } else {
        normal
    };
    f32::from_bits(value | ((bits & 0x8000) << 16))
}

#[inline(always)]
fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_becomes_its_single() {
        for half in 0..=u16::MAX {
            let (ours, theirs) = (half_to_single(half), half::f16::from_bits(half).to_f32());
            assert!(
                ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                "{half:#06x}: {ours} {theirs}"
            );
        }
    }

    #[test]
    fn width_and_company_do_not_show() {
        let value = |seed: usize| ((seed * 7919 % 4001) as f32 - 2000.0) / 977.0;
        for len in [0, 1, 15, 16, 17, 576, 1000] {
            let rows: Vec<Vec<f32>> =
                (0..5).map(|row| (0..len).map(|i| value(row * 1009 + i)).collect()).collect();
            let plain: Vec<u32> = (0..4).map(|row| dot(&rows[row], &rows[4]).to_bits()).collect();
            let four = [&rows[0][..], &rows[1], &rows[2], &rows[3]];
            let wide = widest(|| dot4(four, &rows[4]).map(f32::to_bits));
            assert_eq!(plain, wide, "length {len}");
        }
    }
}

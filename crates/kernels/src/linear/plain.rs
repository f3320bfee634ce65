//! Weights that are numbers as they are: one fused multiply-add each, in order.

use super::{Tile, halves, part, stored};
use crate::inputs::Inputs;
use crate::packed::Packed;
use crate::simd::{LANES, Simd, fetch_ahead};

/// Weights that are numbers as they are: bytes of an f32, of a half, or 0 for bfloat16.
#[derive(Clone, Copy)]
pub(super) struct Plain<const BYTES: usize>;

impl<const BYTES: usize> Tile for Plain<BYTES> {
    #[inline(always)]
    fn sums<S: Simd, const P: usize>(
        self,
        s: S,
        weights: &Packed<'_>,
        inputs: &Inputs,
        group: usize,
        first: usize,
    ) -> [[f32; LANES]; P] {
        let rows: [&[f32]; P] =
            std::array::from_fn(|p| &inputs.plain[(first + p) * weights.width..][..weights.width]);
        let size = if BYTES == 4 { 4 * LANES } else { 2 * LANES };
        let mut acc = [s.splat(0.0); P];
        for (k, column) in weights.group(group).chunks_exact(size).enumerate() {
            if first == 0 {
                fetch_ahead(column);
            }
            let weights = match BYTES {
                4 => {
                    let words = part::<64>(column, 0).as_chunks::<4>().0;
                    s.load(&std::array::from_fn(|lane| f32::from_le_bytes(words[lane])))
                }
                2 => halves(s, column, 0),
                _ => {
                    let words = part::<32>(column, 0).as_chunks::<2>().0;
                    let single = |lane: usize| u32::from(u16::from_le_bytes(words[lane])) << 16;
                    s.load(&std::array::from_fn(|lane| f32::from_bits(single(lane))))
                }
            };
            for p in 0..P {
                acc[p] = s.fma(weights, s.splat(rows[p][k]), acc[p]);
            }
        }
        stored(s, acc)
    }
}

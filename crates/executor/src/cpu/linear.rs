//! Linear layers: weights stay as the file holds them, memory-mapped, and are unpacked row by row
//! into a buffer that fits the nearest cache, once for all positions of a step.

use std::sync::Arc;

use rayon::prelude::*;
use taimatsu_model::GgufFile;

use super::formats::Format;
use super::lanes::{dot4, widest};

/// A matrix in a mapped file: `rows` outputs of `width` inputs each.
pub(super) struct Matrix {
    file: Arc<GgufFile>,
    name: String,
    format: Format,
    rows: usize,
    width: usize,
    row_bytes: usize,
}

impl Matrix {
    /// A view of the tensor `name`, whose bytes are known to be `rows` rows of `width`.
    pub(super) fn new(
        file: Arc<GgufFile>,
        name: String,
        format: Format,
        rows: usize,
        width: usize,
        row_bytes: usize,
    ) -> Self {
        Self { file, name, format, rows, width, row_bytes }
    }

    /// Number of outputs.
    pub(super) const fn rows(&self) -> usize {
        self.rows
    }

    /// Unpacks one row.
    pub(super) fn row(&self, index: usize, out: &mut [f32]) {
        let bytes = &self.bytes()[index * self.row_bytes..][..self.row_bytes];
        widest(|| self.format.unpack(bytes, out));
    }

    /// `inputs` is `positions x width`; the result is `positions x rows`.
    ///
    /// Each output is one [`dot4`] lane over the unpacked row, whatever the tiling, so its bits
    /// hang on neither company nor threads.
    pub(super) fn apply(&self, inputs: &[f32]) -> Vec<f32> {
        let positions = inputs.len() / self.width;
        // One row of outputs per weight row, so that threads write apart; turned at the end.
        let mut turned = vec![0.0; self.rows * positions];
        let bytes = self.bytes();
        let tile = |(index, outputs): (usize, &mut [f32])| {
            let first = index * TILE;
            let weights = &bytes[first * self.row_bytes..];
            self.tile(&weights[..outputs.len() / positions * self.row_bytes], inputs, outputs);
        };
        if self.rows * self.width * positions < WORTH_SHARING {
            turned.chunks_mut(TILE * positions).enumerate().for_each(tile);
        } else {
            turned.par_chunks_mut(TILE * positions).enumerate().for_each(tile);
        }
        if positions == 1 { turned } else { transposed(&turned, self.rows, positions) }
    }

    /// Up to [`TILE`] weight rows against all inputs.
    fn tile(&self, weights: &[u8], inputs: &[f32], outputs: &mut [f32]) {
        let (width, positions) = (self.width, inputs.len() / self.width);
        widest(|| {
            let mut unpacked = vec![0.0; 4 * width];
            let quads = weights.chunks(4 * self.row_bytes).zip(outputs.chunks_mut(4 * positions));
            for (weights, outputs) in quads {
                // The last quad may be short: its idle rows keep old values that nobody reads.
                self.format
                    .unpack(weights, &mut unpacked[..weights.len() / self.row_bytes * width]);
                let (pair, other) = unpacked.split_at(2 * width);
                let ((r0, r1), (r2, r3)) = (pair.split_at(width), other.split_at(width));
                for (position, input) in inputs.chunks_exact(width).enumerate() {
                    let sums = dot4([r0, r1, r2, r3], input);
                    for (row, sum) in outputs.chunks_mut(positions).zip(sums) {
                        row[position] = sum;
                    }
                }
            }
        });
    }

    fn bytes(&self) -> &[u8] {
        self.file.tensor(&self.name).expect("was in the file when it was loaded").bytes
    }
}

/// `rows x columns` to `columns x rows`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    out.par_chunks_mut(rows).enumerate().for_each(|(column, out)| {
        for (row, out) in out.iter_mut().enumerate() {
            *out = values[row * columns + column];
        }
    });
    out
}

/// Weight rows per task: large enough that handing it out costs little, small enough to balance.
const TILE: usize = 32;

/// Products below which a second thread costs more than it brings.
const WORTH_SHARING: usize = 1 << 16;

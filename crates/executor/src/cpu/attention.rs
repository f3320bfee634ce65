//! Causal attention of a tile of positions over one session's KV, one query head after another.

use super::kv::Page;
use super::lanes::{add_scaled, dot, half_to_single, widest};

/// Queries of consecutive positions of one session, for the heads that share one KV head.
pub(super) struct Tile<'a> {
    /// Keys and values of the shared KV head, the tile's own positions included.
    pub(super) page: Page<'a>,
    /// Absolute position of the first query.
    pub(super) first: usize,
    /// `positions x (heads x head_dim)`: where to read queries, in full rows.
    pub(super) queries: &'a [f32],
    /// Row length of `queries`.
    pub(super) stride: usize,
    /// Columns of `queries` that belong to these heads.
    pub(super) columns: std::ops::Range<usize>,
    /// Length of a head of queries and keys, and of one of values.
    pub(super) head: usize,
}

impl Tile<'_> {
    /// Weighted values, `positions x (heads x head_dim)` for these heads alone.
    ///
    /// For each query: scores by key in order, the largest taken off, exponentials summed in
    /// order, values added in order. Later keys are skipped, never multiplied by zero.
    pub(super) fn attend(&self) -> Vec<f32> {
        let positions = self.queries.len() / self.stride;
        let mut out = vec![0.0; positions * self.columns.len()];
        widest(|| self.fill(positions, &mut out));
        out
    }

    #[inline(always)]
    fn fill(&self, positions: usize, out: &mut [f32]) {
        let (head, heads) = (self.head, self.columns.len() / self.head);
        let scale = 1.0 / (head as f32).sqrt();
        let keys = self.first + positions;
        let mut scores = vec![0.0; positions * heads * keys];
        let mut unpacked = vec![0.0; head];
        for key in 0..keys {
            unpack(self.page.key(key), &mut unpacked);
            for position in key.saturating_sub(self.first)..positions {
                let row = &self.queries[position * self.stride..][self.columns.clone()];
                for (index, query) in row.chunks_exact(head).enumerate() {
                    scores[(position * heads + index) * keys + key] = dot(query, &unpacked) * scale;
                }
            }
        }
        for (index, scores) in scores.chunks_exact_mut(keys).enumerate() {
            softmax(&mut scores[..=self.first + index / heads]);
        }
        for key in 0..keys {
            unpack(self.page.value(key), &mut unpacked);
            for position in key.saturating_sub(self.first)..positions {
                for index in position * heads..(position + 1) * heads {
                    let share = scores[index * keys + key];
                    add_scaled(&mut out[index * head..][..head], share, &unpacked);
                }
            }
        }
    }
}

#[inline(always)]
fn unpack(halves: &[u16], out: &mut [f32]) {
    for (out, half) in out.iter_mut().zip(halves) {
        *out = half_to_single(*half);
    }
}

/// Turns scores into shares that add up to one.
#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let most = scores.iter().fold(f32::NEG_INFINITY, |most, score| most.max(*score));
    let mut total = 0.0;
    for score in scores.iter_mut() {
        *score = libm::expf(*score - most);
        total += *score;
    }
    for score in scores {
        *score /= total;
    }
}

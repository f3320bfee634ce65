//! One transformer block of the Llama family: RMS norm, rotary attention, RMS norm, SwiGLU.

use rayon::prelude::*;

use super::attention::Tile;
use super::kv::Kv;
use super::lanes::widest;
use super::linear::Matrix;

/// What every block of a model shares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dims {
    /// Values per position between blocks.
    pub(super) hidden: usize,
    /// Query heads.
    pub(super) heads: usize,
    /// Key and value heads; divides `heads`.
    pub(super) kv_heads: usize,
    /// Length of a head.
    pub(super) head: usize,
    /// Inner width of the feed-forward part.
    pub(super) feed_forward: usize,
    /// Leading values of a head that are rotated; even.
    pub(super) rotated: usize,
    /// Base of the rotation's wavelengths.
    pub(super) rope_base: f64,
    /// Added to the mean square before its root.
    pub(super) epsilon: f64,
}

/// A block's weights.
pub(super) struct Block {
    pub(super) attn_norm: Vec<f32>,
    pub(super) query: Matrix,
    pub(super) key: Matrix,
    pub(super) value: Matrix,
    pub(super) output: Matrix,
    pub(super) ffn_norm: Vec<f32>,
    pub(super) gate: Matrix,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
}

/// Consecutive rows of a step that belong to one session.
pub(super) struct Rows<'a> {
    /// The session's KV.
    pub(super) kv: &'a mut Kv,
    /// Absolute position of the first row.
    pub(super) start: usize,
    /// How many rows.
    pub(super) count: usize,
}

impl Block {
    /// Advances `states`, `rows x hidden` of all sessions joined, through block `index` of the
    /// span; `turns` holds each row's rotation.
    pub(super) fn advance(
        &self,
        dims: &Dims,
        index: usize,
        sessions: &mut [Rows<'_>],
        turns: &[Vec<(f32, f32)>],
        states: &mut [f32],
    ) {
        let normed = rms_norm(states, &self.attn_norm, dims.epsilon);
        let mut queries = self.query.apply(&normed);
        let mut keys = self.key.apply(&normed);
        let values = self.value.apply(&normed);
        rotate(&mut queries, dims, dims.heads, turns);
        rotate(&mut keys, dims, dims.kv_heads, turns);
        let kv_width = dims.kv_heads * dims.head;
        let mut pairs = keys.chunks_exact(kv_width).zip(values.chunks_exact(kv_width));
        for rows in sessions.iter_mut() {
            for (offset, (key, value)) in pairs.by_ref().take(rows.count).enumerate() {
                rows.kv.write(index, rows.start + offset, key, value);
            }
        }
        let mixed = self.output.apply(&attend(dims, index, sessions, &queries));
        add(states, &mixed);

        let normed = rms_norm(states, &self.ffn_norm, dims.epsilon);
        let mut inner = self.gate.apply(&normed);
        let up = self.up.apply(&normed);
        inner.par_iter_mut().with_min_len(SHARE).zip(&up).for_each(|(gate, up)| {
            *gate = *gate / (1.0 + libm::expf(-*gate)) * up;
        });
        add(states, &self.down.apply(&inner));
    }
}

/// Cosine and sine for each rotated pair of a head, at an absolute position: in f64, rounded once.
pub(super) fn turn(dims: &Dims, position: u32) -> Vec<(f32, f32)> {
    (0..dims.rotated / 2)
        .map(|pair| {
            let exponent = -2.0 * pair as f64 / dims.rotated as f64;
            let angle = f64::from(position) * libm::pow(dims.rope_base, exponent);
            (libm::cos(angle) as f32, libm::sin(angle) as f32)
        })
        .collect()
}

/// Every row over its root mean square, times `weights`. The sum runs in order, in f64.
pub(super) fn rms_norm(states: &[f32], weights: &[f32], epsilon: f64) -> Vec<f32> {
    let mut out = Vec::with_capacity(states.len());
    for row in states.chunks_exact(weights.len()) {
        let squares: f64 = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
        let scale = (1.0 / (squares / row.len() as f64 + epsilon).sqrt()) as f32;
        out.extend(row.iter().zip(weights).map(|(value, weight)| value * scale * weight));
    }
    out
}

/// Turns neighbouring pairs of every head: GGUF's llama weights are permuted for that order.
fn rotate(values: &mut [f32], dims: &Dims, heads: usize, turns: &[Vec<(f32, f32)>]) {
    for (row, turn) in values.chunks_exact_mut(heads * dims.head).zip(turns) {
        for head in row.chunks_exact_mut(dims.head) {
            for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(turn) {
                let (even, odd) = (pair[0], pair[1]);
                pair[0] = even * cos - odd * sin;
                pair[1] = even * sin + odd * cos;
            }
        }
    }
}

/// Attention of every row over its own session: `rows x (heads x head)`.
fn attend(dims: &Dims, index: usize, sessions: &[Rows<'_>], queries: &[f32]) -> Vec<f32> {
    let stride = dims.heads * dims.head;
    let group = dims.heads / dims.kv_heads * dims.head;
    let mut tiles = Vec::new();
    let mut before = 0;
    for rows in sessions {
        for from in (0..rows.count).step_by(TILE) {
            let count = TILE.min(rows.count - from);
            for kv_head in 0..dims.kv_heads {
                let first_row = before + from;
                let tile = Tile {
                    page: rows.kv.page(index, kv_head),
                    first: rows.start + from,
                    queries: &queries[first_row * stride..(first_row + count) * stride],
                    stride,
                    columns: kv_head * group..(kv_head + 1) * group,
                    head: dims.head,
                };
                tiles.push((first_row, tile));
            }
        }
        before += rows.count;
    }
    let mixed: Vec<Vec<f32>> = tiles.par_iter().map(|(_, tile)| tile.attend()).collect();
    let mut out = vec![0.0; queries.len()];
    for ((first_row, tile), mixed) in tiles.iter().zip(&mixed) {
        for (offset, mixed) in mixed.chunks_exact(group).enumerate() {
            out[(first_row + offset) * stride..][tile.columns.clone()].copy_from_slice(mixed);
        }
    }
    out
}

fn add(states: &mut [f32], more: &[f32]) {
    widest(|| {
        for (state, more) in states.iter_mut().zip(more) {
            *state += more;
        }
    });
}

/// Positions that share one unpacking of the keys and values they look back on.
const TILE: usize = 8;

/// Values of the feed-forward part per task.
const SHARE: usize = 4096;

//! One transformer block: norm, rotary attention, norm, gated feed-forward.

use std::sync::Arc;

use taimatsu_kernels::{
    Heads, Inputs, Level, NonFinite, PAGE, Pool, Session, Turn, add, check, gate, page_size,
    rms_norm, rotate, scale, write,
};

use super::kv::KvStore;
use super::load::Matrix;
use super::plan::Plan;
use super::structure::{Layer, Structure};

/// Values that a task of a pass over positions takes.
const SHARE: usize = 8192;

/// A block's weights.
pub(super) struct Block {
    pub(super) layer: Layer,
    pub(super) query: Matrix,
    pub(super) key: Matrix,
    pub(super) value: Matrix,
    pub(super) output: Matrix,
    pub(super) gate: Matrix,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
    pub(super) norms: Norms,
    /// Of queries, keys and values; none where the model has none.
    pub(super) biases: Vec<Vec<f32>>,
}

/// Weights of a block's norms.
pub(super) struct Norms {
    pub(super) attention: Vec<f32>,
    pub(super) feed_forward: Vec<f32>,
    /// Of query and key heads.
    pub(super) heads: Option<(Vec<f32>, Vec<f32>)>,
    /// After attention and after the feed-forward part.
    pub(super) post: Option<(Vec<f32>, Vec<f32>)>,
}

/// With what a pass computes, and room for what is between its parts.
pub(super) struct Bench<'a> {
    pub(super) pool: &'a Pool,
    pub(super) level: Level,
    pub(super) structure: &'a Structure,
    pub(super) room: &'a mut Room,
}

/// Kept from pass to pass.
#[derive(Default)]
pub(super) struct Room {
    pub(super) inputs: Inputs,
    pub(super) logits: Vec<f32>,
    normed: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    mixed: Vec<f32>,
    inner: Vec<f32>,
    up: Vec<f32>,
    added: Vec<f32>,
}

impl Block {
    pub(super) fn matrices(&self) -> [&Matrix; 7] {
        let Self { query, key, value, output, gate, up, down, .. } = self;
        [query, key, value, output, gate, up, down]
    }

    /// Advances `states`, `rows x hidden` of all sessions joined, through block `index` of the
    /// span; `turns` holds each row's rotation.
    pub(super) fn advance(
        &self,
        bench: &mut Bench<'_>,
        index: usize,
        (plans, kv): (&[Plan], &mut KvStore),
        turns: &[Turn],
        states: &mut [f32],
    ) -> Result<(), NonFinite> {
        let Structure { hidden, heads, kv_heads, head, feed_forward, .. } = *bench.structure;
        let rows = states.len() / hidden;
        let mut room = std::mem::take(bench.room);
        let Room { inputs, normed, queries, keys, values, mixed, inner, up, added, .. } = &mut room;
        let norms = &self.norms;

        bench.normed(states, &norms.attention, normed);
        for (buffer, width) in [
            (&mut *queries, heads),
            (&mut *keys, kv_heads),
            (&mut *values, kv_heads),
            (mixed, heads),
        ] {
            buffer.resize(rows * width * head, 0.0);
        }
        let layers =
            vec![(&self.query, &mut queries[..]), (&self.key, keys), (&self.value, values)];
        bench.linear(inputs, normed, layers)?;
        for (values, bias) in [&mut *queries, keys, values].into_iter().zip(&self.biases) {
            values.chunks_exact_mut(bias.len()).for_each(|row| add(bench.level, row, bias));
        }
        let head_norms = norms.heads.as_ref();
        bench.turned(queries, head_norms.map(|norms| &norms.0[..]), turns, heads);
        bench.turned(keys, head_norms.map(|norms| &norms.1[..]), turns, kv_heads);
        scale(bench.level, queries, 1.0 / (head as f32).sqrt());
        // A half would hold what is no number as its largest one.
        check(bench.level, kv_heads * head, keys)?;
        check(bench.level, kv_heads * head, values)?;
        bench.remember(index, plans, kv, keys, values);
        self.attend(bench, index, plans, kv, queries, mixed)?;
        added.resize(rows * hidden, 0.0);
        bench.linear(inputs, mixed, vec![(&self.output, &mut added[..])])?;
        bench.join(states, added, norms.post.as_ref().map(|norms| &norms.0[..]));

        bench.normed(states, &norms.feed_forward, normed);
        inner.resize(rows * feed_forward, 0.0);
        up.resize(rows * feed_forward, 0.0);
        bench.linear(
            inputs,
            normed,
            vec![(&self.gate, &mut inner[..]), (&self.up, &mut up[..])],
        )?;
        bench.gated(inner, up);
        bench.linear(inputs, inner, vec![(&self.down, &mut added[..])])?;
        bench.join(states, added, norms.post.as_ref().map(|norms| &norms.1[..]));
        *bench.room = room;
        Ok(())
    }

    fn attend(
        &self,
        bench: &Bench<'_>,
        index: usize,
        plans: &[Plan],
        kv: &KvStore,
        queries: &[f32],
        mixed: &mut [f32],
    ) -> Result<(), NonFinite> {
        let Structure { heads, kv_heads, head, .. } = *bench.structure;
        let heads = Heads { queries: heads, keys: kv_heads, head, window: self.layer.window };
        let sessions: Vec<Session<'_>> = plans
            .iter()
            .filter_map(|plan| {
                let pages = kv.get(plan.kv).ok()?.pages(index);
                Some(Session { pages, first: plan.start as usize, count: plan.count })
            })
            .collect();
        bench.pool.attend(bench.level, heads, &sessions, queries, mixed)
    }
}

impl Bench<'_> {
    /// A norm of every row.
    fn normed(&self, states: &[f32], weights: &[f32], out: &mut Vec<f32>) {
        out.resize(states.len(), 0.0);
        let each = SHARE.div_ceil(weights.len()) * weights.len();
        self.pool.split(out, each, &|part, out| {
            out.copy_from_slice(&states[part * each..][..out.len()]);
            rms_norm(self.level, out, weights, self.structure.epsilon);
        });
    }

    /// Layers that take the same values.
    pub(super) fn linear(
        &self,
        inputs: &mut Inputs,
        values: &[f32],
        layers: Vec<(&Matrix, &mut [f32])>,
    ) -> Result<(), NonFinite> {
        let width = layers[0].0.width();
        let mut rest = layers;
        while let Some(form) = rest.first().map(|(matrix, _)| matrix.kind().form()) {
            let (same, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|(matrix, _)| matrix.kind().form() == form);
            let mut same: Vec<_> =
                same.into_iter().map(|(matrix, out)| (matrix.packed(), out)).collect();
            inputs.fill(self.pool, self.level, form, width, values)?;
            self.pool.linear(self.level, inputs, &mut same);
            rest = others;
        }
        Ok(())
    }

    /// Norms heads where the model does, and rotates them.
    fn turned(&self, values: &mut [f32], norm: Option<&[f32]>, turns: &[Turn], heads: usize) {
        let Structure { head, pairs, epsilon, .. } = *self.structure;
        let width = heads * head;
        let each = SHARE.div_ceil(width);
        self.pool.split(values, each * width, &|part, values| {
            if let Some(weights) = norm {
                rms_norm(self.level, values, weights, epsilon);
            }
            for (row, turn) in values.chunks_exact_mut(width).zip(&turns[part * each..]) {
                rotate(self.level, pairs, turn, head, row);
            }
        });
    }

    /// Writes the rows' keys and values to their sessions' pages.
    fn remember(
        &self,
        index: usize,
        plans: &[Plan],
        kv: &mut KvStore,
        keys: &[f32],
        values: &[f32],
    ) {
        let Structure { kv_heads, head, .. } = *self.structure;
        let width = kv_heads * head;
        let mut rows = keys.chunks_exact(width).zip(values.chunks_exact(width));
        for plan in plans {
            let Ok(kv) = kv.get_mut(plan.kv) else { continue };
            let pages = kv.pages_mut(index);
            for (position, (key, value)) in
                (plan.start as usize..).zip(rows.by_ref().take(plan.count))
            {
                let heads = key.chunks_exact(head).zip(value.chunks_exact(head));
                let page = Arc::make_mut(&mut pages[position / PAGE]);
                let page = page.chunks_exact_mut(page_size(head));
                for (page, (key, value)) in page.zip(heads) {
                    write(self.level, page, position % PAGE, key, value);
                }
            }
        }
    }

    fn gated(&self, inner: &mut [f32], up: &[f32]) {
        self.pool.split(inner, SHARE, &|part, inner| {
            gate(self.level, self.structure.gate, inner, &up[part * SHARE..][..inner.len()]);
        });
    }

    /// Adds what a part of the block gave, normed where the model does.
    fn join(&self, states: &mut [f32], added: &mut [f32], norm: Option<&[f32]>) {
        if let Some(weights) = norm {
            let each = SHARE.div_ceil(weights.len()) * weights.len();
            self.pool.split(added, each, &|_, added| {
                rms_norm(self.level, added, weights, self.structure.epsilon);
            });
        }
        let added = &*added;
        self.pool.split(states, SHARE, &|part, states| {
            add(self.level, states, &added[part * SHARE..][..states.len()]);
        });
    }
}

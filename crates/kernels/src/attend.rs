//! Causal attention over pages of keys and values in half precision.
//!
//! A page holds 32 positions, counted from 0, of one head: keys as `[dimension][32]`, so that a
//! lane is a key, then values as `[32][dimension]`, so that a lane is a dimension. Scores add over
//! dimensions in order; pages are taken in order with a running maximum; values are added key by
//! key in order. Keys that a query may not see are skipped, never multiplied by zero.

use std::ops::Range;

use crate::inputs::{NonFinite, TOO_LARGE};
use crate::math::{exp, tree};
use crate::simd::{Kernel, LANES, Level, Simd};

/// Positions of a page.
pub const PAGE: usize = 32;

/// Scores of one query with a page.
type Scores = [[f32; LANES]; 2];

/// Halves of one head in a page: keys, then values.
#[must_use]
pub const fn page_size(head: usize) -> usize {
    2 * PAGE * head
}

/// Writes one position of one head into its page: key and value, each rounded once to a half,
/// what is too large for one to the largest.
pub fn write(level: Level, page: &mut [u16], slot: usize, key: &[f32], value: &[f32]) {
    level.run(Write { page, slot, key, value });
}

struct Write<'a> {
    page: &'a mut [u16],
    slot: usize,
    key: &'a [f32],
    value: &'a [f32],
}

/// The largest finite half.
const MOST: f32 = 65504.0;

impl Kernel for Write<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let head = self.key.len();
        let (keys, values) = self.page.split_at_mut(PAGE * head);
        let to = |from: &[f32], put: &mut dyn FnMut(usize, u16)| {
            for (chunk, values) in from.chunks(LANES).enumerate() {
                let mut lanes = [0.0; LANES];
                lanes[..values.len()].copy_from_slice(values);
                let mut halves = [0; LANES];
                let held = s.min(s.max(s.load(&lanes), s.splat(-MOST)), s.splat(MOST));
                s.store_halves(held, &mut halves);
                for (index, half) in halves[..values.len()].iter().enumerate() {
                    put(chunk * LANES + index, *half);
                }
            }
        };
        to(self.key, &mut |dimension, half| keys[dimension * PAGE + self.slot] = half);
        to(self.value, &mut |dimension, half| values[self.slot * head + dimension] = half);
    }
}

/// What queries share that look at one head of keys and values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look<'a> {
    /// The head's pages, from position 0 on.
    pub pages: &'a [&'a [u16]],
    /// Length of a head.
    pub head: usize,
    /// Absolute position of the first query.
    pub first: usize,
    /// Queries of each position.
    pub group: usize,
    /// A query sees so many positions, its own among them.
    pub window: usize,
}

/// Room to work in; kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Room {
    keys: Vec<[f32; LANES]>,
    values: Vec<[f32; LANES]>,
    sums: Vec<[f32; LANES]>,
    states: Vec<State>,
}

/// How far one query is.
#[derive(Debug, Clone, Copy)]
struct State {
    most: f32,
    total: [f32; LANES],
}

/// Attention of `queries`, position by position `group` heads of `head` values, which are scaled
/// already; `out` is laid out alike.
///
/// # Errors
/// A score that is not finite, or beyond 2^100; the row is that of the query.
pub(crate) fn attend(
    level: Level,
    look: Look<'_>,
    queries: &[f32],
    room: &mut Room,
    out: &mut [f32],
) -> Result<(), NonFinite> {
    level.run(Attend { look, queries, room, out })
}

struct Attend<'a> {
    look: Look<'a>,
    queries: &'a [f32],
    room: &'a mut Room,
    out: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Output = Result<(), NonFinite>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let Look { pages, head, first, group, window } = self.look;
        let count = self.queries.len() / head;
        let wide = head.div_ceil(LANES);
        let room = self.room;
        room.sums.clear();
        room.sums.resize(count * wide, [0.0; LANES]);
        room.states.clear();
        room.states.resize(count, State { most: f32::NEG_INFINITY, total: [0.0; LANES] });
        let last = first + (count - 1) / group;
        let begin = (first + 1).saturating_sub(window) / PAGE;
        for (page, halves) in pages.iter().enumerate().take(last / PAGE + 1).skip(begin) {
            unpack(s, halves, head, wide, room);
            let mut query = 0;
            while query < count {
                let some = if query + 4 <= count { 4 } else { 1 };
                let rows = &self.queries[query * head..(query + some) * head];
                let mut scores = [[[0.0; LANES]; 2]; 4];
                if some == 4 {
                    let four: [&[f32]; 4] = std::array::from_fn(|i| &rows[i * head..][..head]);
                    scores = score(s, four, &room.keys);
                } else {
                    scores[..1].copy_from_slice(&score(s, [rows], &room.keys));
                }
                for (index, scores) in (query..query + some).zip(&mut scores) {
                    let position = first + index / group;
                    let from = (position + 1).saturating_sub(window).saturating_sub(page * PAGE);
                    let to = (position + 1).saturating_sub(page * PAGE).min(PAGE);
                    if from < to {
                        let sums = &mut room.sums[index * wide..][..wide];
                        let state = &mut room.states[index];
                        mix(s, from..to, scores, &room.values, state, sums)
                            .ok_or(NonFinite { row: index })?;
                    }
                }
                query += some;
            }
        }
        for (index, out) in self.out.chunks_exact_mut(head).enumerate() {
            let total = s.splat(tree(room.states[index].total));
            for (chunk, out) in out.chunks_mut(LANES).enumerate() {
                let mut lanes = room.sums[index * wide + chunk];
                s.store(s.div(s.load(&lanes), total), &mut lanes);
                out.copy_from_slice(&lanes[..out.len()]);
            }
        }
        Ok(())
    }
}

/// A page as f32: `[dimension][2 x 16 keys]` and `[key][dimensions, padded]`.
#[inline(always)]
fn unpack<S: Simd>(s: S, page: &[u16], head: usize, wide: usize, room: &mut Room) {
    let (keys, values) = page.split_at(PAGE * head);
    room.keys.resize(2 * head, [0.0; LANES]);
    for (to, from) in room.keys.iter_mut().zip(keys.as_chunks::<LANES>().0) {
        s.store(s.halves(from), to);
    }
    room.values.resize(PAGE * wide, [0.0; LANES]);
    for (to, from) in room.values.chunks_exact_mut(wide).zip(values.chunks_exact(head)) {
        for (to, from) in to.iter_mut().zip(from.chunks(LANES)) {
            let mut lanes = [0; LANES];
            lanes[..from.len()].copy_from_slice(from);
            s.store(s.halves(&lanes), to);
        }
    }
}

/// Scores of `Q` queries with all keys of a page.
#[inline(always)]
fn score<S: Simd, const Q: usize>(
    s: S,
    queries: [&[f32]; Q],
    keys: &[[f32; LANES]],
) -> [Scores; Q] {
    let mut sums = [[s.splat(0.0); 2]; Q];
    for (dimension, [low, high]) in keys.as_chunks::<2>().0.iter().enumerate() {
        let (low, high) = (s.load(low), s.load(high));
        for q in 0..Q {
            let query = s.splat(queries[q][dimension]);
            sums[q][0] = s.fma(query, low, sums[q][0]);
            sums[q][1] = s.fma(query, high, sums[q][1]);
        }
    }
    let mut scores = [[[0.0; LANES]; 2]; Q];
    for q in 0..Q {
        s.store(sums[q][0], &mut scores[q][0]);
        s.store(sums[q][1], &mut scores[q][1]);
    }
    scores
}

/// Takes a page's visible keys into a query's sums; `None` for a score that is no number.
#[inline(always)]
fn mix<S: Simd>(
    s: S,
    visible: Range<usize>,
    scores: &mut Scores,
    values: &[[f32; LANES]],
    state: &mut State,
    sums: &mut [[f32; LANES]],
) -> Option<()> {
    let all = visible == (0..PAGE);
    let flat = scores.as_flattened_mut();
    if !all {
        flat[..visible.start].fill(f32::MIN);
        flat[visible.end..].fill(f32::MIN);
    }
    let sizes = flat[visible.clone()].iter();
    let sizes = sizes.map(|score| (score.to_bits() & 0x7fff_ffff).cast_signed());
    if sizes.fold(0, Ord::max) >= TOO_LARGE {
        return None;
    }
    let mut lanes = [0.0; LANES];
    s.store(s.max(s.load(&scores[0]), s.load(&scores[1])), &mut lanes);
    let most = largest(state.most, lanes);
    let shrink = if state.most == f32::NEG_INFINITY {
        s.splat(0.0)
    } else {
        exp(s, s.splat(state.most - most))
    };
    state.most = most;
    for lanes in scores.iter_mut() {
        s.store(exp(s, s.sub(s.load(lanes), s.splat(most))), lanes);
    }
    if !all {
        let flat = scores.as_flattened_mut();
        flat[..visible.start].fill(0.0);
        flat[visible.end..].fill(0.0);
    }
    let total = s.mul(s.load(&state.total), shrink);
    let total = s.add(s.add(total, s.load(&scores[0])), s.load(&scores[1]));
    s.store(total, &mut state.total);
    let wide = sums.len();
    let shares = scores.as_flattened();
    let mut chunk = 0;
    while chunk < wide {
        if chunk + 4 <= wide {
            weigh::<S, 4>(s, visible.clone(), shares, values, wide, chunk, shrink, sums);
            chunk += 4;
        } else {
            weigh::<S, 1>(s, visible.clone(), shares, values, wide, chunk, shrink, sums);
            chunk += 1;
        }
    }
    Some(())
}

/// The largest of `most` and the lanes.
#[inline(always)]
fn largest(most: f32, mut lanes: [f32; LANES]) -> f32 {
    let mut apart = LANES / 2;
    while apart > 0 {
        for lane in 0..apart {
            if lanes[lane + apart] > lanes[lane] {
                lanes[lane] = lanes[lane + apart];
            }
        }
        apart /= 2;
    }
    if lanes[0] > most { lanes[0] } else { most }
}

/// `C` chunks of dimensions of a query's sums: shrunk, and then value by value.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the inside of a loop")]
fn weigh<S: Simd, const C: usize>(
    s: S,
    visible: Range<usize>,
    shares: &[f32],
    values: &[[f32; LANES]],
    wide: usize,
    chunk: usize,
    shrink: S::F,
    sums: &mut [[f32; LANES]],
) {
    let mut open = [shrink; C];
    for c in 0..C {
        open[c] = s.mul(s.load(&sums[chunk + c]), shrink);
    }
    for key in visible {
        let share = s.splat(shares[key]);
        let values: &[[f32; LANES]; C] =
            values[key * wide + chunk..].first_chunk().expect("a row of values");
        for c in 0..C {
            open[c] = s.fma(share, s.load(&values[c]), open[c]);
        }
    }
    for c in 0..C {
        s.store(open[c], &mut sums[chunk + c]);
    }
}

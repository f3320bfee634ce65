//! Causal attention over pages of keys and values in half precision.
//!
//! A page holds 32 positions, counted from 0, of one head: keys as `[dimension][32]`, so that a
//! lane is a key, then values as `[32][dimension]`, so that a lane is a dimension. Scores add over
//! dimensions in order; pages are taken in order with a running maximum; values are added key by
//! key in order. Keys that a query may not see are skipped, never multiplied by zero.

mod page;
mod weigh;

use std::ops::Range;
use std::sync::Arc;

use crate::columns::Columns;
use crate::inputs::{NonFinite, TOO_LARGE};
use crate::math::{exp, tree};
use crate::simd::{Kernel, LANES, Level, Simd, fetch};
use page::{Held, Page, unpack};
use weigh::weigh;

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
        let (keys, values) = self.page.split_at_mut(PAGE * self.key.len());
        for (chunk, key) in self.key.chunks(LANES).enumerate() {
            let halves = rounded(s, key);
            let column = keys[chunk * LANES * PAGE + self.slot..].iter_mut().step_by(PAGE);
            for (to, half) in column.zip(&halves[..key.len()]) {
                *to = *half;
            }
        }
        let values = &mut values[self.slot * self.value.len()..][..self.value.len()];
        for (to, value) in values.chunks_mut(LANES).zip(self.value.chunks(LANES)) {
            to.copy_from_slice(&rounded(s, value)[..to.len()]);
        }
    }
}

/// Up to sixteen values as halves.
#[inline(always)]
fn rounded<S: Simd>(s: S, values: &[f32]) -> [u16; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..values.len()].copy_from_slice(values);
    let held = s.min(s.max(s.load(&lanes), s.splat(-MOST)), s.splat(MOST));
    let mut halves = [0; LANES];
    s.store_halves(held, &mut halves);
    halves
}

/// Queries of consecutive positions that look at one head of keys and values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look<'a> {
    /// Pages of the session, from position 0 on.
    pub pages: &'a [Arc<[u16]>],
    /// Which head of keys and values.
    pub key: usize,
    /// Length of a head.
    pub head: usize,
    /// Absolute position of the first query.
    pub first: usize,
    /// How many positions.
    pub count: usize,
    /// Queries of each position.
    pub group: usize,
    /// A query sees so many positions, its own among them.
    pub window: usize,
    /// Rows of query heads, scaled already, the first position's first.
    pub queries: &'a [f32],
    /// Length of such a row.
    pub width: usize,
}

impl Look<'_> {
    /// Where the query is among all of its row.
    #[inline(always)]
    const fn column(&self, index: usize) -> usize {
        (self.key * self.group + index % self.group) * self.head
    }

    #[inline(always)]
    fn query(&self, index: usize) -> &[f32] {
        &self.queries[index / self.group * self.width + self.column(index)..][..self.head]
    }

    /// What query `index` sees of page `page`.
    #[inline(always)]
    fn visible(&self, index: usize, page: usize) -> Range<usize> {
        let seen = self.first + index / self.group + 1;
        let from = seen.saturating_sub(self.window).saturating_sub(page * PAGE);
        from..seen.saturating_sub(page * PAGE).min(PAGE)
    }
}

/// Queries up to which a page is read as it is.
const FEW: usize = 4;

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

/// Attention of the queries; rows of `out` are laid out as theirs, from row `row` on.
///
/// # Errors
/// A score that is not finite, or beyond 2^100; the row counts from the first position.
pub(crate) fn attend(
    level: Level,
    look: Look<'_>,
    room: &mut Room,
    (row, out): (usize, &Columns<'_>),
) -> Result<(), NonFinite> {
    level.run(Attend { look, room, row, out })
}

struct Attend<'a> {
    look: Look<'a>,
    room: &'a mut Room,
    row: usize,
    out: &'a Columns<'a>,
}

impl Kernel for Attend<'_> {
    type Output = Result<(), NonFinite>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let Self { look, room, row, out } = self;
        let count = look.count * look.group;
        let wide = look.head.div_ceil(LANES);
        let Room { keys, values, sums, states } = room;
        sums.clear();
        sums.resize(count * wide, [0.0; LANES]);
        states.clear();
        states.resize(count, State { most: f32::NEG_INFINITY, total: [0.0; LANES] });
        let last = look.first + look.count - 1;
        let begin = (look.first + 1).saturating_sub(look.window) / PAGE;
        let size = page_size(look.head);
        for (page, heads) in look.pages.iter().enumerate().take(last / PAGE + 1).skip(begin) {
            let halves = &heads[look.key * size..][..size];
            if let Some(next) = look.pages.get(page + 1) {
                let next = &next[look.key * size..][..size];
                fetch(next.as_ptr(), size_of_val(next));
            }
            // A page is made f32 once, where many queries look at it.
            if count <= FEW && look.head.is_multiple_of(LANES) {
                all(s, &look, page, Held::halves(halves, look.head), sums, states)?;
            } else {
                let singles = unpack(s, halves, look.head, wide, (&mut *keys, &mut *values));
                all(s, &look, page, singles, sums, states)?;
            }
        }
        for index in 0..count {
            let total = s.splat(tree(states[index].total));
            for chunk in 0..wide {
                let mut lanes = sums[index * wide + chunk];
                s.store(s.div(s.load(&lanes), total), &mut lanes);
                let length = LANES.min(look.head - chunk * LANES);
                let column = look.column(index) + chunk * LANES;
                out.write(row + index / look.group, column, &lanes[..length]);
            }
        }
        Ok(())
    }
}

/// Takes a page into the sums of all queries.
#[inline(always)]
fn all<S: Simd, P: Page>(
    s: S,
    look: &Look<'_>,
    page: usize,
    held: P,
    sums: &mut [[f32; LANES]],
    states: &mut [State],
) -> Result<(), NonFinite> {
    let mut query = 0;
    while query < states.len() {
        query = match states.len() - query {
            4.. => some::<S, P, 4>(s, look, page, query, held, (sums, states)),
            3 => some::<S, P, 3>(s, look, page, query, held, (sums, states)),
            2 => some::<S, P, 2>(s, look, page, query, held, (sums, states)),
            _ => some::<S, P, 1>(s, look, page, query, held, (sums, states)),
        }?;
    }
    Ok(())
}

/// Takes a page into the sums of `Q` queries from `query` on; gives the query after them.
#[inline(always)]
fn some<S: Simd, P: Page, const Q: usize>(
    s: S,
    look: &Look<'_>,
    page: usize,
    query: usize,
    held: P,
    (sums, states): (&mut [[f32; LANES]], &mut [State]),
) -> Result<usize, NonFinite> {
    let wide = look.head.div_ceil(LANES);
    let mut rows = [look.queries; Q];
    for q in 0..Q {
        rows[q] = look.query(query + q);
    }
    let mut scores = score(s, rows, held);
    let mut shrinks = [1.0; Q];
    for q in 0..Q {
        let visible = look.visible(query + q, page);
        if !visible.is_empty() {
            let row = (query + q) / look.group;
            shrinks[q] = share(s, visible, &mut scores[q], &mut states[query + q])
                .ok_or(NonFinite { row })?;
        }
    }
    let visible = look.visible(query, page);
    let sums = &mut sums[query * wide..][..Q * wide];
    if visible == look.visible(query + Q - 1, page) {
        weigh::<S, P, Q>(s, visible, &scores, held, &shrinks, sums);
    } else {
        for q in 0..Q {
            let visible = look.visible(query + q, page);
            let sums = &mut sums[q * wide..][..wide];
            weigh::<S, P, 1>(s, visible, &[scores[q]], held, &[shrinks[q]], sums);
        }
    }
    Ok(query + Q)
}

/// Scores of `Q` queries with all keys of a page.
#[inline(always)]
fn score<S: Simd, P: Page, const Q: usize>(s: S, queries: [&[f32]; Q], page: P) -> [Scores; Q] {
    let mut sums = [[s.splat(0.0); 2]; Q];
    for dimension in 0..queries[0].len() {
        let [low, high] = page.keys(s, dimension);
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

/// Makes a page's scores the shares of its visible keys, and adds them to the query's; gives what
/// its sums must be multiplied by first. `None` for a score that is no number.
#[inline(always)]
fn share<S: Simd>(
    s: S,
    visible: Range<usize>,
    scores: &mut Scores,
    state: &mut State,
) -> Option<f32> {
    let all = visible == (0..PAGE);
    if !all {
        hide(scores, &visible, 0.0);
    }
    let sizes = s.max_i(s.magnitude(s.load(&scores[0])), s.magnitude(s.load(&scores[1])));
    let mut lanes = [0; LANES];
    s.store_i(sizes, &mut lanes);
    if lanes.into_iter().fold(0, Ord::max) >= TOO_LARGE {
        return None;
    }
    if !all {
        hide(scores, &visible, f32::MIN);
    }
    let mut lanes = [0.0; LANES];
    s.store(s.max(s.load(&scores[0]), s.load(&scores[1])), &mut lanes);
    let most = largest(state.most, lanes);
    let mut shrink = 1.0;
    if state.most == f32::NEG_INFINITY {
        shrink = 0.0;
    } else if state.most != most {
        let mut lanes = [0.0; LANES];
        s.store(exp(s, s.splat(state.most - most)), &mut lanes);
        shrink = lanes[0];
    }
    state.most = most;
    for lanes in scores.iter_mut() {
        s.store(exp(s, s.sub(s.load(lanes), s.splat(most))), lanes);
    }
    if !all {
        hide(scores, &visible, 0.0);
    }
    let total = s.mul(s.load(&state.total), s.splat(shrink));
    let total = s.add(s.add(total, s.load(&scores[0])), s.load(&scores[1]));
    s.store(total, &mut state.total);
    Some(shrink)
}

/// Puts a value in the place of scores that may not be seen.
#[inline(always)]
fn hide(scores: &mut Scores, visible: &Range<usize>, by: f32) {
    let flat = scores.as_flattened_mut();
    flat[..visible.start].fill(by);
    flat[visible.end..].fill(by);
}

/// The largest of `most` and the lanes.
#[inline(always)]
fn largest(most: f32, lanes: [f32; LANES]) -> f32 {
    let [a, b] = halved::<16, 8>(lanes);
    let [a, b] = halved::<8, 4>(larger(a, b));
    let [a, b] = halved::<4, 2>(larger(a, b));
    let [a, b] = larger(a, b);
    larger([larger([a], [b])[0]], [most])[0]
}

#[inline(always)]
fn halved<const N: usize, const H: usize>(lanes: [f32; N]) -> [[f32; H]; 2] {
    let (mut a, mut b) = ([0.0; H], [0.0; H]);
    a.copy_from_slice(&lanes[..H]);
    b.copy_from_slice(&lanes[H..]);
    [a, b]
}

#[inline(always)]
fn larger<const N: usize>(mut a: [f32; N], b: [f32; N]) -> [f32; N] {
    for lane in 0..N {
        a[lane] = if b[lane] > a[lane] { b[lane] } else { a[lane] };
    }
    a
}

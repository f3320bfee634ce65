//! Passes over a layer, shared by the threads of a pool.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::attend::{Look, Room, attend};
use crate::columns::{Columns, Parts};
use crate::inputs::{Inputs, NonFinite};
use crate::linear::linear;
use crate::packed::Packed;
use crate::pool::Pool;
use crate::simd::{LANES, Level};

/// Products of a task: fewer are not worth handing out, more would leave threads idle at the end.
const TASK: [usize; 2] = [1 << 16, 1 << 20];

/// Tasks of a pass for each thread, so that none waits long for the last.
const SHARES: usize = 6;

/// Positions of one session that look back together.
const TOGETHER: usize = 8;

/// Dimensions of attention.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads; divides `queries`.
    pub keys: usize,
    /// Length of a head.
    pub head: usize,
    /// A query sees so many positions, its own among them.
    pub window: usize,
}

/// Consecutive rows of a pass that belong to one session.
#[derive(Debug, Clone, Copy)]
pub struct Session<'a> {
    /// Pages of its keys and values, from position 0 on, the rows' own included: all heads of a
    /// page one after the other.
    pub pages: &'a [Arc<[u16]>],
    /// Absolute position of its first row.
    pub first: usize,
    /// How many rows.
    pub count: usize,
}

impl Pool {
    /// Calls `work` for each part of `values`: so many at a time, by number.
    pub fn split<T: Send>(
        &self,
        values: &mut [T],
        each: usize,
        work: &(dyn Fn(usize, &mut [T]) + Sync),
    ) {
        let tasks = values.len().div_ceil(each.max(1));
        let parts = Parts::new(values, each);
        // SAFETY: every task takes the part of its own number, once.
        self.each(tasks, &|task| work(task, unsafe { parts.take(task) }));
    }

    /// Linear layers with the same inputs; each result is `positions x rows`.
    ///
    /// # Panics
    /// If the dimensions do not fit.
    pub fn linear(&self, level: Level, inputs: &Inputs, layers: &mut [(Packed<'_>, &mut [f32])]) {
        let positions = inputs.positions;
        let mut tasks = Vec::with_capacity(layers.len());
        let mut total = 0;
        let rows: usize = layers.iter().map(|(weights, _)| weights.rows()).sum();
        let products = rows * inputs.width * positions;
        let task = (products / (SHARES * self.threads().get())).clamp(TASK[0], TASK[1]);
        for (weights, out) in layers.iter_mut() {
            assert_eq!(weights.width(), inputs.width, "inputs of the layer's width");
            assert_eq!(out.len(), positions * weights.rows(), "room for every output");
            let groups = task.div_ceil((LANES * weights.width() * positions).max(1));
            let first = total;
            total += weights.groups().div_ceil(groups);
            tasks.push((first, groups, *weights, Columns::new(out, weights.rows())));
        }
        self.each(total, &|task| {
            let of_layer = tasks.iter().rev().find(|(first, ..)| *first <= task);
            let Some((first, groups, weights, columns)) = of_layer else { return };
            let from = (task - first) * groups;
            let to = (from + groups).min(weights.groups());
            linear(level, weights, inputs, from..to, columns);
        });
    }

    /// Causal attention of all rows, each over its own session. `queries`, which are scaled
    /// already, and `out` are `rows x (query heads x head)`.
    ///
    /// # Errors
    /// The first row with a score that is not finite, or beyond 2^100.
    pub fn attend(
        &self,
        level: Level,
        heads: Heads,
        sessions: &[Session<'_>],
        queries: &[f32],
        out: &mut [f32],
    ) -> Result<(), NonFinite> {
        let width = heads.queries * heads.head;
        let group = heads.queries / heads.keys;
        let columns = Columns::new(out, width);
        let mut tasks = Vec::new();
        let mut row = 0;
        for session in sessions {
            for from in (0..session.count).step_by(TOGETHER) {
                let count = TOGETHER.min(session.count - from);
                tasks.extend((0..heads.keys).map(|key| (session, row + from, from, count, key)));
            }
            row += session.count;
        }
        let refused = AtomicUsize::new(usize::MAX);
        self.each(tasks.len(), &|task| {
            let (session, row, from, count, key) = tasks[task];
            let Session { pages, first, .. } = *session;
            let Heads { head, window, .. } = heads;
            let (first, queries) = (first + from, &queries[row * width..]);
            let look = Look { pages, key, head, first, count, group, window, queries, width };
            let done = ROOM.with_borrow_mut(|room| attend(level, look, room, (row, &columns)));
            if let Err(NonFinite { row: within }) = done {
                refused.fetch_min(row + within, Ordering::Relaxed);
            }
        });
        match refused.into_inner() {
            usize::MAX => Ok(()),
            row => Err(NonFinite { row }),
        }
    }
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

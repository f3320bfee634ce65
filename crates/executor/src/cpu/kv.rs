//! Sessions' keys and values, in half precision as they were rounded once, within a fixed budget.

use std::collections::BTreeMap;
use std::ops::Range;

use taimatsu_protocol::Span;

use crate::contract::{ExecutorError, KvId};

/// Every open KV, and what is still free.
pub(super) struct KvStore {
    dims: KvDims,
    free: u32,
    next: u64,
    open: BTreeMap<KvId, Kv>,
}

/// What one position takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct KvDims {
    /// Blocks in the span.
    pub(super) blocks: usize,
    /// KV heads of a block.
    pub(super) heads: usize,
    /// Length of one head.
    pub(super) head: usize,
}

/// One session's keys and values.
pub(super) struct Kv {
    dims: KvDims,
    /// What of the span the session runs; other blocks have no room here.
    pub(super) part: Span,
    reserved: u32,
    /// Positions that are computed; what lies behind is never read.
    pub(super) len: u32,
    /// Per block of the span: keys, then values, each `[head][position][value]`, as f16 bits.
    blocks: Vec<Vec<u16>>,
}

/// Keys and values of one head of one block.
#[derive(Clone, Copy)]
pub(super) struct Page<'a> {
    keys: &'a [u16],
    values: &'a [u16],
    head: usize,
}

impl KvStore {
    pub(super) const fn new(dims: KvDims, positions: u32) -> Self {
        Self { dims, free: positions, next: 0, open: BTreeMap::new() }
    }

    pub(super) const fn free(&self) -> u32 {
        self.free
    }

    /// Room for a session that runs `part`, which is `own` of the span's blocks.
    pub(super) fn open(
        &mut self,
        positions: u32,
        part: Span,
        own: &Range<usize>,
    ) -> Result<KvId, ExecutorError> {
        self.free = self
            .free
            .checked_sub(positions)
            .ok_or(ExecutorError::NoKv { asked: positions, free: self.free })?;
        let id = KvId(self.next);
        self.next += 1;
        let KvDims { blocks, heads, head } = self.dims;
        // Zeroed pages come from the system untouched: memory is used as positions are.
        let room =
            |block| if own.contains(&block) { 2 * heads * positions as usize * head } else { 0 };
        let blocks = (0..blocks).map(|block| vec![0; room(block)]).collect();
        self.open.insert(id, Kv { dims: self.dims, part, reserved: positions, len: 0, blocks });
        Ok(id)
    }

    pub(super) fn close(&mut self, id: KvId) {
        if let Some(kv) = self.open.remove(&id) {
            self.free += kv.reserved;
        }
    }

    pub(super) fn get(&self, id: KvId) -> Result<&Kv, ExecutorError> {
        self.open.get(&id).ok_or(ExecutorError::UnknownKv(id.0))
    }

    pub(super) fn get_mut(&mut self, id: KvId) -> Result<&mut Kv, ExecutorError> {
        self.open.get_mut(&id).ok_or(ExecutorError::UnknownKv(id.0))
    }

    /// Lends a KV out for a step, so that several can be written side by side.
    pub(super) fn take(&mut self, id: KvId) -> Option<Kv> {
        self.open.remove(&id)
    }

    /// Ends a loan.
    pub(super) fn put_back(&mut self, id: KvId, kv: Kv) {
        self.open.insert(id, kv);
    }
}

impl Kv {
    pub(super) const fn reserved(&self) -> u32 {
        self.reserved
    }

    /// Writes one position of one block: `keys` and `values` are `heads x head` each.
    pub(super) fn write(&mut self, block: usize, position: usize, keys: &[f32], values: &[f32]) {
        let (head, reserved) = (self.dims.head, self.reserved as usize);
        let (all_keys, all_values) =
            self.blocks[block].split_at_mut(self.dims.heads * reserved * head);
        for (page, row) in [(all_keys, keys), (all_values, values)] {
            for (index, values) in row.chunks_exact(head).enumerate() {
                let to = &mut page[(index * reserved + position) * head..][..head];
                for (to, value) in to.iter_mut().zip(values) {
                    *to = half::f16::from_f32(value.clamp(-MOST, MOST)).to_bits();
                }
            }
        }
    }

    /// One head of one block.
    pub(super) fn page(&self, block: usize, index: usize) -> Page<'_> {
        let (head, reserved) = (self.dims.head, self.reserved as usize);
        let (keys, values) = self.blocks[block].split_at(self.dims.heads * reserved * head);
        let range = index * reserved * head..(index + 1) * reserved * head;
        Page { keys: &keys[range.clone()], values: &values[range], head }
    }
}

impl<'a> Page<'a> {
    #[inline(always)]
    pub(super) fn key(&self, position: usize) -> &'a [u16] {
        &self.keys[position * self.head..][..self.head]
    }

    #[inline(always)]
    pub(super) fn value(&self, position: usize) -> &'a [u16] {
        &self.values[position * self.head..][..self.head]
    }
}

/// The largest finite half: what does not fit saturates, so that no infinity enters the cache.
const MOST: f32 = 65504.0;

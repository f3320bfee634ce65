//! Sessions' keys and values, in pages of half precision, within a fixed budget.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use taimatsu_kernels::{PAGE, page_size};
use taimatsu_protocol::Span;

use super::passage::Passage;
use crate::contract::{ExecutorError, KvId};

/// Every open KV, and what is still free.
pub(super) struct KvStore {
    /// Blocks of the span.
    blocks: usize,
    free: u32,
    next: u64,
    open: BTreeMap<KvId, Kv>,
}

/// One session's keys and values.
pub(super) struct Kv {
    /// What of the span the session runs; other blocks have no pages here.
    pub(super) part: Span,
    reserved: u32,
    /// Positions that are computed; what lies behind is never read.
    pub(super) len: u32,
    /// Per block of the span, pages from position 0 on: see [`taimatsu_kernels::Session`]. One
    /// that a fork shares is copied when it is written to.
    blocks: Vec<Vec<Arc<[u16]>>>,
    /// A step on its way through the blocks.
    pub(super) begun: Option<Passage>,
}

impl KvStore {
    pub(super) const fn new(blocks: usize, positions: u32) -> Self {
        Self { blocks, free: positions, next: 0, open: BTreeMap::new() }
    }

    pub(super) const fn free(&self) -> u32 {
        self.free
    }

    pub(super) fn open(&mut self, positions: u32, part: Span) -> Result<KvId, ExecutorError> {
        self.free = self
            .free
            .checked_sub(positions)
            .ok_or(ExecutorError::NoKv { asked: positions, free: self.free })?;
        let id = KvId(self.next);
        self.next += 1;
        let blocks = vec![Vec::new(); self.blocks];
        self.open.insert(id, Kv { part, reserved: positions, len: 0, blocks, begun: None });
        Ok(id)
    }

    /// Opens a copy of a session's first `len` positions.
    pub(super) fn fork(
        &mut self,
        id: KvId,
        len: u32,
        positions: u32,
    ) -> Result<KvId, ExecutorError> {
        let kv = self.get(id)?;
        kv.has(len)?;
        if len > positions {
            return Err(ExecutorError::ContextFull { asked: len, most: positions });
        }
        let shared = (len as usize).div_ceil(PAGE);
        let copy = |pages: &Vec<Arc<[u16]>>| pages[..shared.min(pages.len())].to_vec();
        let (part, blocks) = (kv.part, kv.blocks.iter().map(copy).collect());
        let fork = self.open(positions, part)?;
        let kv = self.get_mut(fork)?;
        (kv.len, kv.blocks) = (len, blocks);
        Ok(fork)
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
}

impl Kv {
    pub(super) const fn reserved(&self) -> u32 {
        self.reserved
    }

    /// Refuses a length beyond what is computed.
    fn has(&self, len: u32) -> Result<(), ExecutorError> {
        let missing = ExecutorError::WrongStart { asked: len, len: self.len };
        if len > self.len { Err(missing) } else { Ok(()) }
    }

    /// Forgets what is behind `len`, and a step that was begun.
    pub(super) fn truncate(&mut self, len: u32) -> Result<(), ExecutorError> {
        self.has(len)?;
        (self.len, self.begun) = (len, None);
        Ok(())
    }

    /// Pages of `own` blocks for so many positions; memory is taken as positions are.
    pub(super) fn grow(&mut self, own: Range<usize>, positions: usize, heads: usize, head: usize) {
        for block in &mut self.blocks[own] {
            let page = || Arc::from(vec![0; heads * page_size(head)]);
            block.resize_with(positions.div_ceil(PAGE).max(block.len()), page);
        }
    }

    /// Pages of a block.
    pub(super) fn pages(&self, block: usize) -> &[Arc<[u16]>] {
        &self.blocks[block]
    }

    pub(super) fn pages_mut(&mut self, block: usize) -> &mut [Arc<[u16]>] {
        &mut self.blocks[block]
    }
}

//! Memory that several threads fill at once, each its own columns or parts.

use std::cell::UnsafeCell;
use std::marker::PhantomData;

/// `rows x width` values, row after row.
#[derive(Debug)]
pub(crate) struct Columns<'a> {
    cells: &'a [UnsafeCell<f32>],
    width: usize,
}

// SAFETY: `write` is the only access, and its callers keep threads to columns of their own.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    /// A view of rows of `width` values.
    #[must_use]
    pub(crate) fn new(values: &'a mut [f32], width: usize) -> Self {
        // SAFETY: `UnsafeCell<f32>` has the layout of `f32`, and the borrow is exclusive.
        let cells = unsafe { &*(std::ptr::from_mut(values) as *const [UnsafeCell<f32>]) };
        Self { cells, width }
    }

    /// Writes some columns of one row.
    #[inline(always)]
    pub(crate) fn write(&self, row: usize, column: usize, values: &[f32]) {
        assert!(column + values.len() <= self.width);
        let to = &self.cells[row * self.width + column..][..values.len()];
        // SAFETY: inside the slice; each task of a parallel pass has its own columns.
        unsafe {
            std::ptr::copy_nonoverlapping(values.as_ptr(), to.as_ptr() as *mut f32, values.len());
        }
    }
}

/// A slice in parts of one length, the last perhaps shorter.
#[derive(Debug)]
pub(crate) struct Parts<'a, T> {
    first: *mut T,
    len: usize,
    each: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are taken by one thread each, see `take`.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) fn new(values: &'a mut [T], each: usize) -> Self {
        Self { first: values.as_mut_ptr(), len: values.len(), each, borrow: PhantomData }
    }

    /// Part `index`.
    ///
    /// # Safety
    /// No part is held twice at a time.
    #[allow(clippy::mut_from_ref, reason = "parts are disjoint, and each is taken once")]
    pub(crate) unsafe fn take(&self, index: usize) -> &mut [T] {
        let from = (index * self.each).min(self.len);
        let len = self.each.min(self.len - from);
        // SAFETY: inside the slice, whose exclusive borrow this value holds.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(from), len) }
    }
}

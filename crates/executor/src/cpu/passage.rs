//! Rows on their way through the blocks of a span.

use std::ops::Range;

use taimatsu_kernels::Turn;

use super::plan::Plan;

/// The rows of admitted works, and how far they are.
pub(super) struct Passage {
    /// Whose rows, in order.
    pub(super) plans: Vec<Plan>,
    /// `rows x hidden`.
    pub(super) states: Vec<f32>,
    /// Each row's rotation, for each kind that blocks have.
    pub(super) turns: Vec<Vec<Turn>>,
    /// Blocks before them, counted within the span.
    pub(super) left: Range<usize>,
}

impl Passage {
    /// Whether there are blocks before them.
    pub(super) fn is_inside(&self) -> bool {
        !self.left.is_empty()
    }
}

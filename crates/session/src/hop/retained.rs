//! What came out of a hop, kept for a successor that begins anew (docs/protocol.md 3.8).

use bytes::Bytes;

/// Rows from position 0 on. As many as the session has positions, which its admission has bounded.
#[derive(Debug)]
pub(super) struct Retained {
    /// Bytes of a row.
    width: usize,
    /// As they were computed, in order, with their first positions.
    pieces: Vec<(u32, Bytes)>,
    end: u32,
}

impl Retained {
    pub(super) const fn new(width: usize) -> Self {
        Self { width, pieces: Vec::new(), end: 0 }
    }

    /// The end of the positions that are here.
    pub(super) const fn end(&self) -> u32 {
        self.end
    }

    /// More rows, behind the others.
    pub(super) fn push(&mut self, rows: Bytes) {
        let count = (rows.len() / self.width) as u32;
        self.pieces.push((self.end, rows));
        self.end += count;
    }

    /// Positions from `to` on are undone.
    pub(super) fn truncate(&mut self, to: u32) {
        self.pieces.retain(|(start, _)| *start < to);
        if let Some((start, rows)) = self.pieces.last_mut() {
            rows.truncate((to - *start) as usize * self.width);
        }
        self.end = self.end.min(to);
    }

    /// `count` rows from position `from` on, or as many as there are; copied only where they were
    /// not computed together.
    pub(super) fn rows(&self, from: u32, count: u32) -> Bytes {
        let until = from.saturating_add(count).min(self.end);
        let first = self.pieces.partition_point(|(start, _)| *start <= from).saturating_sub(1);
        let bytes = |positions: u32| positions as usize * self.width;
        let part = |(start, rows): &(u32, Bytes)| {
            let end = bytes(until.saturating_sub(*start)).min(rows.len());
            rows.slice(bytes(from.saturating_sub(*start)).min(end)..end)
        };
        let Some(piece) = self.pieces.get(first) else { return Bytes::new() };
        let whole = part(piece);
        if whole.len() >= bytes(until.saturating_sub(from)) {
            return whole;
        }
        let parts = self.pieces[first..].iter().take_while(|(start, _)| *start < until);
        let mut joined = Vec::with_capacity(bytes(until - from));
        parts.for_each(|piece| joined.extend_from_slice(&part(piece)));
        joined.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retained() -> Retained {
        let mut retained = Retained::new(2);
        for rows in [&[0, 0, 1, 1, 2, 2][..], &[3, 3], &[4, 4], &[5, 5, 6, 6]] {
            retained.push(Bytes::copy_from_slice(rows));
        }
        retained
    }

    #[test]
    fn rows_are_found_wherever_they_were_computed() {
        let all: Vec<u8> = (0..7).flat_map(|row| [row, row]).collect();
        for from in 0..9_usize {
            for count in 0..9_usize {
                let (start, end) = (from.min(7), (from + count).min(7));
                let rows = retained().rows(from as u32, count as u32);
                assert_eq!(rows, all[start * 2..end.max(start) * 2], "{count} from {from}");
            }
        }
        assert!(Retained::new(2).rows(0, 1).is_empty());
    }

    #[test]
    fn what_is_undone_is_gone() {
        let mut retained = retained();
        retained.truncate(6);
        assert_eq!((retained.end(), retained.rows(5, 9)), (6, Bytes::from_static(&[5, 5])));
        retained.truncate(3);
        retained.push(Bytes::from_static(&[9, 9]));
        assert_eq!(retained.rows(2, 9), Bytes::from_static(&[2, 2, 9, 9]));
        retained.truncate(0);
        assert_eq!((retained.end(), retained.rows(0, 9)), (0, Bytes::new()));
    }
}

//! The form of a matrix that the kernels read: rows in groups of sixteen, one lane each.
//!
//! A group holds, block after block, what sixteen rows have at the same place, so that every
//! vector width computes all rows alike and nothing is summed across lanes. Whole numbers are
//! stored without sign, four consecutive ones of a row side by side. Missing rows are zero.

use crate::kind::{Family, Kind, Narrow, Super};
use crate::simd::LANES;

/// A matrix of `rows` outputs by `width` inputs, packed.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    pub(crate) kind: Kind,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) bytes: &'a [u8],
}

/// Bytes or dimensions that are no matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// A row is not whole blocks.
    #[error("{width} weights a row are not whole blocks of {block}")]
    Width {
        /// Weights of a row.
        width: usize,
        /// Weights of a block.
        block: usize,
    },
    /// Too few or too many bytes.
    #[error("a matrix of this size has {expected} bytes, not {found}")]
    Size {
        /// What the dimensions ask for.
        expected: usize,
        /// What there is.
        found: usize,
    },
}

/// Bytes of the group-blocks of a kind.
pub(crate) const fn group_block(kind: Kind) -> usize {
    match kind.family() {
        Family::Plain => LANES * kind.bytes(),
        Family::Narrow { bits, minimum, .. } => {
            let scales = if minimum { 2 } else { 1 };
            32 * scales + LANES * 32 * bits as usize / 8
        }
        Family::Super { bits, sub, minimum, .. } => {
            let kinds = if minimum { 2 } else { 1 };
            kinds * (32 + 256 / sub * LANES) + LANES * 256 * bits as usize / 8
        }
    }
}

/// Bytes of a packed matrix.
#[must_use]
pub const fn packed_size(kind: Kind, rows: usize, width: usize) -> usize {
    rows.div_ceil(LANES) * (width / kind.weights()) * group_block(kind)
}

/// Packs a matrix of a GGUF file: `rows` rows of `width` weights, row by row.
///
/// # Errors
/// Dimensions that do not fit the kind or the bytes.
pub fn pack(kind: Kind, rows: usize, width: usize, source: &[u8]) -> Result<Vec<u8>, PackError> {
    let block = kind.weights();
    if !width.is_multiple_of(block) || width == 0 {
        return Err(PackError::Width { width, block });
    }
    let row_bytes = width / block * kind.bytes();
    let expected = rows.saturating_mul(row_bytes);
    if source.len() != expected {
        return Err(PackError::Size { expected, found: source.len() });
    }
    let mut out = Vec::with_capacity(packed_size(kind, rows, width));
    for group in source.chunks(LANES * row_bytes) {
        for index in 0..width / block {
            let lane = |lane: usize| {
                let row = group.get(lane * row_bytes..(lane + 1) * row_bytes)?;
                Some(&row[index * kind.bytes()..][..kind.bytes()])
            };
            match kind.family() {
                Family::Plain => plain(kind, lane, &mut out),
                Family::Narrow { bits, minimum, .. } => {
                    narrow(kind, (bits, minimum), lane, &mut out);
                }
                Family::Super { bits, sub, minimum, .. } => {
                    superblock(kind, (bits, sub, minimum), lane, &mut out);
                }
            }
        }
    }
    Ok(out)
}

fn plain<'a>(kind: Kind, lane: impl Fn(usize) -> Option<&'a [u8]>, out: &mut Vec<u8>) {
    for index in 0..LANES {
        let zero = &[0; 4][..kind.bytes()];
        out.extend_from_slice(lane(index).unwrap_or(zero));
    }
}

fn narrow<'a>(
    kind: Kind,
    (bits, minimum): (u32, bool),
    lane: impl Fn(usize) -> Option<&'a [u8]>,
    out: &mut Vec<u8>,
) {
    let none = Narrow { d: 0, m: 0, q: [0; 32] };
    let lanes: [Narrow; LANES] =
        std::array::from_fn(|index| lane(index).map_or(none, |block| Narrow::read(kind, block)));
    out.extend(lanes.iter().flat_map(|lane| lane.d.to_le_bytes()));
    if minimum {
        out.extend(lanes.iter().flat_map(|lane| lane.m.to_le_bytes()));
    }
    whole_numbers(bits, &lanes.map(|lane| lane.q), out);
}

fn superblock<'a>(
    kind: Kind,
    (bits, sub, minimum): (u32, usize, bool),
    lane: impl Fn(usize) -> Option<&'a [u8]>,
    out: &mut Vec<u8>,
) {
    let none = Super { d: 0, dmin: 0, scales: [0; 16], minima: [0; 16], q: [0; 256] };
    let lanes: Vec<Super> = (0..LANES)
        .map(|index| lane(index).map_or(none, |block| Super::read(kind, block)))
        .collect();
    out.extend(lanes.iter().flat_map(|lane| lane.d.to_le_bytes()));
    if minimum {
        out.extend(lanes.iter().flat_map(|lane| lane.dmin.to_le_bytes()));
    }
    for index in 0..256 / sub {
        out.extend(lanes.iter().map(|lane| lane.scales[index].cast_unsigned()));
    }
    if minimum && sub == 32 {
        for pair in 0..4 {
            let pair = |lane: &Super| [lane.minima[2 * pair], lane.minima[2 * pair + 1]];
            out.extend(lanes.iter().flat_map(pair));
        }
    } else if minimum {
        for index in 0..16 {
            out.extend(lanes.iter().map(|lane| lane.minima[index]));
        }
    }
    let numbers: Vec<[u8; 256]> = lanes.iter().map(|lane| lane.q).collect();
    whole_numbers(bits, &numbers, out);
}

/// Chunks of 64 bytes, four a lane. A chunk of nibbles holds eight consecutive numbers of a lane:
/// four low, four high. Fifth bits follow 32 numbers, sixth ones 16: one byte of a lane holds the
/// bits of numbers that are four apart.
fn whole_numbers<const N: usize>(bits: u32, lanes: &[[u8; N]], out: &mut Vec<u8>) {
    for part in 0..N / 32 {
        let at = 32 * part;
        if bits == 8 {
            for step in 0..8 {
                out.extend(lanes.iter().flat_map(|q| q[at + 4 * step..][..4].iter().copied()));
            }
            continue;
        }
        for chunk in 0..4 {
            let nibbles = |q: &[u8; N], byte: usize| {
                let from = at + 8 * chunk + byte;
                q[from] & 0xf | (q[from + 4] & 0xf) << 4
            };
            out.extend(lanes.iter().flat_map(|q| [0, 1, 2, 3].map(|byte| nibbles(q, byte))));
        }
        let high = |q: &[u8; N], from: usize, count: usize, width: usize| {
            (0..count).fold(0, |byte, step| {
                byte | (q[from + 4 * step] >> 4 & ((1 << width) - 1)) << (width * step)
            })
        };
        if bits == 5 {
            let byte = |q: &[u8; N], byte| high(q, at + byte, 8, 1);
            out.extend(lanes.iter().flat_map(|q| [0, 1, 2, 3].map(|index| byte(q, index))));
        }
        if bits == 6 {
            for half in 0..2 {
                let byte = |q: &[u8; N], byte| high(q, at + 16 * half + byte, 4, 2);
                out.extend(lanes.iter().flat_map(|q| [0, 1, 2, 3].map(|index| byte(q, index))));
            }
        }
    }
}

impl<'a> Packed<'a> {
    /// A view of what [`pack`] made.
    ///
    /// # Errors
    /// Bytes of another size than these dimensions need.
    pub fn new(kind: Kind, rows: usize, width: usize, bytes: &'a [u8]) -> Result<Self, PackError> {
        let block = kind.weights();
        if !width.is_multiple_of(block) || width == 0 {
            return Err(PackError::Width { width, block });
        }
        let expected = packed_size(kind, rows, width);
        if bytes.len() != expected {
            return Err(PackError::Size { expected, found: bytes.len() });
        }
        Ok(Self { kind, rows, width, bytes })
    }

    /// Its weight type.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Outputs.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Groups of sixteen rows, the last perhaps not full.
    #[must_use]
    pub const fn groups(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// The blocks of a group.
    #[inline(always)]
    pub(crate) fn group(&self, index: usize) -> &'a [u8] {
        let size = self.width / self.kind.weights() * group_block(self.kind);
        &self.bytes[index * size..(index + 1) * size]
    }
}

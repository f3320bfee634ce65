//! The weight types that K1 computes with: how a GGUF block becomes whole numbers and scales.

/// A weight type of GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the format's own names")]
pub enum Kind {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
}

/// What a type's blocks consist of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Numbers as they are.
    Plain,
    /// 32 whole numbers with one scale, and perhaps one minimum.
    Narrow {
        /// Of a whole number: 4, 5 or 8.
        bits: u32,
        /// Taken off each whole number, or off what stands for it in [`TABLE`].
        offset: i32,
        /// Whether a minimum is added.
        minimum: bool,
    },
    /// 256 whole numbers with a scale, and a small scale for each `sub` of them.
    Super {
        /// Of a whole number as it is stored: 4, 5 or 6.
        bits: u32,
        /// Whole numbers that share a small scale: 32, or 16.
        sub: usize,
        /// Taken off each whole number. Kinds that have one have signed small scales.
        offset: i32,
        /// Whether small minima are taken off.
        minimum: bool,
    },
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
    ];

    pub(crate) const fn family(self) -> Family {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => Family::Plain,
            Self::Q4_0 => Family::Narrow { bits: 4, offset: 8, minimum: false },
            Self::Q4_1 => Family::Narrow { bits: 4, offset: 0, minimum: true },
            Self::Q5_0 => Family::Narrow { bits: 5, offset: 16, minimum: false },
            Self::Q5_1 => Family::Narrow { bits: 5, offset: 0, minimum: true },
            Self::Q8_0 => Family::Narrow { bits: 8, offset: 128, minimum: false },
            Self::Iq4Nl => Family::Narrow { bits: 4, offset: 128, minimum: false },
            // Two and three bits are stored as four.
            Self::Q2K => Family::Super { bits: 4, sub: 16, offset: 0, minimum: true },
            Self::Q3K => Family::Super { bits: 4, sub: 16, offset: 4, minimum: false },
            Self::Q4K => Family::Super { bits: 4, sub: 32, offset: 0, minimum: true },
            Self::Q5K => Family::Super { bits: 5, sub: 32, offset: 0, minimum: true },
            Self::Q6K => Family::Super { bits: 6, sub: 16, offset: 32, minimum: false },
        }
    }

    /// Weights of one block.
    #[must_use]
    pub const fn weights(self) -> usize {
        match self.family() {
            Family::Plain => 1,
            Family::Narrow { .. } => 32,
            Family::Super { .. } => 256,
        }
    }

    /// Bytes of one block in a GGUF file.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 | Self::Iq4Nl => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }
}

/// What the nibbles of IQ4_NL stand for, with 128 added: GGML's `kvalues_iq4nl`.
pub(crate) const TABLE: [u8; 16] =
    [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// A block of [`Family::Narrow`], read: weight `i` is `(q[i] - offset) * d + m`, of IQ4_NL with
/// what stands for `q[i]` in [`TABLE`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Narrow {
    /// Bits of a half.
    pub(crate) d: u16,
    /// Bits of a half; 0 without minimum.
    pub(crate) m: u16,
    pub(crate) q: [u8; 32],
}

impl Narrow {
    /// Reads a block of a GGUF file.
    pub(crate) fn read(kind: Kind, block: &[u8]) -> Self {
        let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        let nibble = |from: usize, i: usize| block[from + i % 16] >> (i / 16 * 4) & 0xf;
        let fifth = |from: usize, i: usize| (block[from + i / 8] >> (i % 8) & 1) << 4;
        let q = |f: &dyn Fn(usize) -> u8| std::array::from_fn(f);
        match kind {
            Kind::Q4_0 | Kind::Iq4Nl => Self { d: half(0), m: 0, q: q(&|i| nibble(2, i)) },
            Kind::Q4_1 => Self { d: half(0), m: half(2), q: q(&|i| nibble(4, i)) },
            Kind::Q5_0 => Self { d: half(0), m: 0, q: q(&|i| nibble(6, i) | fifth(2, i)) },
            Kind::Q5_1 => Self { d: half(0), m: half(2), q: q(&|i| nibble(8, i) | fifth(4, i)) },
            _ => Self { d: half(0), m: 0, q: q(&|i| block[2 + i] ^ 0x80) },
        }
    }
}

/// A block of [`Family::Super`], read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Super {
    /// Bits of a half.
    pub(crate) d: u16,
    /// Bits of a half; 0 without minima.
    pub(crate) dmin: u16,
    /// Small scales: 8 or 16.
    pub(crate) scales: [i8; 16],
    /// Small minima.
    pub(crate) minima: [u8; 16],
    pub(crate) q: [u8; 256],
}

impl Super {
    /// Reads a block of a GGUF file.
    pub(crate) fn read(kind: Kind, block: &[u8]) -> Self {
        let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        if kind == Kind::Q2K {
            let q = std::array::from_fn(|i| {
                block[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
            });
            let scales = std::array::from_fn(|sub| (block[sub] & 0xf).cast_signed());
            let minima = std::array::from_fn(|sub| block[sub] >> 4);
            return Self { d: half(80), dmin: half(82), scales, minima, q };
        }
        if kind == Kind::Q3K {
            let q = std::array::from_fn(|i| {
                let low = block[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
                low | (block[i % 32] >> (i / 32) & 1) << 2
            });
            let scales = std::array::from_fn(|sub| {
                let low = block[96 + sub % 8] >> (sub / 8 * 4) & 0xf;
                let high = block[104 + sub % 4] >> (sub / 4 * 2) & 3;
                (low | high << 4).cast_signed() - 32
            });
            return Self { d: half(108), dmin: 0, scales, minima: [0; 16], q };
        }
        if kind == Kind::Q6K {
            let q = std::array::from_fn(|i| {
                let (part, within) = (i / 32, i % 32);
                let low = block[part / 4 * 64 + part % 2 * 32 + within] >> (part % 4 / 2 * 4) & 0xf;
                let high = block[128 + part / 4 * 32 + within] >> (part % 4 * 2) & 3;
                low | high << 4
            });
            let scales = std::array::from_fn(|sub| block[192 + sub].cast_signed());
            return Self { d: half(208), dmin: 0, scales, minima: [0; 16], q };
        }
        let small: [(u8, u8); 8] = std::array::from_fn(|sub| six_bits(sub, &block[4..16]));
        let from = if kind == Kind::Q5K { 48 } else { 16 };
        let q = std::array::from_fn(|i| {
            let low = block[from + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 0xf;
            let fifth =
                if kind == Kind::Q5K { (block[16 + i % 32] >> (i / 32) & 1) << 4 } else { 0 };
            low | fifth
        });
        let (mut scales, mut minima) = ([0; 16], [0; 16]);
        for (sub, (scale, minimum)) in small.into_iter().enumerate() {
            (scales[sub], minima[sub]) = (scale.cast_signed(), minimum);
        }
        Self { d: half(0), dmin: half(2), scales, minima, q }
    }
}

/// Scale and minimum number `sub` of a Q4_K or Q5_K block.
fn six_bits(sub: usize, small: &[u8]) -> (u8, u8) {
    if sub < 4 {
        return (small[sub] & 63, small[sub + 4] & 63);
    }
    let both = small[sub + 4];
    (both & 0xf | small[sub - 4] >> 6 << 4, both >> 4 | small[sub] >> 6 << 4)
}

/// Weights of one row of a GGUF file, as the format defines them: for looking up embeddings.
///
/// # Panics
/// If the bytes are not those of a row so long.
pub fn unpack_row(kind: Kind, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() / kind.weights() * kind.bytes(), "bytes of one row");
    let blocks = bytes.chunks_exact(kind.bytes()).zip(out.chunks_exact_mut(kind.weights()));
    for (block, out) in blocks {
        match kind.family() {
            Family::Plain => out[0] = plain(kind, block),
            Family::Narrow { offset, minimum, .. } => {
                let Narrow { d, m, q } = Narrow::read(kind, block);
                for (out, q) in out.iter_mut().zip(q) {
                    let q = if kind == Kind::Iq4Nl { TABLE[usize::from(q)] } else { q };
                    *out = (i32::from(q) - offset) as f32 * single(d);
                    if minimum {
                        *out += single(m);
                    }
                }
            }
            Family::Super { sub, offset, minimum, .. } => {
                let Super { d, dmin, scales, minima, q } = Super::read(kind, block);
                for (i, (out, q)) in out.iter_mut().zip(q).enumerate() {
                    let whole = (i32::from(q) - offset) as f32;
                    *out = single(d) * f32::from(scales[i / sub]) * whole;
                    if minimum {
                        *out -= single(dmin) * f32::from(minima[i / sub]);
                    }
                }
            }
        }
    }
}

fn plain(kind: Kind, bytes: &[u8]) -> f32 {
    match *bytes {
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        [a, b] if kind == Kind::F16 => single(u16::from_le_bytes([a, b])),
        [a, b] => f32::from_bits(u32::from(u16::from_le_bytes([a, b])) << 16),
        _ => 0.0,
    }
}

/// A half by its bits.
fn single(half: u16) -> f32 {
    half::f16::from_bits(half).to_f32_const()
}

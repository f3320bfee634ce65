//! GGUF's weight types: how a block of bytes becomes f32 weights, exactly as the format defines.

use taimatsu_model::GgmlType;

use super::lanes::half_to_single;

/// A weight type that this executor computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
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
}

impl Format {
    /// The format of a tensor type, if there is arithmetic for it here.
    pub(super) const fn of(ty: GgmlType) -> Option<Self> {
        Some(match ty {
            GgmlType::F32 => Self::F32,
            GgmlType::F16 => Self::F16,
            GgmlType::Bf16 => Self::Bf16,
            GgmlType::Q4_0 => Self::Q4_0,
            GgmlType::Q4_1 => Self::Q4_1,
            GgmlType::Q5_0 => Self::Q5_0,
            GgmlType::Q5_1 => Self::Q5_1,
            GgmlType::Q8_0 => Self::Q8_0,
            GgmlType::Q2K => Self::Q2K,
            GgmlType::Q3K => Self::Q3K,
            GgmlType::Q4K => Self::Q4K,
            GgmlType::Q5K => Self::Q5K,
            GgmlType::Q6K => Self::Q6K,
            _ => return None,
        })
    }

    /// Bytes and weights of one block.
    pub(super) const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (4, 1),
            Self::F16 | Self::Bf16 => (2, 1),
            Self::Q4_0 => (18, 32),
            Self::Q4_1 => (20, 32),
            Self::Q5_0 => (22, 32),
            Self::Q5_1 => (24, 32),
            Self::Q8_0 => (34, 32),
            Self::Q2K => (84, 256),
            Self::Q3K => (110, 256),
            Self::Q4K => (144, 256),
            Self::Q5K => (176, 256),
            Self::Q6K => (210, 256),
        }
    }

    /// Bytes of `width` weights; `None` when they are not whole blocks.
    pub(super) fn bytes_of(self, width: usize) -> Option<usize> {
        let (bytes, weights) = self.block();
        width.is_multiple_of(weights).then(|| width / weights * bytes)
    }

    /// Unpacks whole blocks.
    #[inline(always)]
    pub(super) fn unpack(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => each::<4, 1>(bytes, out, |b, o| o[0] = f32::from_le_bytes(*b)),
            Self::F16 => each::<2, 1>(bytes, out, |b, o| o[0] = half(b, 0)),
            Self::Bf16 => each::<2, 1>(bytes, out, |b, o| {
                o[0] = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            }),
            Self::Q4_0 => each(bytes, out, q4_0),
            Self::Q4_1 => each(bytes, out, q4_1),
            Self::Q5_0 => each(bytes, out, q5_0),
            Self::Q5_1 => each(bytes, out, q5_1),
            Self::Q8_0 => each(bytes, out, q8_0),
            Self::Q2K => each(bytes, out, q2_k),
            Self::Q3K => each(bytes, out, q3_k),
            Self::Q4K => each(bytes, out, q4_k),
            Self::Q5K => each(bytes, out, q5_k),
            Self::Q6K => each(bytes, out, q6_k),
        }
    }
}

/// Applies `unpack` to each block of `B` bytes and `W` weights.
#[inline(always)]
fn each<const B: usize, const W: usize>(
    bytes: &[u8],
    out: &mut [f32],
    unpack: impl Fn(&[u8; B], &mut [f32; W]),
) {
    for (block, out) in bytes.as_chunks::<B>().0.iter().zip(out.as_chunks_mut::<W>().0) {
        unpack(block, out);
    }
}

#[inline(always)]
fn half(block: &[u8], at: usize) -> f32 {
    half_to_single(u16::from_le_bytes([block[at], block[at + 1]]))
}

#[inline(always)]
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for j in 0..16 {
        let q = block[2 + j];
        out[j] = (i32::from(q & 0xf) - 8) as f32 * d;
        out[j + 16] = (i32::from(q >> 4) - 8) as f32 * d;
    }
}

#[inline(always)]
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for j in 0..16 {
        let q = block[4 + j];
        out[j] = i32::from(q & 0xf) as f32 * d + m;
        out[j + 16] = i32::from(q >> 4) as f32 * d + m;
    }
}

/// The fifth bits of a block's two halves at place `j`, in bit 4.
#[inline(always)]
fn fifth_bits(high: u32, j: usize) -> (i32, i32) {
    ((((high >> j) & 1) << 4) as i32, (((high >> (j + 16)) & 1) << 4) as i32)
}

#[inline(always)]
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for j in 0..16 {
        let (q, (h0, h1)) = (block[6 + j], fifth_bits(high, j));
        out[j] = ((i32::from(q & 0xf) | h0) - 16) as f32 * d;
        out[j + 16] = ((i32::from(q >> 4) | h1) - 16) as f32 * d;
    }
}

#[inline(always)]
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for j in 0..16 {
        let (q, (h0, h1)) = (block[8 + j], fifth_bits(high, j));
        out[j] = (i32::from(q & 0xf) | h0) as f32 * d + m;
        out[j + 16] = (i32::from(q >> 4) | h1) as f32 * d + m;
    }
}

#[inline(always)]
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for j in 0..32 {
        out[j] = f32::from(block[2 + j].cast_signed()) * d;
    }
}

#[inline(always)]
fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, min) = (half(block, 80), half(block, 82));
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = block[group];
        let (d, m) = (d * f32::from(scale & 0xf), min * f32::from(scale >> 4));
        let from = 16 + group / 8 * 32 + group % 2 * 16;
        let shift = group % 8 / 2 * 2;
        for j in 0..16 {
            out[j] = d * f32::from((block[from + j] >> shift) & 3) - m;
        }
    }
}

#[inline(always)]
fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half(block, 108);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // Scale `group`: four low bits in the first eight bytes, two high ones in the last four.
        let low = (block[96 + group % 8] >> (group / 8 * 4)) & 0xf;
        let high = (block[104 + group % 4] >> (group / 4 * 2)) & 3;
        let d = d * (f32::from(low | (high << 4)) - 32.0);
        let (from, within) = (32 + group / 8 * 32, group % 2 * 16);
        let (shift, bit) = (group % 8 / 2 * 2, group / 2);
        for j in 0..16 {
            let q = i32::from((block[from + within + j] >> shift) & 3);
            let missing = 4 - (i32::from((block[within + j] >> bit) & 1) << 2);
            out[j] = d * (q - missing) as f32;
        }
    }
}

/// Six-bit scale and minimum of sub-block `j` of a Q4_K or Q5_K block.
#[inline(always)]
fn scale_and_min(j: usize, scales: &[u8]) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        let both = scales[j + 4];
        ((both & 0xf) | ((scales[j - 4] >> 6) << 4), (both >> 4) | ((scales[j] >> 6) << 4))
    };
    (f32::from(scale), f32::from(min))
}

#[inline(always)]
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, min) = (half(block, 0), half(block, 2));
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, m) = scale_and_min(group, &block[4..16]);
        let (d, m) = (d * scale, min * m);
        let (from, shift) = (16 + group / 2 * 32, group % 2 * 4);
        for j in 0..32 {
            out[j] = d * f32::from((block[from + j] >> shift) & 0xf) - m;
        }
    }
}

#[inline(always)]
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, min) = (half(block, 0), half(block, 2));
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, m) = scale_and_min(group, &block[4..16]);
        let (d, m) = (d * scale, min * m);
        let (from, shift) = (48 + group / 2 * 32, group % 2 * 4);
        for j in 0..32 {
            let fifth = ((block[16 + j] >> group) & 1) << 4;
            out[j] = d * f32::from(((block[from + j] >> shift) & 0xf) | fifth) - m;
        }
    }
}

#[inline(always)]
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half(block, 208);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let d = d * f32::from(block[192 + group].cast_signed());
        let (part, within) = (group % 8 / 2, group % 2 * 16);
        let low = group / 8 * 64 + part % 2 * 32 + within;
        let high = 128 + group / 8 * 32 + within;
        for j in 0..16 {
            let q = (block[low + j] >> (part / 2 * 4)) & 0xf;
            let top = (block[high + j] >> (part * 2)) & 3;
            out[j] = d * (i32::from(q | (top << 4)) - 32) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::GgmlDType;
    use proptest::prelude::*;

    use super::*;

    const ALL: [(Format, GgmlDType); 13] = [
        (Format::F32, GgmlDType::F32),
        (Format::F16, GgmlDType::F16),
        (Format::Bf16, GgmlDType::BF16),
        (Format::Q4_0, GgmlDType::Q4_0),
        (Format::Q4_1, GgmlDType::Q4_1),
        (Format::Q5_0, GgmlDType::Q5_0),
        (Format::Q5_1, GgmlDType::Q5_1),
        (Format::Q8_0, GgmlDType::Q8_0),
        (Format::Q2K, GgmlDType::Q2K),
        (Format::Q3K, GgmlDType::Q3K),
        (Format::Q4K, GgmlDType::Q4K),
        (Format::Q5K, GgmlDType::Q5K),
        (Format::Q6K, GgmlDType::Q6K),
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// candle-core, written by others, reads every type to the same bits.
        #[test]
        fn weights_are_what_candle_reads(bytes in proptest::collection::vec(any::<u8>(), 1024)) {
            for (format, theirs) in ALL {
                let (size, width) = format.block();
                let used = bytes.len() / size * size;
                let mut out = vec![0.0; used / size * width];
                super::super::lanes::widest(|| format.unpack(&bytes[..used], &mut out));
                let storage = theirs.from_data(std::borrow::Cow::Borrowed(&bytes[..used]));
                let read = storage.dequantize(out.len()).unwrap();
                let candle_core::CpuStorage::F32(read) = read else { panic!("not f32") };
                for (ours, theirs) in out.iter().zip(&read) {
                    prop_assert!(
                        ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                        "{format:?}: {ours} {theirs}"
                    );
                }
            }
        }
    }
}

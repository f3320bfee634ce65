//! Sixteen lanes on four kinds of CPU, and the choice between them.
//!
//! Every operation here has one result, whatever the CPU: additions, products, quotients and fused
//! multiply-adds of IEEE binary32, and exact integers. A kernel written over [`Simd`] is therefore
//! the same function on all of them, and its scalar instance is the specification in code.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::fmt;
use std::sync::OnceLock;

pub(crate) use scalar::Scalar;

/// Lanes of every vector here.
pub(crate) const LANES: usize = 16;

/// What a CPU has of what the kernels can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Any CPU.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// AArch64 with NEON: all of them.
    Neon,
    /// AArch64 with NEON and dot products of bytes.
    NeonDot,
}

impl Level {
    /// The best that this CPU has.
    #[must_use]
    pub fn detect() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| *Self::all().last().unwrap_or(&Self::Scalar))
    }

    /// All that this CPU has, worst first.
    #[must_use]
    pub fn all() -> Vec<Self> {
        [Self::Scalar, Self::Avx2, Self::Avx512, Self::Neon, Self::NeonDot]
            .into_iter()
            .filter(|level| level.is_here())
            .collect()
    }

    #[cfg(target_arch = "x86_64")]
    fn is_here(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Avx2 => avx2::Avx2::detect().is_some(),
            Self::Avx512 => avx512::Avx512::detect().is_some(),
            Self::Neon | Self::NeonDot => false,
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn is_here(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Avx2 | Self::Avx512 => false,
            Self::Neon => neon::Neon::<false>::detect().is_some(),
            Self::NeonDot => neon::Neon::<true>::detect().is_some(),
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn is_here(self) -> bool {
        self == Self::Scalar
    }

    /// Runs a kernel with the instructions of this level; with fewer where the CPU lacks them.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        {
            if self == Self::Avx512
                && let Some(simd) = avx512::Avx512::detect()
            {
                return simd.enter(kernel);
            }
            if matches!(self, Self::Avx2 | Self::Avx512)
                && let Some(simd) = avx2::Avx2::detect()
            {
                return simd.enter(kernel);
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            if self == Self::NeonDot
                && let Some(simd) = neon::Neon::<true>::detect()
            {
                return simd.enter(kernel);
            }
            if matches!(self, Self::Neon | Self::NeonDot)
                && let Some(simd) = neon::Neon::<false>::detect()
            {
                return simd.enter(kernel);
            }
        }
        kernel.run(Scalar)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
            Self::NeonDot => "neon+dotprod",
        })
    }
}

/// Work that can be compiled for each level. `run` must be `#[inline(always)]`, and so must all
/// that it calls, for the instructions to reach it.
pub(crate) trait Kernel {
    /// What comes out.
    type Output;

    /// The work.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Sixteen lanes of f32 and i32, 64 bytes, and exact dot products of bytes. A value of the type is
/// the proof that the CPU has the instructions.
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Four unsigned bytes in each of sixteen lanes.
    type B: Copy;
    /// A sum of byte products that is not whole yet.
    type A: Copy;

    fn splat(self, value: f32) -> Self::F;
    fn load(self, from: &[f32; LANES]) -> Self::F;
    fn store(self, value: Self::F, to: &mut [f32; LANES]);
    /// Sixteen IEEE halves, exactly.
    fn halves(self, from: &[u16; LANES]) -> Self::F;
    /// To the nearest halves, ties to even; of values that a half can hold.
    fn store_halves(self, value: Self::F, to: &mut [u16; LANES]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger, of values that are numbers.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller, of values that are numbers.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The nearest whole number, ties to even.
    fn nearest(self, a: Self::F) -> Self::F;
    /// Two to the power of a whole number from -126 to 127.
    fn pow2(self, a: Self::F) -> Self::F;
    /// The bits without the sign, as integers: they order as magnitudes do, NaN above all.
    fn magnitude(self, a: Self::F) -> Self::I;

    fn splat_i(self, value: i32) -> Self::I;
    fn store_i(self, value: Self::I, to: &mut [i32; LANES]);
    /// Sixteen integers from -128 to 127, as bytes.
    #[inline(always)]
    fn store_bytes(self, value: Self::I, to: &mut [i32; 4]) {
        let mut lanes = [0; LANES];
        self.store_i(value, &mut lanes);
        for (word, four) in to.iter_mut().zip(lanes.as_chunks::<4>().0) {
            *word = i32::from_le_bytes(four.map(|number| number as u8));
        }
    }
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The low 32 bits of the product.
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// To the nearest f32, ties to even.
    fn to_f(self, a: Self::I) -> Self::F;
    /// To the nearest integer, ties to even; of magnitudes below 2^31.
    fn to_i(self, a: Self::F) -> Self::I;
    fn signed(self, from: &[i8; LANES]) -> Self::I;
    fn unsigned(self, from: &[u8; LANES]) -> Self::I;

    fn bytes(self, from: &[u8; 64]) -> Self::B;
    /// The low four bits of every byte.
    fn low(self, a: Self::B) -> Self::B;
    /// The high four bits of every byte.
    fn high(self, a: Self::B) -> Self::B;
    /// Bit `bit` of every byte, as bit 4.
    fn fifth(self, a: Self::B, bit: u32) -> Self::B;
    /// Bits `2 x pair` and above of every byte, as bits 4 and 5.
    fn sixth(self, a: Self::B, pair: u32) -> Self::B;
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// Every byte's entry in a table; of bytes below 16.
    fn look_up(self, a: Self::B, table: &[u8; 16]) -> Self::B;

    fn none(self) -> Self::A;
    /// Adds, per lane, the four products of unsigned bytes with `with`. Exact for up to
    /// [`steps`]`(bits)` calls before [`whole`](Self::whole).
    fn dot(self, sum: Self::A, a: Self::B, with: i32) -> Self::A;
    fn whole(self, sum: Self::A) -> Self::I;
    /// As [`dot`](Self::dot), whole at once, for bytes of any size.
    fn dot_bytes(self, sum: Self::I, a: Self::B, with: i32) -> Self::I;
    /// Adds, per lane, the two products of signed 16-bit pairs, `with` holding one pair.
    fn dot_pairs(self, sum: Self::I, a: Self::I, with: i32) -> Self::I;
    /// Sixteen pairs of unsigned bytes, widened to 16 bits each.
    fn pairs(self, from: &[u8; 32]) -> Self::I;
}

/// Asks memory for the bytes that come [`AHEAD`] after these. A hint: it changes no result, and may
/// point behind the end.
#[inline(always)]
pub(crate) fn fetch_ahead(bytes: &[u8]) {
    fetch(bytes.as_ptr().wrapping_add(AHEAD), bytes.len());
}

/// Asks memory for bytes that will be read soon: the same, wherever they are.
#[inline(always)]
pub(crate) fn fetch<T>(first: *const T, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        // SAFETY: every x86-64 has the instruction; it reads nothing, wherever it points.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(first.wrapping_byte_add(line).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (first, bytes);
}

/// A page: what the CPU's own prefetching does not cross. Measured best of 1 to 16 KiB.
const AHEAD: usize = 4096;

/// How many byte dot products an unfinished sum holds exactly, for weights of so many bits:
/// pairs of products are summed in 16 bits, and one product is at most `(2^bits - 1) * 127`.
pub(crate) const fn steps(bits: u32) -> usize {
    (i16::MAX as usize) / (2 * ((1 << bits) - 1) * 127)
}

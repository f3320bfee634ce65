//! Sixteen lanes in one register.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};

/// A CPU with AVX-512 F, BW, DQ, VL and VNNI, and what comes before them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// If this CPU is one.
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        let here = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        here.then_some(Self(()))
    }

    /// Runs a kernel compiled for it.
    #[inline]
    pub(crate) fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn inside<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: a value of this type proves that the CPU has these instructions.
        unsafe { inside(self, kernel) }
    }
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    type A = __m512i;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::F {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; LANES]) {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            _mm512_storeu_ps(to.as_mut_ptr(), value);
        }
    }

    #[inline(always)]
    fn halves(self, from: &[u16; LANES]) -> Self::F {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store_halves(self, value: Self::F, to: &mut [u16; LANES]) {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            _mm256_storeu_si256(
                to.as_mut_ptr().cast(),
                _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value),
            );
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn nearest(self, a: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn pow2(self, a: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let n = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(n))
        }
    }

    #[inline(always)]
    fn magnitude(self, a: Self::F) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(i32::MAX)) }
    }

    #[inline(always)]
    fn splat_i(self, value: i32) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn store_i(self, value: Self::I, to: &mut [i32; LANES]) {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            _mm512_storeu_si512(to.as_mut_ptr().cast(), value);
        }
    }

    #[inline(always)]
    fn store_bytes(self, value: Self::I, to: &mut [i32; 4]) {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(value));
        }
    }

    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_max_epi32(a, b) }
    }

    #[inline(always)]
    fn to_f(self, a: Self::I) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_cvtepi32_ps(a) }
    }

    #[inline(always)]
    fn to_i(self, a: Self::F) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_cvtps_epi32(a) }
    }

    #[inline(always)]
    fn signed(self, from: &[i8; LANES]) -> Self::I {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn unsigned(self, from: &[u8; LANES]) -> Self::I {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; 64]) -> Self::B {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn low(self, a: Self::B) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_and_si512(a, _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    fn high(self, a: Self::B) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(a), _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    fn fifth(self, a: Self::B, bit: u32) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let moved = _mm512_sll_epi16(
                _mm512_srl_epi16(a, _mm_cvtsi32_si128(bit as i32)),
                _mm_cvtsi32_si128(4),
            );
            _mm512_and_si512(moved, _mm512_set1_epi8(16))
        }
    }

    #[inline(always)]
    fn sixth(self, a: Self::B, pair: u32) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let moved = _mm512_sll_epi16(
                _mm512_srl_epi16(a, _mm_cvtsi32_si128(2 * pair as i32)),
                _mm_cvtsi32_si128(4),
            );
            _mm512_and_si512(moved, _mm512_set1_epi8(48))
        }
    }

    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn look_up(self, a: Self::B, table: &[u8; 16]) -> Self::B {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), a)
        }
    }

    #[inline(always)]
    fn none(self) -> Self::A {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn dot(self, sum: Self::A, a: Self::B, with: i32) -> Self::A {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_dpbusd_epi32(sum, a, _mm512_set1_epi32(with)) }
    }

    #[inline(always)]
    fn whole(self, sum: Self::A) -> Self::I {
        sum
    }

    #[inline(always)]
    fn dot_bytes(self, sum: Self::I, a: Self::B, with: i32) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_dpbusd_epi32(sum, a, _mm512_set1_epi32(with)) }
    }

    #[inline(always)]
    fn dot_pairs(self, sum: Self::I, a: Self::I, with: i32) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { _mm512_dpwssd_epi32(sum, a, _mm512_set1_epi32(with)) }
    }

    #[inline(always)]
    fn pairs(self, from: &[u8; 32]) -> Self::I {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe { _mm512_cvtepu8_epi16(_mm256_loadu_si256(from.as_ptr().cast())) }
    }
}

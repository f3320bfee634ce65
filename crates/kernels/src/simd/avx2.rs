//! Sixteen lanes in two registers.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};

/// A CPU with AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// If this CPU is one.
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        let here = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        here.then_some(Self(()))
    }

    /// Runs a kernel compiled for it.
    #[inline]
    pub(crate) fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inside<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: a value of this type proves that the CPU has these instructions.
        unsafe { inside(self, kernel) }
    }
}

impl Simd for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type B = [__m256i; 2];
    type A = [__m256i; 2];

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::F {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; LANES]) {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let to = to.as_mut_ptr();
            _mm256_storeu_ps(to, value[0]);
            _mm256_storeu_ps(to.add(8), value[1]);
        }
    }

    #[inline(always)]
    fn halves(self, from: &[u16; LANES]) -> Self::F {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let from = from.as_ptr();
            [
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
            ]
        }
    }

    #[inline(always)]
    fn store_halves(self, value: Self::F, to: &mut [u16; LANES]) {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let to = to.as_mut_ptr();
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(value[0]));
            _mm_storeu_si128(
                to.add(8).cast(),
                _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(value[1]),
            );
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn nearest(self, a: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            [
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[0]),
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[1]),
            ]
        }
    }

    #[inline(always)]
    fn pow2(self, a: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            [
                {
                    let a = a[0];
                    let n = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
                },
                {
                    let a = a[1];
                    let n = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
                },
            ]
        }
    }

    #[inline(always)]
    fn magnitude(self, a: Self::F) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            [
                _mm256_and_si256(_mm256_castps_si256(a[0]), _mm256_set1_epi32(i32::MAX)),
                _mm256_and_si256(_mm256_castps_si256(a[1]), _mm256_set1_epi32(i32::MAX)),
            ]
        }
    }

    #[inline(always)]
    fn splat_i(self, value: i32) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_set1_epi32(value); 2] }
    }

    #[inline(always)]
    fn store_i(self, value: Self::I, to: &mut [i32; LANES]) {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let to = to.as_mut_ptr();
            _mm256_storeu_si256(to.cast(), value[0]);
            _mm256_storeu_si256(to.add(8).cast(), value[1]);
        }
    }

    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_max_epi32(a[0], b[0]), _mm256_max_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn to_f(self, a: Self::I) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    }

    #[inline(always)]
    fn to_i(self, a: Self::F) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1])] }
    }

    #[inline(always)]
    fn signed(self, from: &[i8; LANES]) -> Self::I {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let from = from.as_ptr();
            [
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())),
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.add(8).cast())),
            ]
        }
    }

    #[inline(always)]
    fn unsigned(self, from: &[u8; LANES]) -> Self::I {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let from = from.as_ptr();
            [
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())),
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(8).cast())),
            ]
        }
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; 64]) -> Self::B {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let from = from.as_ptr();
            [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())]
        }
    }

    #[inline(always)]
    fn low(self, a: Self::B) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let mask = _mm256_set1_epi8(15);
            [_mm256_and_si256(a[0], mask), _mm256_and_si256(a[1], mask)]
        }
    }

    #[inline(always)]
    fn high(self, a: Self::B) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let moved = [_mm256_srli_epi16::<4>(a[0]), _mm256_srli_epi16::<4>(a[1])];
            self.low(moved)
        }
    }

    #[inline(always)]
    fn fifth(self, a: Self::B, bit: u32) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            [
                {
                    let a = a[0];
                    let moved = _mm256_sll_epi16(
                        _mm256_srl_epi16(a, _mm_cvtsi32_si128(bit as i32)),
                        _mm_cvtsi32_si128(4),
                    );
                    _mm256_and_si256(moved, _mm256_set1_epi8(16))
                },
                {
                    let a = a[1];
                    let moved = _mm256_sll_epi16(
                        _mm256_srl_epi16(a, _mm_cvtsi32_si128(bit as i32)),
                        _mm_cvtsi32_si128(4),
                    );
                    _mm256_and_si256(moved, _mm256_set1_epi8(16))
                },
            ]
        }
    }

    #[inline(always)]
    fn sixth(self, a: Self::B, pair: u32) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            [
                {
                    let a = a[0];
                    let moved = _mm256_sll_epi16(
                        _mm256_srl_epi16(a, _mm_cvtsi32_si128(2 * pair as i32)),
                        _mm_cvtsi32_si128(4),
                    );
                    _mm256_and_si256(moved, _mm256_set1_epi8(48))
                },
                {
                    let a = a[1];
                    let moved = _mm256_sll_epi16(
                        _mm256_srl_epi16(a, _mm_cvtsi32_si128(2 * pair as i32)),
                        _mm_cvtsi32_si128(4),
                    );
                    _mm256_and_si256(moved, _mm256_set1_epi8(48))
                },
            ]
        }
    }

    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }

    #[inline(always)]
    fn look_up(self, a: Self::B, table: &[u8; 16]) -> Self::B {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [_mm256_shuffle_epi8(table, a[0]), _mm256_shuffle_epi8(table, a[1])]
        }
    }

    #[inline(always)]
    fn none(self) -> Self::A {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn dot(self, sum: Self::A, a: Self::B, with: i32) -> Self::A {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let with = _mm256_set1_epi32(with);
            [
                _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(a[0], with)),
                _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(a[1], with)),
            ]
        }
    }

    #[inline(always)]
    fn whole(self, sum: Self::A) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            [
                _mm256_madd_epi16(sum[0], _mm256_set1_epi16(1)),
                _mm256_madd_epi16(sum[1], _mm256_set1_epi16(1)),
            ]
        }
    }

    #[inline(always)]
    fn dot_bytes(self, sum: Self::I, a: Self::B, with: i32) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let with = _mm256_set1_epi32(with);
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(with));
            let odd = _mm256_srai_epi16::<8>(with);
            let mask = _mm256_set1_epi16(255);
            let low = [_mm256_and_si256(a[0], mask), _mm256_and_si256(a[1], mask)];
            let high = [_mm256_srli_epi16::<8>(a[0]), _mm256_srli_epi16::<8>(a[1])];
            let first =
                _mm256_add_epi32(_mm256_madd_epi16(low[0], even), _mm256_madd_epi16(high[0], odd));
            let second =
                _mm256_add_epi32(_mm256_madd_epi16(low[1], even), _mm256_madd_epi16(high[1], odd));
            [_mm256_add_epi32(sum[0], first), _mm256_add_epi32(sum[1], second)]
        }
    }

    #[inline(always)]
    fn dot_pairs(self, sum: Self::I, a: Self::I, with: i32) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let with = _mm256_set1_epi32(with);
            let both = [_mm256_madd_epi16(a[0], with), _mm256_madd_epi16(a[1], with)];
            [_mm256_add_epi32(sum[0], both[0]), _mm256_add_epi32(sum[1], both[1])]
        }
    }

    #[inline(always)]
    fn pairs(self, from: &[u8; 32]) -> Self::I {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let from = from.as_ptr();
            [
                _mm256_cvtepu8_epi16(_mm_loadu_si128(from.cast())),
                _mm256_cvtepu8_epi16(_mm_loadu_si128(from.add(16).cast())),
            ]
        }
    }
}
